"""How well a detector does on labelled text: what share of identifying characters it finds.

The measure is label-agnostic: a surname found as a town is found. White space does not count. A
*leak* is a document in which at least one identifying character is missed, so it is the strictest
figure here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, NamedTuple

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from audit.errors import MalformedInput, NotFound
from client.deidentification.findings import Finding, covered
from compliance.statements import first_problem

LABELLED_FORMAT: Final = (
    'give a JSON list of texts: [{"full_text": "Ann left", "spans": [{"entity_type": "PERSON", '
    '"start_position": 0, "end_position": 3}]}, …]'
)


class LabelledSpan(BaseModel):
    """One identifying span, as presidio-research writes it."""

    entity_type: str
    start_position: Annotated[int, Field(ge=0)]
    end_position: Annotated[int, Field(ge=0)]


class LabelledText(BaseModel):
    """A text of which every identifying span is known."""

    full_text: str
    spans: tuple[LabelledSpan, ...]


class CharacterCounts(NamedTuple):
    """Characters of one text, white space left out.

    Attributes:
        identifying: Those that identify somebody.
        found: How many of these were found.
        marked: Those that were found to identify somebody, rightly or not.
    """

    identifying: int
    found: int
    marked: int


@dataclass(frozen=True)
class Measurement:
    """What was found of what is there.

    Attributes:
        documents: Texts measured.
        character_recall: Share of identifying characters that were found, in [0, 1].
        character_precision: Share of found characters that are identifying, in [0, 1].
        documents_with_leak: Share of texts in which at least one identifying character was missed.
        full_span_recall: By entity type, the share of spans that were found whole.
        counts: Of each text.
        spans: By entity type, how many spans there are.
        whole_spans: By entity type, how many were found whole.
    """

    documents: int
    character_recall: float
    character_precision: float
    documents_with_leak: float
    full_span_recall: dict[str, float]
    counts: tuple[CharacterCounts, ...] = ()
    spans: Mapping[str, int] = field(default_factory=dict)
    whole_spans: Mapping[str, int] = field(default_factory=dict)


def read_labelled(path: Path) -> list[LabelledText]:
    """Read a file in the format of presidio-research: a JSON list of texts with spans.

    Raises:
        NotFound: When there is no such file.
        MalformedInput: When it is something else, holds no text, or a span is no part
            of its text.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        labelled = TypeAdapter(list[LabelledText]).validate_python(content)
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}", fix="check the path") from error
    except ValidationError as error:
        raise MalformedInput(
            f"malformed labelled text: {first_problem(error)}", fix=LABELLED_FORMAT
        ) from error
    except (ValueError, RecursionError, IsADirectoryError) as error:
        raise MalformedInput(f"{path.name} is not JSON", fix=LABELLED_FORMAT) from error
    if not labelled:
        raise MalformedInput(f"{path.name} holds no text", fix=LABELLED_FORMAT)
    for number, document in enumerate(labelled):
        for span in document.spans:
            if not span.start_position < span.end_position <= len(document.full_text):
                raise MalformedInput(
                    f"malformed labelled text: {number}.spans: {span.start_position} to "
                    f"{span.end_position} is no part of a text of {len(document.full_text)} "
                    "characters",
                    fix="positions count characters from 0, and the end is one past the last",
                )
    return labelled


def measure(labelled: Sequence[LabelledText], found: Iterable[Sequence[Finding]]) -> Measurement:
    """Compare findings with labels.

    Args:
        labelled: Texts with their spans.
        found: The findings of each text, in the same order.
    """
    counts: list[CharacterCounts] = []
    spans: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for document, findings in zip(labelled, found, strict=True):
        text = document.full_text
        mask = covered(text, findings)
        truth = [Finding(s.start_position, s.end_position, "") for s in document.spans]
        counts.append(count_characters(text, covered(text, truth), mask))
        for span in document.spans:
            spans[span.entity_type] += 1
            inside = range(span.start_position, min(span.end_position, len(text)))
            whole[span.entity_type] += all(mask[at] or text[at].isspace() for at in inside)
    return measurement_of(counts, spans, whole)


def count_characters(text: str, truth: bytearray, mask: bytearray) -> CharacterCounts:
    """Counts of one text; `truth` and `mask` hold a byte for each character (`covered`)."""
    counted = [at for at, char in enumerate(text) if not char.isspace()]
    return CharacterCounts(
        identifying=sum(truth[at] for at in counted),
        found=sum(truth[at] & mask[at] for at in counted),
        marked=sum(mask[at] for at in counted),
    )


def measurement_of(
    counts: Sequence[CharacterCounts],
    spans: Mapping[str, int] | None = None,
    whole: Mapping[str, int] | None = None,
) -> Measurement:
    """Add up the counts of texts, and of spans by their entity type."""
    spans, whole = spans or {}, whole or {}
    identifying, hit, marked = (sum(one[at] for one in counts) for at in range(3))
    leaking = sum(one.found < one.identifying for one in counts)
    return Measurement(
        documents=len(counts),
        character_recall=hit / identifying if identifying else 1.0,
        character_precision=hit / marked if marked else 1.0,
        documents_with_leak=leaking / len(counts) if counts else 0.0,
        full_span_recall={
            kind: whole.get(kind, 0) / count for kind, count in sorted(spans.items())
        },
        counts=tuple(counts),
        spans=dict(sorted(spans.items())),
        whole_spans={kind: whole.get(kind, 0) for kind in sorted(spans)},
    )
