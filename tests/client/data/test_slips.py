"""One slip away: what is looked up is what a list of all slips would tell."""

from __future__ import annotations

import pytest

from client.deidentification.lexicon import one_slip_away
from client.deidentification.slips import Slips

WORDS = {"letter", "co-op", "it's", "ward", "a"}


@pytest.mark.parametrize(
    "word",
    ["letter", "leter", "lettter", "lettre", "lexter", "letters", "xletter", "co-po", "coxop",
     "coop", "its", "it", "wadr", "", "b", "lettres", "leyyer", "łetter", "we"],
)  # fmt: skip
def test_it_tells_what_a_list_of_slips_would(word: str) -> None:
    listed = any(other in WORDS for other in one_slip_away(word))
    assert Slips(WORDS).near(word) == listed


def test_every_slip_of_a_word_is_near_it() -> None:
    slips = Slips({"letter"})
    for slip in one_slip_away("letter"):
        assert slips.near(slip)
    assert not slips.near("lettuce")
