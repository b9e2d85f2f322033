"""Examples and the split by subject."""

from __future__ import annotations

from decimal import Decimal

import pytest

from audit.errors import MalformedInput
from client.learning.data import Example, examples_from_records, split_by_subject

RECORDS = [(f"subject-{n % 400}", f"text {n}", ("yes", "no")[n % 2]) for n in range(1000)]
EXAMPLES = examples_from_records(RECORDS, ("no", "yes"))


def test_labels_become_positions_in_the_plan() -> None:
    assert EXAMPLES[0] == Example(subject="subject-0", text="text 0", label=1)
    assert EXAMPLES[1].label == 0


def test_a_label_that_the_plan_does_not_name_is_refused() -> None:
    with pytest.raises(MalformedInput, match="label 'maybe' is not one of the plan's 2 labels"):
        examples_from_records([("s", "t", "maybe")], ("no", "yes"))


def test_a_subjects_records_stay_together_and_the_share_is_about_right() -> None:
    training, held_out = split_by_subject(EXAMPLES, Decimal("0.2"), b"secret")
    assert sorted(training + held_out, key=lambda e: e.text) == sorted(
        EXAMPLES, key=lambda e: e.text
    )
    subjects = [{example.subject for example in side} for side in (training, held_out)]
    assert not subjects[0] & subjects[1]
    assert 40 < len(subjects[1]) < 125  # 80 of 400 expected, 8 standard deviation


def test_the_split_is_repeatable_and_depends_on_the_secret_and_the_subject_only() -> None:
    split = split_by_subject(EXAMPLES, 0.3, b"secret")
    assert split == split_by_subject(EXAMPLES, Decimal("0.3"), b"secret")
    assert split != split_by_subject(EXAMPLES, 0.3, b"other")
    fewer = split_by_subject(EXAMPLES[::2], 0.3, b"secret")
    assert fewer[1] == [example for example in split[1] if example in EXAMPLES[::2]]
    larger = split_by_subject(EXAMPLES, 0.5, b"secret")
    assert {e.subject for e in split[1]} < {e.subject for e in larger[1]}


@pytest.mark.parametrize("share", [0, 1, -0.5, 2])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="held_out_share"):
        split_by_subject(EXAMPLES, share, b"secret")
