"""What a site tells of labelled spans: counts of tokens, and of spans that were found exactly.

* A predicted span is a run of tokens with the same label other than the first, as long as can be.
  It is right when a labelled span has the same tokens and the same label, and only then; two spans
  of one label without a token between them cannot be told apart, and count as missed.
* A labelled span that no token of the text shows (the plan's `max_tokens` cut it away) counts as
  missed.
* Spans are summed by label: precision, recall and F1 follow from sums, as they do for tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from audit.words import count_of
from client.learning.data import Span
from client.learning.evaluation import EvaluationCounts
from client.learning.intervals import Interval, rounded_share, share_interval
from client.learning.tally import MAX_EXAMPLES, Counts, malformed

OUTSIDE = 0
"""The first label of a plan is of what no span covers."""

_FOUND, _PREDICTED, _LABELLED = range(3)


@dataclass(frozen=True, eq=False)
class SpanCounts(EvaluationCounts):
    """Counts of tokens, and of spans.

    Attributes:
        entities: `(labels, 3)`: spans that were found exactly, that were predicted, and that the
            site labelled; nothing of the first label.
    """

    entities: Counts

    @classmethod
    def shapes(cls, label_count: int) -> dict[str, tuple[int, ...]]:
        """Shape of each array."""
        return {**super().shapes(label_count), "entities": (label_count, 3)}

    @classmethod
    def of_tokens(cls, true: npt.ArrayLike, logits: npt.ArrayLike, entities: Counts) -> Self:
        """Counts of tokens by label and scores, beside counts of spans."""
        tokens = EvaluationCounts.count(true, logits)
        return cls(**tokens.to_arrays(), entities=entities)

    def check(self) -> None:
        """Refuse arrays that no examples could have given."""
        super().check()
        found, predicted, labelled = self.entities.T
        if (self.entities < 0).any() or (self.entities > MAX_EXAMPLES).any():
            raise malformed("its entities hold numbers that cannot be counts")
        if self.entities[OUTSIDE].any():
            raise malformed("its entities count what is no entity")
        if (found > np.minimum(predicted, labelled)).any():
            raise malformed("its entities have more found than there are")
        # Each predicted span has a token, and each found one a token that is right.
        tokens, right = self.confusion.sum(axis=0), np.diag(self.confusion)
        if (predicted > tokens).any() or (found > right).any():
            raise malformed("its entities count other tokens than its confusion")


def count_entities(
    records: Iterable[tuple[Sequence[int], Sequence[Span]]], label_count: int
) -> Counts:
    """Spans that were found, predicted and labelled, `(labels, 3)`.

    Args:
        records: Of each, the predicted label of each token, and the labelled spans, in tokens; an
            empty span is one that no token shows.
        label_count: Number of the plan's labels.

    >>> count_entities([([0, 1, 1, 2], [Span(1, 3, 1), Span(0, 1, 2)])], 3).tolist()
    [[0, 0, 0], [1, 1, 1], [0, 1, 1]]
    """
    counts = np.zeros((label_count, 3), np.int64)
    for predicted, labelled in records:
        said, true = runs(predicted), set(labelled)
        for span in said:
            counts[span.label, _PREDICTED] += 1
            counts[span.label, _FOUND] += span in true
        for span in labelled:
            counts[span.label, _LABELLED] += 1
    return counts


def runs(labels: Sequence[int]) -> list[Span]:
    """Runs of equal labels other than `OUTSIDE`.

    >>> runs([0, 2, 2, 1])
    [Span(start=1, end=3, label=2), Span(start=3, end=4, label=1)]
    """
    found: list[Span] = []
    start = 0
    for end in range(1, len(labels) + 1):
        if end == len(labels) or labels[end] != labels[start]:
            if labels[start] != OUTSIDE:
                found.append(Span(start, end, labels[start]))
            start = end
    return found


@dataclass(frozen=True)
class EntityMetrics:
    """Spans of one label, or of all. `support`: spans that sites labelled."""

    label: str
    support: int
    predicted: int
    found: int
    precision: float | None
    precision_interval: Interval | None
    recall: float | None
    recall_interval: Interval | None
    f1: float | None


@dataclass(frozen=True)
class EntityReport:
    """Spans found exactly: of all labels together, of each, and of each declared group."""

    everybody: EntityMetrics
    labels: tuple[EntityMetrics, ...]
    slices: dict[str, EntityMetrics]


def entity_report(
    counts: SpanCounts, slices: dict[str, SpanCounts], labels: Sequence[str]
) -> EntityReport:
    """Figures of the summed counts; averages over labels are micro: a span counts."""
    return EntityReport(
        everybody=_of_all(counts),
        labels=tuple(
            _metrics(label, counts.entities[place])
            for place, label in enumerate(labels)
            if place != OUTSIDE
        ),
        slices={group: _of_all(each) for group, each in sorted(slices.items())},
    )


def entities_in_words(figures: EntityMetrics) -> str:
    """The figures of all labels together, in one line."""
    if figures.f1 is None:
        return "no spans"
    parts = (("precision", figures.precision), ("recall", figures.recall), ("F1", figures.f1))
    told = ", ".join(f"{name} {value:.4f}" for name, value in parts if value is not None)
    return f"of {count_of(figures.support, 'span')}: {told}"


def _of_all(counts: SpanCounts) -> EntityMetrics:
    return _metrics("", counts.entities.sum(axis=0))


def _metrics(label: str, counts: Counts) -> EntityMetrics:
    found, predicted, labelled = (int(number) for number in counts)
    return EntityMetrics(
        label=label,
        support=labelled,
        predicted=predicted,
        found=found,
        precision=rounded_share(found, predicted),
        precision_interval=share_interval(found, predicted),
        recall=rounded_share(found, labelled),
        recall_interval=share_interval(found, labelled),
        f1=rounded_share(2 * found, predicted + labelled),
    )
