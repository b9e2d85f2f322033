"""What evaluation counts say: every figure is a pure function of summed integer counts.

| figure | how |
|---|---|
| accuracy, precision, recall | shares, with 95 % intervals of Wilson (1927), Statist. Assoc. 22 |
| F1 | harmonic mean of both; averages macro (a label counts), weighted (by how often it is true),
  micro (an example counts; with one label an example this is the accuracy) |
| ROC-AUC | one label against the rest, Mann-Whitney over binned scores, ties counted half; 95 %
  interval by method 5 of Newcombe (2006), Statistics in Medicine 25:559-573, which inverts the
  variance of Hanley & McNeil (1982), Radiology 143:29-36, and does not collapse at 1 |
| calibration | reliability by bins of confidence and expected calibration error, Guo et al. (2017),
  "On Calibration of Modern Neural Networks", section 2 |

* Intervals treat examples as independent: with several records a subject they are too narrow.
* What counts nothing is None, never a number: no AUC of a label that is always or never true.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from client.learning.evaluation import (
    CONFIDENCE_BINS,
    CONFIDENCE_UNIT,
    Counts,
    Evaluation,
    EvaluationCounts,
)

Interval = tuple[float, float]
"""Lower and upper end of a 95 % confidence interval."""

Z_95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""

REPORT_DIGITS = 6
_BISECTIONS = 60  # halve [0, 1] to below a float's resolution


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
    """

    everybody: Summary
    labels: tuple[LabelMetrics, ...]
    reliability: tuple[ReliabilityBin, ...]
    confusion: tuple[tuple[int, int, int], ...]
    slices: dict[str, Summary] = field(default_factory=dict)


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


def wilson_interval(right: int, total: int) -> Interval:
    """95 % score interval of a share; everything is possible of nothing seen.

    >>> wilson_interval(0, 0)
    (0.0, 1.0)
    >>> [round(end, 4) for end in wilson_interval(81, 263)]
    [0.2553, 0.3662]
    """
    if not total:
        return (0.0, 1.0)
    share, spread = right / total, Z_95**2 / total
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    low = 0.0 if right == 0 else centre - half
    return (low, 1.0 if right == total else centre + half)


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


def auc_interval(value: float, own: int, others: int) -> Interval:
    """Areas whose own standard error reaches `value`: Newcombe (2006), method 5.

    Args:
        value: The area, in [0, 1].
        own: Examples that should score above, at least 1.
        others: Examples that should score below, at least 1.
    """
    mean = (own + others) / 2 - 1

    def compatible(area: float) -> bool:
        variance = area * (1 - area) / own / others
        variance *= 1 + mean * (1 - area) / (2 - area) + mean * area / (1 + area)
        return abs(area - value) <= Z_95 * math.sqrt(max(variance, 0.0))

    def end(outside: float) -> float:
        inside = value
        for _ in range(_BISECTIONS):
            middle = (inside + outside) / 2
            if compatible(middle):
                inside = middle
            else:
                outside = middle
        return inside

    return (0.0 if compatible(0.0) else end(0.0), 1.0 if compatible(1.0) else end(1.0))


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
            precision=_share(correct[place], predicted[place]),
            precision_interval=_interval(correct[place], predicted[place]),
            recall=_share(correct[place], true[place]),
            recall_interval=_interval(correct[place], true[place]),
            f1=_share(2 * correct[place], true[place] + predicted[place]),
            roc_auc=_rounded_auc(roc_auc(counts.scores[place])),
        )
        for place, label in enumerate(labels)
    )


def summary(counts: EvaluationCounts) -> Summary:
    """Figures of all labels together."""
    right = int(np.trace(counts.confusion))
    area = macro_roc_auc(counts.scores)
    error = expected_calibration_error(counts.calibration)
    macro, micro, weighted = map(_rounded_averages, averages(counts.confusion))
    return Summary(
        examples=counts.examples,
        accuracy=_round(accuracy(counts.confusion)),
        accuracy_interval=_rounded(wilson_interval(right, counts.examples)),
        macro=macro,
        micro=micro,
        weighted=weighted,
        macro_roc_auc=None if area is None else _round(area),
        expected_calibration_error=None if error is None else _round(error),
    )


def evaluation_report(evaluation: Evaluation, labels: Sequence[str]) -> EvaluationReport:
    """All figures of the summed counts.

    Args:
        evaluation: Of one site, or the sum of several.
        labels: The plan's labels, in order.
    """
    counts = evaluation.everybody
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
                mean_confidence=_round(each.mean_confidence),
                accuracy=_round(each.accuracy),
            )
            for each in reliability(counts.calibration)
        ),
        confusion=tuple((int(row), int(column), int(count)) for row, column, count in cells),
        slices={group: summary(each) for group, each in sorted(evaluation.slices.items())},
    )


def in_words(figures: Summary) -> str:
    """The figures of all labels together, in one line."""
    low, high = figures.accuracy_interval
    line = f"accuracy {figures.accuracy:.6f} (95 % interval {low:.4f} to {high:.4f})"
    line += f", macro F1 {figures.macro.f1:.6f}"
    if figures.macro_roc_auc is not None:
        line += f", macro ROC-AUC {figures.macro_roc_auc:.4f}"
    if figures.expected_calibration_error is not None:
        line += f", expected calibration error {figures.expected_calibration_error:.4f}"
    return line


def _share(part: int, whole: int) -> float | None:
    return _round(part / whole) if whole else None


def _interval(part: int, whole: int) -> Interval | None:
    return _rounded(wilson_interval(part, whole)) if whole else None


def _rounded_auc(area: RocAuc | None) -> RocAuc | None:
    if area is None:
        return None
    return RocAuc(_round(area.value), _rounded(area.interval), _round(area.binning_error))


def _rounded_averages(each: Averages) -> Averages:
    return Averages(_round(each.precision), _round(each.recall), _round(each.f1))


def _rounded(interval: Interval) -> Interval:
    return (_round(interval[0]), _round(interval[1]))


def _round(value: float) -> float:
    return round(value, REPORT_DIGITS)
