"""Labelled spans: read strictly, stored canonically, carried over stand-ins."""

from __future__ import annotations

import json
from typing import Any

import pytest

from client.deidentification.pipeline import Deidentified
from client.deidentification.replacement import Replacement
from client.labelled_spans import (
    LabelledSpan,
    MalformedSpans,
    read_spans,
    spans_after,
    stored_spans,
)

TEXT = "Ann has a rash"


def span(start: Any, end: Any, label: Any = "SIGN", **more: Any) -> dict[str, Any]:
    return {"start": start, "end": end, "label": label, **more}


def read(*items: Any) -> tuple[LabelledSpan, ...]:
    return read_spans(json.dumps(items), TEXT, "notes.jsonl, line 3")


def test_spans_are_read_in_order_and_stored() -> None:
    spans = read(span(10, 14, text="rash"), span(0, 3, " NAME "))
    assert spans == (LabelledSpan(0, 3, "NAME"), LabelledSpan(10, 14, "SIGN"))
    assert stored_spans(spans) == '[[0,3,"NAME"],[10,14,"SIGN"]]'
    assert stored_spans(read()) == "[]"


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([span(0, 4), span(3, 6)], "two spans overlap"),
        ([span(0, 4), span(0, 4)], "two spans overlap"),
        ([span(0, 99)], "span 1: start and end are none"),
        ([span(-1, 3)], "start and end"),
        ([span(3, 3)], "start and end"),
        ([span(0, 3), span("4", 5)], "span 2: start and end"),
        ([span(True, 3)], "start and end"),
        ([span(0, 3, " ")], "has no label"),
        ([span(0, 3, 7)], "has no label"),
        ([span(0, 3, text="Anne")], "its text is not what stands there"),
        ([span(0, 3, colour="red")], "exactly start, end, label"),
        ([{"start": 0, "end": 3}], "exactly start, end, label"),
        ([[0, 3, "NAME"]], "exactly start, end, label"),
    ],
)
def test_spans_that_are_none_are_refused_without_a_value(items: list[Any], message: str) -> None:
    with pytest.raises(MalformedSpans, match=message) as caught:
        read(*items)
    assert str(caught.value).startswith("notes.jsonl, line 3")
    assert "Ann" not in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize("value", ["", "rash", "{}", '"x"', "[" * 100_000, "null"])
def test_what_is_no_list_is_refused(value: str) -> None:
    with pytest.raises(MalformedSpans):
        read_spans(value, TEXT, "line 2")


def outcome(*replacements: Replacement) -> Deidentified:
    return Deidentified("x" * 40, {}, replacements)


def test_a_label_stays_over_the_whole_stand_in() -> None:
    name = Replacement(0, 3, 0, 8)
    spans = (LabelledSpan(1, 5, "NAME"), LabelledSpan(10, 14, "SIGN"))
    assert spans_after(spans, outcome(name)) == (
        LabelledSpan(0, 10, "NAME"),
        LabelledSpan(15, 19, "SIGN"),
    )
    assert spans_after(spans, outcome()) == spans


def test_two_spans_in_one_identifier_cannot_be_told_apart() -> None:
    spans = (LabelledSpan(0, 5, "GIVEN"), LabelledSpan(6, 11, "FAMILY"))
    assert spans_after(spans, outcome(Replacement(0, 11, 0, 9))) is None
    assert spans_after(spans, outcome(Replacement(0, 5, 0, 9))) is not None
    assert spans_after(spans[:1], outcome(Replacement(0, 11, 0, 0))) is None
