"""What evaluation counts say: every figure is a pure function of summed integer counts.

| figure | how |
|---|---|
| accuracy, precision, recall | shares |
| F1 | harmonic mean of both; averages macro (a label counts), weighted (by how often it is true),
  micro (an example counts; with one label an example this is the accuracy) |
| ROC-AUC | one label against the rest, Mann-Whitney over binned scores, ties counted half |
| calibration | reliability by bins of confidence and expected calibration error, Guo et al. (2017),
  "On Calibration of Modern Neural Networks", section 2 |

* Intervals are at 95 % (`client.learning.intervals`) and treat examples as independent: with
  several records a subject they are too narrow.
* What language models and labelled spans have of their own: `client.learning.language_evaluation`,
  `client.learning.entity_evaluation`.
* What counts nothing is None, never a number: no AUC of a label that is always or never true.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from client.learning.entity_evaluation import (
    EntityReport,
    SpanCounts,
    entities_in_words,
    entity_report,
)
from client.learning.evaluation import (
    CONFIDENCE_BINS,
    CONFIDENCE_UNIT,
    Evaluation,
    EvaluationCounts,
)
from client.learning.intervals import (
    Interval,
    auc_interval,
    rounded,
    rounded_interval,
    rounded_share,
    share_interval,
    wilson_interval,
)
from client.learning.language_evaluation import (
    LanguageCounts,
    LanguageSummary,
    language_in_words,
    language_summary,
)
from client.learning.tally import Counts, Tally


@dataclass(frozen=True)
class RocAuc:
    """Area under a ROC curve.

    Attributes:
        value: Chance that an example of the label scores above another one; in [0, 1].
        interval: For the examples that were not seen.
        binning_error: The area of the unbinned scores differs from `value` by at most this.
    """

    value: float
    interval: Interval
    binning_error: float


@dataclass(frozen=True)
class Averages:
    """Precision, recall and F1, averaged over labels."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class LabelMetrics:
    """One label against the rest. `support`: examples of which it is the true label."""

    label: str
    support: int
    precision: float | None
    precision_interval: Interval | None
    recall: float | None
    recall_interval: Interval | None
    f1: float | None
    roc_auc: RocAuc | None


@dataclass(frozen=True)
class ReliabilityBin:
    """Predictions whose confidence lies in `[low, high)`, the last one with 1: said and true."""

    low: float
    high: float
    examples: int
    mean_confidence: float
    accuracy: float


@dataclass(frozen=True)
class Summary:
    """Figures of all labels together; averages are over labels that occur."""

    examples: int
    accuracy: float
    accuracy_interval: Interval
    macro: Averages
    micro: Averages
    weighted: Averages
    macro_roc_auc: float | None
    expected_calibration_error: float | None


@dataclass(frozen=True)
class EvaluationReport:
    """All figures, to `REPORT_DIGITS` digits.

    Attributes:
        everybody: Over all examples.
        labels: Each label, in the plan's order.
        reliability: Bins of confidence that hold examples.
        confusion: Positions of true and predicted label, and how often: counts above 0 only.
        slices: By declared group.
        entities: Where spans are labelled: an example is a token then.
    """

    everybody: Summary | LanguageSummary
    labels: tuple[LabelMetrics, ...] = ()
    reliability: tuple[ReliabilityBin, ...] = ()
    confusion: tuple[tuple[int, int, int], ...] = ()
    slices: dict[str, Summary | LanguageSummary] = field(default_factory=dict)
    entities: EntityReport | None = None


def accuracy(matrix: Counts) -> float:
    """Share of examples predicted right; 0.0 for an empty matrix `[true, predicted]`.

    >>> accuracy(np.array([[3, 1], [0, 4]]))
    0.875
    """
    total = int(matrix.sum())
    return float(np.trace(matrix)) / total if total else 0.0


def macro_f1(matrix: Counts) -> float:
    """Mean F1 over the labels that occur, as truth or as prediction; 0.0 for an empty matrix.

    A label that was never true and never predicted says nothing and is left out.

    >>> round(macro_f1(np.array([[2, 0], [1, 1]])), 4)
    0.7333
    """
    return averages(matrix)[0].f1


def averages(matrix: Counts) -> tuple[Averages, Averages, Averages]:
    """Macro, micro and weighted averages; a ratio of nothing to nothing counts 0.

    Labels that occur, as truth or as prediction, are averaged; all is 0.0 for an empty matrix.
    """
    correct = np.diag(matrix).astype(np.float64)
    true, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    occurs = true + predicted > 0
    figures = np.stack(
        [
            correct / np.maximum(predicted, 1),
            correct / np.maximum(true, 1),
            2 * correct / np.maximum(true + predicted, 1),
        ]
    )[:, occurs]
    if not occurs.any():
        return (Averages(0.0, 0.0, 0.0),) * 3
    share = accuracy(matrix)
    weighted = figures @ true[occurs] / true.sum()
    return (
        Averages(*figures.mean(axis=1).tolist()),
        Averages(share, share, share),
        Averages(*weighted.tolist()),
    )


def roc_auc(histogram: Counts) -> RocAuc | None:
    """Area under the ROC curve of binned scores.

    Two scores in one bin count as a tie, so the error is half of the pairs in one bin at most.

    Args:
        histogram: `(2, bins)` counts by score, lowest first: where the label is not the true one,
            and where it is.

    Returns:
        None when the label is always or never true.

    >>> roc_auc(np.array([[3, 1, 0], [0, 1, 3]])).value
    0.96875
    """
    others, own = (int(count) for count in histogram.sum(axis=1))
    if not others or not own:
        return None
    # In float64: pairs of a federation's examples may be more than int64 holds.
    rest, label = histogram.astype(np.float64)
    below = np.cumsum(rest) - rest
    pairs, ties = float(own) * float(others), float(label @ rest)
    value = (float(label @ below) + ties / 2) / pairs
    return RocAuc(value, auc_interval(value, own, others), ties / 2 / pairs)


def macro_roc_auc(scores: Counts) -> float | None:
    """Mean one-vs-rest area over the labels that are sometimes, and not always, true.

    Args:
        scores: `(labels, 2, bins)`, as `EvaluationCounts.scores`.
    """
    areas = [area.value for area in map(roc_auc, scores) if area is not None]
    return sum(areas) / len(areas) if areas else None


def reliability(calibration: Counts) -> tuple[ReliabilityBin, ...]:
    """Confidence beside accuracy, for each bin that holds examples.

    Args:
        calibration: `(bins, 3)`, as `EvaluationCounts.calibration`.
    """
    return tuple(
        ReliabilityBin(
            low=place / CONFIDENCE_BINS,
            high=(place + 1) / CONFIDENCE_BINS,
            examples=int(count),
            mean_confidence=float(confidence) / CONFIDENCE_UNIT / count,
            accuracy=float(right) / count,
        )
        for place, (count, right, confidence) in enumerate(calibration.tolist())
        if count
    )


def expected_calibration_error(calibration: Counts) -> float | None:
    """Mean distance of confidence and accuracy over bins, weighted by examples; None of none."""
    bins = reliability(calibration)
    total = sum(each.examples for each in bins)
    distances = (each.examples * abs(each.accuracy - each.mean_confidence) for each in bins)
    return sum(distances) / total if total else None


def label_metrics(counts: EvaluationCounts, labels: Sequence[str]) -> tuple[LabelMetrics, ...]:
    """Figures of each label."""
    correct = np.diag(counts.confusion).tolist()
    true, predicted = (counts.confusion.sum(axis=axis).tolist() for axis in (1, 0))
    return tuple(
        LabelMetrics(
            label=label,
            support=true[place],
            precision=rounded_share(correct[place], predicted[place]),
            precision_interval=share_interval(correct[place], predicted[place]),
            recall=rounded_share(correct[place], true[place]),
            recall_interval=share_interval(correct[place], true[place]),
            f1=rounded_share(2 * correct[place], true[place] + predicted[place]),
            roc_auc=_rounded_auc(roc_auc(counts.scores[place])),
        )
        for place, label in enumerate(labels)
    )


def summary(counts: Tally) -> Summary | LanguageSummary:
    """Figures of all labels together, or of a language model."""
    if isinstance(counts, LanguageCounts):
        return language_summary(counts)
    if isinstance(counts, EvaluationCounts):
        return _classification(counts)
    raise TypeError(f"no figures of {type(counts).__name__}")


def _classification(counts: EvaluationCounts) -> Summary:
    right = int(np.trace(counts.confusion))
    area = macro_roc_auc(counts.scores)
    error = expected_calibration_error(counts.calibration)
    macro, micro, weighted = map(_rounded_averages, averages(counts.confusion))
    return Summary(
        examples=counts.examples,
        accuracy=rounded(accuracy(counts.confusion)),
        accuracy_interval=rounded_interval(wilson_interval(right, counts.examples)),
        macro=macro,
        micro=micro,
        weighted=weighted,
        macro_roc_auc=None if area is None else rounded(area),
        expected_calibration_error=None if error is None else rounded(error),
    )


def evaluation_report(evaluation: Evaluation[Any], labels: Sequence[str]) -> EvaluationReport:
    """All figures of the summed counts.

    Args:
        evaluation: Of one site, or the sum of several.
        labels: The plan's labels, in order.
    """
    counts: Tally = evaluation.everybody
    slices = {group: summary(each) for group, each in sorted(evaluation.slices.items())}
    if not isinstance(counts, EvaluationCounts):
        return EvaluationReport(everybody=summary(counts), slices=slices)
    true, predicted = np.nonzero(counts.confusion)
    cells = zip(true, predicted, counts.confusion[true, predicted], strict=True)
    return EvaluationReport(
        everybody=summary(counts),
        labels=label_metrics(counts, labels),
        reliability=tuple(
            ReliabilityBin(
                low=each.low,
                high=each.high,
                examples=each.examples,
                mean_confidence=rounded(each.mean_confidence),
                accuracy=rounded(each.accuracy),
            )
            for each in reliability(counts.calibration)
        ),
        confusion=tuple((int(row), int(column), int(count)) for row, column, count in cells),
        slices=slices,
        entities=entity_report(counts, dict(evaluation.slices), labels)
        if isinstance(counts, SpanCounts)
        else None,
    )


def in_words(figures: Summary | LanguageSummary) -> str:
    """The figures of all labels together, or of a language model, in one line."""
    if isinstance(figures, LanguageSummary):
        return language_in_words(figures)
    low, high = figures.accuracy_interval
    line = f"accuracy {figures.accuracy:.6f} (95 % interval {low:.4f} to {high:.4f})"
    line += f", macro F1 {figures.macro.f1:.6f}"
    if figures.macro_roc_auc is not None:
        line += f", macro ROC-AUC {figures.macro_roc_auc:.4f}"
    if figures.expected_calibration_error is not None:
        line += f", expected calibration error {figures.expected_calibration_error:.4f}"
    return line


def report_in_words(report: EvaluationReport) -> str:
    """The figures of everybody, in one line: of tokens and of spans, where spans are labelled."""
    line = in_words(report.everybody)
    if report.entities is None:
        return line
    return f"{entities_in_words(report.entities.everybody)}; of tokens: {line}"


def _rounded_auc(area: RocAuc | None) -> RocAuc | None:
    if area is None:
        return None
    return RocAuc(rounded(area.value), rounded_interval(area.interval), rounded(area.binning_error))


def _rounded_averages(each: Averages) -> Averages:
    return Averages(rounded(each.precision), rounded(each.recall), rounded(each.f1))
