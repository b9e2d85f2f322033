"""How well a detector does on labelled text: what share of identifying characters it finds.

The measure is label-agnostic: a surname found as a town is found. White space does not count. A
*leak* is a document in which at least one identifying character is missed, so it is the strictest
figure here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from audit.errors import MalformedInput, NotFound
from client.deidentification.findings import Finding, covered
from compliance.statements import first_problem


class LabelledSpan(BaseModel):
    """One identifying span, as presidio-research writes it."""

    entity_type: str
    start_position: Annotated[int, Field(ge=0)]
    end_position: Annotated[int, Field(ge=0)]


class LabelledText(BaseModel):
    """A text of which every identifying span is known."""

    full_text: str
    spans: tuple[LabelledSpan, ...]


@dataclass(frozen=True)
class Measurement:
    """What was found of what is there.

    Attributes:
        documents: Texts measured.
        character_recall: Share of identifying characters that were found, in [0, 1].
        character_precision: Share of found characters that are identifying, in [0, 1].
        documents_with_leak: Share of texts in which at least one identifying character was missed.
        full_span_recall: By entity type, the share of spans that were found whole.
    """

    documents: int
    character_recall: float
    character_precision: float
    documents_with_leak: float
    full_span_recall: dict[str, float]


def read_labelled(path: Path) -> list[LabelledText]:
    """Read a file in the format of presidio-research: a JSON list of texts with spans.

    Raises:
        NotFound: When there is no such file.
        MalformedInput: When it is something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return TypeAdapter(list[LabelledText]).validate_python(content)
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}", fix="check the path") from error
    except ValidationError as error:
        raise MalformedInput(f"malformed labelled text: {first_problem(error)}") from error
    except ValueError as error:
        raise MalformedInput(f"{path.name} is not JSON") from error


def measure(labelled: Sequence[LabelledText], found: Iterable[Sequence[Finding]]) -> Measurement:
    """Compare findings with labels.

    Args:
        labelled: Texts with their spans.
        found: The findings of each text, in the same order.
    """
    identifying = hit = marked = leaking = 0
    spans: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for document, findings in zip(labelled, found, strict=True):
        text = document.full_text
        truth = covered(
            text, [Finding(s.start_position, s.end_position, "") for s in document.spans]
        )
        mask = covered(text, findings)
        counted = [at for at, char in enumerate(text) if not char.isspace()]
        true = sum(truth[at] for at in counted)
        both = sum(truth[at] & mask[at] for at in counted)
        identifying, hit = identifying + true, hit + both
        marked += sum(mask[at] for at in counted)
        leaking += both < true
        for span in document.spans:
            spans[span.entity_type] += 1
            inside = range(span.start_position, min(span.end_position, len(text)))
            whole[span.entity_type] += all(mask[at] or text[at].isspace() for at in inside)
    return Measurement(
        documents=len(labelled),
        character_recall=hit / identifying if identifying else 1.0,
        character_precision=hit / marked if marked else 1.0,
        documents_with_leak=leaking / len(labelled) if labelled else 0.0,
        full_span_recall={kind: whole[kind] / count for kind, count in sorted(spans.items())},
    )
