"""The benchmark's planted identifiers stand where its labels say, and the same seed plants them."""

from __future__ import annotations

import random

import pytest

from bench.planted import Left, left_of
from bench.planted_forms import FAMILIES, FORMS_A_NOTE, SEEN, Family, Person, only_links
from client.deidentification.measurement import LabelledSpan, LabelledText
from client.deidentification.pipeline import Deidentified, Quarantined, Reason
from client.deidentification.replacement import Replacement

TEXT = "Eight snorers were studied. Results were clear. No difference was found."


families = pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))


def note(seed: int, family: Family = SEEN) -> LabelledText:
    return family.note(TEXT, random.Random(seed))


@families
def test_each_identifier_stands_where_it_is_labelled(family: Family) -> None:
    for seed in range(40):
        made = note(seed, family)
        text = made.full_text
        assert len(made.spans) == FORMS_A_NOTE
        for span in made.spans:
            planted = text[span.start_position : span.end_position]
            before, after = text[: span.start_position], text[span.end_position :]
            assert planted.strip()
            assert any(
                before.endswith(words.partition("{}")[0])
                and after.startswith(words.partition("{}")[2])
                for kind, words, _ in family.forms
                if kind == span.entity_type
            )
        for sentence in ("Eight snorers were studied", "No difference was found"):
            assert sentence in text


def test_what_is_left_is_counted_by_character() -> None:
    text = LabelledText(
        full_text="Ann Lee rang Bo",
        spans=(
            LabelledSpan(entity_type="name", start_position=0, end_position=7),
            LabelledSpan(entity_type="name", start_position=13, end_position=15),
        ),
    )
    half = Deidentified("", {}, (Replacement(0, 4, 0, 0),))
    assert left_of(text, half) == [Left.PART, Left.WHOLE]
    assert left_of(text, Deidentified("")) == [Left.WHOLE, Left.WHOLE]
    assert left_of(text, Quarantined(Reason.NOT_TEXT)) == [Left.NOTHING, Left.NOTHING]


def test_a_word_that_joins_is_told_from_a_part_of_the_identifier() -> None:
    email = "kai dot ito at x.example"
    text = LabelledText(
        full_text=email,
        spans=(LabelledSpan(entity_type="email", start_position=0, end_position=len(email)),),
    )
    joined = Deidentified("", {}, (Replacement(0, 3, 0, 0), Replacement(8, 11, 0, 0)))
    assert left_of(text, joined) == [Left.PART]
    rest = Replacement(15, len(email), 0, 0)
    assert left_of(text, Deidentified("", {}, (*joined.replacements, rest))) == [Left.LINKS]
    assert not only_links("dotty", [0, 0, 0, 1, 1])


def test_the_same_seed_plants_the_same() -> None:
    assert note(3) == note(3)
    assert note(3) != note(4)


@families
def test_every_form_makes_something_to_look_for(family: Family) -> None:
    for kind, words, make in family.forms:
        person = Person("Kaito", "Przybylski", random.Random(1))
        assert words.count("{}") == 1, kind
        made = {make(person) for _ in range(20)}
        assert all(len(value.strip()) > 1 for value in made), kind
