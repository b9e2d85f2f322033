"""A site's whole pipeline on labelled text: what it finds, with limits of how sure that is.

* The pipeline is the one that an ingest runs: detection, the search for what is known of a person,
  and the check after replacement. Each text is its own person.
* A text that the pipeline keeps out is never stored, so it is counted apart and not measured.
* F2 weighs recall four times as much as precision (van Rijsbergen 1979): 5 P R / (4 P + R), or
  5 found / (4 identifying + marked).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from audit.errors import MalformedInput
from client.deidentification.findings import Finding
from client.deidentification.measurement import LabelledText, Measurement, measure
from client.deidentification.pipeline import Deidentified, Outcome, SourceRecord
from client.learning.intervals import Interval, rounded, rounded_interval, wilson_interval
from client.recall.bounds import mean_at_least, ratio_intervals, share_at_most
from compliance.statements.deidentification import (
    DeidentificationFigures,
    Method,
    at_least,
    at_most,
)

BATCH_TEXTS: Final = 64

RecordsDeidentified = Callable[[Sequence[SourceRecord]], list[Outcome]]


@dataclass(frozen=True)
class Figure:
    """A share, and the 95 % interval that it lies in."""

    value: float
    interval: Interval

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {"value": rounded(self.value), "interval": list(rounded_interval(self.interval))}


@dataclass(frozen=True)
class Evaluation:
    """What was measured on a sample of texts.

    Attributes:
        texts: Texts measured.
        kept_out: Texts that the pipeline keeps out; not measured.
        recall: Of identifying characters; interval by bootstrap over texts.
        precision: Of found characters; likewise.
        f2: Of both; likewise.
        leaks: Texts with at least one missed character; Wilson.
        spans: By entity type, spans found whole; Wilson, spans taken as independent.
        recall_at_least: One-sided, of a text's mean share (`client.recall.bounds`).
        leaks_at_most: One-sided.
    """

    texts: int
    kept_out: int
    recall: Figure
    precision: Figure
    f2: Figure
    leaks: Figure
    spans: Mapping[str, Figure]
    recall_at_least: float
    leaks_at_most: float

    def figures(self, method: Method, measured_at: str) -> DeidentificationFigures:
        """What leaves the site of it."""
        return DeidentificationFigures(
            method=method,
            recall=at_least(self.recall.value),
            recall_at_least=at_least(self.recall_at_least),
            leak_share=at_most(self.leaks.value),
            leak_share_at_most=at_most(self.leaks_at_most),
            measured_at=measured_at,
        )

    def to_json(self) -> dict[str, Any]:
        """As it is kept and as `--json` prints it."""
        return {
            "texts": self.texts,
            "texts_kept_out": self.kept_out,
            "character_recall": self.recall.to_json(),
            "character_precision": self.precision.to_json(),
            "character_f2": self.f2.to_json(),
            "documents_with_leak": self.leaks.to_json(),
            "full_span_recall": {kind: each.to_json() for kind, each in self.spans.items()},
            "recall_at_least": rounded(self.recall_at_least),
            "documents_with_leak_at_most": rounded(self.leaks_at_most),
            "intervals": "95 %: characters by bootstrap over texts, texts and spans by Wilson; "
            "one-sided limits 95 %: Hoeffding (mean recall of a text), Clopper-Pearson (leaks)",
        }


def evaluate(
    labelled: Sequence[LabelledText],
    deidentify: RecordsDeidentified,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Evaluation:
    """Run labelled texts through the pipeline and measure it.

    Args:
        labelled: Texts of which every identifying span is known.
        deidentify: The site's pipeline.
        progress: Told how many texts are done, of how many.

    Raises:
        MalformedInput: When nothing can be measured: no label, or every text is kept out.
    """
    measured: list[LabelledText] = []
    found: list[list[Finding]] = []
    for start in range(0, len(labelled), BATCH_TEXTS):
        batch = labelled[start : start + BATCH_TEXTS]
        records = [
            SourceRecord(f"x{start + at:012}x", one.full_text) for at, one in enumerate(batch)
        ]
        for document, outcome in zip(batch, deidentify(records), strict=True):
            if isinstance(outcome, Deidentified):
                measured.append(document)
                found.append(replaced_in(outcome))
        progress(min(start + BATCH_TEXTS, len(labelled)), len(labelled))
    if not any(document.spans for document in measured):
        raise MalformedInput(
            "nothing can be measured: no text with a labelled identifier is left"
            if measured
            else "nothing can be measured: the pipeline keeps out every text",
            fix="label what identifies people in the texts, and check that they are plain text",
        )
    return evaluation_of(measure(measured, found), len(labelled) - len(measured))


def replaced_in(outcome: Deidentified) -> list[Finding]:
    """What was replaced, as findings in the original text."""
    return [Finding(each.start, each.end, "") for each in outcome.replacements]


def evaluation_of(measured: Measurement, kept_out: int) -> Evaluation:
    """Intervals and limits of a measurement."""
    counts = measured.counts
    columns = [(*one, 5 * one.found, 4 * one.identifying + one.marked) for one in counts]
    recall, precision, both = ratio_intervals(columns, [(1, 0), (1, 2), (3, 4)])
    leaking = sum(one.found < one.identifying for one in counts)
    shares = [one.found / one.identifying for one in counts if one.identifying]
    values = (measured.character_recall, measured.character_precision)
    return Evaluation(
        texts=measured.documents,
        kept_out=kept_out,
        recall=Figure(values[0], recall),
        precision=Figure(values[1], precision),
        f2=Figure(f2(*values), both),
        leaks=Figure(measured.documents_with_leak, wilson_interval(leaking, len(counts))),
        spans={
            kind: Figure(whole / measured.spans[kind], wilson_interval(whole, measured.spans[kind]))
            for kind, whole in measured.whole_spans.items()
        },
        recall_at_least=mean_at_least(shares),
        leaks_at_most=share_at_most(leaking, len(counts)),
    )


def f2(recall: float, precision: float) -> float:
    """F with beta = 2.

    >>> round(f2(0.9, 0.5), 4)
    0.7759
    """
    below = 4 * precision + recall
    return 5 * precision * recall / below if below else 0.0
