"""Labelled parts of a text: as a file says them, as the vault stores them, and across stand-ins.

* In a file, a list of objects `{"start": 4, "end": 9, "label": "SYMPTOM"}`; in CSV, that list as
  JSON in a cell. A span may carry its `text` too, which must then be what stands there.
* Offsets count characters (Unicode code points) from 0; `end` is one past the last.
* Spans of a text are disjoint. The vault keeps them in order, as canonical JSON
  `[[4,9,"SYMPTOM"], …]`.
* A span that overlaps an identifier keeps its label over the whole stand-in. Where two spans
  overlap one identifier, their parts of its stand-in cannot be told apart, and the record is kept
  out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from audit.canonical import canonical_bytes
from audit.errors import MalformedInput
from audit.words import count_of
from client.deidentification.pipeline import Deidentified

MAX_SPANS = 10_000
"""More than a text of `MAX_TEXT_CHARACTERS` can sensibly hold."""

_KEYS = {"start", "end", "label"}


@dataclass(frozen=True, order=True)
class LabelledSpan:
    """Characters `[start, end)` of a text, and their label."""

    start: int
    end: int
    label: str


class MalformedSpans(MalformedInput):
    """Spans that are none of their text."""

    code = "malformed-spans"


def read_spans(value: str, text: str, place: str) -> tuple[LabelledSpan, ...]:
    """The spans of a text, in order.

    Args:
        value: JSON, as the file has it.
        text: The text that they are of.
        place: Where in which file, for errors: they name no value.

    Raises:
        MalformedSpans: When it is no list of disjoint labelled spans of the text.
    """
    try:
        listed = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise _malformed(place, "spans are not JSON") from error
    if not isinstance(listed, list) or len(listed) > MAX_SPANS:
        raise _malformed(place, f"spans are no list of at most {MAX_SPANS:,}")
    spans = sorted(_span(item, text, f"{place}, span {n}") for n, item in enumerate(listed, 1))
    if any(later.start < earlier.end for earlier, later in pairwise(spans)):
        raise _malformed(place, "two spans overlap")
    return tuple(spans)


def stored_spans(spans: Sequence[LabelledSpan]) -> str:
    """As the vault stores them.

    >>> stored_spans([LabelledSpan(4, 9, "SYMPTOM")])
    '[[4,9,"SYMPTOM"]]'
    """
    return canonical_bytes([[span.start, span.end, span.label] for span in spans]).decode()


def spans_after(
    spans: Sequence[LabelledSpan], outcome: Deidentified
) -> tuple[LabelledSpan, ...] | None:
    """The spans over the de-identified text; None where two of them share a stand-in."""
    after = [LabelledSpan(*outcome.moved(span.start, span.end), span.label) for span in spans]
    apart = all(earlier.end <= later.start for earlier, later in pairwise(after))
    if not apart or any(span.start >= span.end for span in after):
        return None
    return tuple(after)


def _span(item: Any, text: str, place: str) -> LabelledSpan:
    if not isinstance(item, dict) or not _KEYS <= set(item) <= _KEYS | {"text"}:
        raise _malformed(place, "it has not exactly start, end, label and perhaps text")
    start, end, label = item["start"], item["end"], item["label"]
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= len(text):
        raise _malformed(
            place, f"start and end are none of a text of {count_of(len(text), 'character')}"
        )
    if not isinstance(label, str) or not label.strip():
        raise _malformed(place, "it has no label")
    if "text" in item and item["text"] != text[start:end]:
        raise _malformed(place, "its text is not what stands there")
    return LabelledSpan(start, end, label.strip())


def _malformed(place: str, reason: str) -> MalformedSpans:
    return MalformedSpans(
        f"{place}: {reason}",
        fix='write [{"start": 0, "end": 4, "label": "…"}, …], counting characters from 0, without'
        " overlap",
    )
