"""The benchmark's planted identifiers stand where its labels say, and the same seed plants them."""

from __future__ import annotations

import random

from bench.planted import FORMS, FORMS_A_NOTE, GIVEN, Person, left_of, planted_note
from client.deidentification.measurement import LabelledSpan, LabelledText
from client.deidentification.pipeline import Deidentified, Quarantined, Reason
from client.deidentification.replacement import Replacement

TEXT = "Eight snorers were studied. Results were clear. No difference was found."


def note(seed: int, text: str = TEXT) -> LabelledText:
    return planted_note(text, Person(GIVEN[0], "van der Merwe", random.Random(seed)))


def test_each_identifier_stands_where_it_is_labelled() -> None:
    openings = {words.partition("{}")[0] for _, words, _ in FORMS}
    for seed in range(40):
        made = note(seed)
        text = made.full_text
        assert len(made.spans) == FORMS_A_NOTE
        for span in made.spans:
            before = text[: span.start_position]
            assert any(before.endswith(opening) for opening in openings if opening) or not before
            assert text[span.start_position : span.end_position].strip()
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
    assert left_of(text, half) == [0.5, 1.0]
    assert left_of(text, Deidentified("")) == [1.0, 1.0]
    assert left_of(text, Quarantined(Reason.NOT_TEXT)) == [0.0, 0.0]


def test_the_same_seed_plants_the_same() -> None:
    assert note(3) == note(3)
    assert note(3) != note(4)


def test_every_form_makes_something_to_look_for() -> None:
    for kind, words, make in FORMS:
        person = Person("Kaito", "Przybylski", random.Random(1))
        assert words.count("{}") == 1, kind
        made = {make(person) for _ in range(20)}
        assert all(len(value.strip()) > 1 for value in made), kind
