"""What a site tells of a model on its held-out subjects: integer counts, and nothing else.

* A few arrays of counts are enough for every figure of `client.learning.metrics`: `Tally` says what
  all kinds of them share, `EvaluationCounts` are those of one label an example. All of them add
  up: the sum over sites is what one site with all examples would have counted, bit for bit. So
  they can be summed by anybody, or by a protocol that shows nobody the summands.
* Bins are fixed and public. Scores are binned by log-odds, not by probability: among many labels
  nearly all probabilities lie close to 0, where bins of equal width would tell nothing apart.
* Confidences are summed in fixed point. No float leaves a site.
* A slice (the examples of one declared group) is told only when at least `MINIMUM_SLICE_SUBJECTS`
  subjects are in it *and* as many, or nobody, are in what remains when all told slices are
  subtracted from the whole: otherwise the subtraction would tell what the rule withholds.

The counts are exact: no noise, outside epsilon. They tell more than right and wrong: where a label
is true of a single example, its row shows about how sure the model was of it. The rule for slices
protects a small group from being singled out by its group; it is no differential privacy, and does
not hold across two evaluations of different versions of the data.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any, Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt

from audit.errors import MalformedInput
from audit.words import count_of
from client.arrays import Arrays
from client.learning.data import Example
from client.learning.tally import MAX_EXAMPLES, Counts, Tally, malformed

SCORE_BINS = 128
"""Bins of log-odds; the outermost two are unbounded."""

SCORE_LIMIT = 16.0
"""Log-odds from -16 to 16 (probabilities 1e-7 to 1 - 1e-7) are told apart, in steps of 0.25."""

CONFIDENCE_BINS = 16
"""A power of two near the customary 15 (Guo et al. 2017), so that fixed point hits the edges."""

CONFIDENCE_UNIT = 2**20
"""A confidence of 1 in fixed point: a single confidence is exact to 1e-6."""

MINIMUM_SLICE_SUBJECTS = 11
"""Smallest slice that is told: cells of 10 or fewer people are withheld, as the US Centers for
Medicare & Medicaid Services ask of whoever publishes from their data (cell size policy)."""

CHUNK_RECORDS = 4096
"""Records whose scores are in memory at once."""

_COUNT, _RIGHT, _CONFIDENCE = range(3)
_SLICE_SEPARATOR = "/"

AnyTally = TypeVar("AnyTally", bound=Tally)


@dataclass(frozen=True, eq=False)
class EvaluationCounts(Tally):
    """Counts over examples that have one label each.

    Attributes:
        confusion: `(labels, labels)`: true label, predicted label.
        scores: `(labels, 2, SCORE_BINS)`: examples by log-odds of a label, `[label, 1]` where it is
            the true one, `[label, 0]` where it is not.
        calibration: `(CONFIDENCE_BINS, 3)`: by probability of the predicted label, the number of
            examples, how many were right, and the sum of the probabilities in `CONFIDENCE_UNIT`.
    """

    confusion: Counts
    scores: Counts
    calibration: Counts

    @classmethod
    def shapes(cls, label_count: int) -> dict[str, tuple[int, ...]]:
        """Shape of each array."""
        return {
            "confusion": (label_count, label_count),
            "scores": (label_count, 2, SCORE_BINS),
            "calibration": (CONFIDENCE_BINS, 3),
        }

    @classmethod
    def count(cls, true: npt.ArrayLike, logits: npt.ArrayLike) -> Self:
        """Count examples.

        Args:
            true: `(examples,)` true labels, each in `[0, labels)`.
            logits: `(examples, labels)` scores before the softmax.

        Raises:
            MalformedInput: When a score is not finite.

        >>> EvaluationCounts.count([0, 0, 1], [[2.0, 0.0], [0.0, 1.0], [0.0, 1.0]]).confusion
        array([[1, 1],
               [0, 1]])
        """
        labels = np.asarray(true, dtype=np.int64)
        scores = np.asarray(logits, dtype=np.float64)
        examples, label_count = scores.shape
        if not np.isfinite(scores).all():
            raise MalformedInput(
                "the model gives scores that are not finite", fix="refuse this model"
            )
        counts = cls.empty(label_count)
        if not examples:
            return counts
        log_probability = scores - scores.max(axis=1, keepdims=True)
        log_probability -= np.log(np.exp(log_probability).sum(axis=1, keepdims=True))
        predicted = scores.argmax(axis=1)
        np.add.at(counts.confusion, (labels, predicted), 1)

        is_true = (labels[:, None] == np.arange(label_count)).astype(np.int64)
        place = (np.arange(label_count) * 2 + is_true) * SCORE_BINS + _score_bin(log_probability)
        counts.scores.flat[:] = np.bincount(place.ravel(), minlength=counts.scores.size)

        surest = np.exp(log_probability[np.arange(examples), predicted])
        confidence = np.floor(surest * CONFIDENCE_UNIT).astype(np.int64)
        confidence = np.minimum(confidence, CONFIDENCE_UNIT)  # 1 + 1 ulp is no probability
        told = np.stack([np.ones_like(labels), labels == predicted, confidence], axis=1)
        np.add.at(counts.calibration, _confidence_bin(confidence), told)
        return counts

    @property
    def label_count(self) -> int:
        """Number of labels."""
        return len(self.confusion)

    @property
    def examples(self) -> int:
        """Number of examples."""
        return int(self.confusion.sum())

    def check(self) -> None:
        """Refuse arrays that no examples could have given."""
        confusion, scores, calibration = self.confusion, self.scores, self.calibration
        for name, array in self.to_arrays().items():
            # Only the last column of `calibration` holds anything but counts.
            cells = array[:, :_CONFIDENCE] if name == "calibration" else array
            if (array < 0).any() or (cells > MAX_EXAMPLES).any():
                raise malformed(f"its {name} holds numbers that cannot be counts")
        examples = self.examples
        if examples > MAX_EXAMPLES:
            raise malformed(f"it counts {count_of(examples, 'example')}, more than {MAX_EXAMPLES}")
        of_label = confusion.sum(axis=1)
        scored = scores.sum(axis=2)
        if (scored[:, 1] != of_label).any() or (scored[:, 0] != examples - of_label).any():
            raise malformed("its scores count other examples than its confusion")
        count, right, confidence = calibration.T
        if count.sum() != examples or right.sum() != np.trace(confusion):
            raise malformed("its calibration counts other examples than its confusion")
        if (right > count).any():
            raise malformed("its calibration has more right than there are")
        lowest = np.arange(CONFIDENCE_BINS) * (CONFIDENCE_UNIT // CONFIDENCE_BINS)
        highest = np.append(lowest[1:] - 1, CONFIDENCE_UNIT)
        if (confidence < count * lowest).any() or (confidence > count * highest).any():
            raise malformed("its calibration has confidences outside their bin")


@dataclass(frozen=True, eq=False)
class Evaluation(Generic[AnyTally]):
    """Counts over all examples, and over those of each group that is large enough to be told.

    A group is named as the plan declares it. Groups share no example.
    """

    everybody: AnyTally
    slices: Mapping[str, AnyTally] = field(default_factory=dict)

    def __add__(self, other: Evaluation[AnyTally]) -> Evaluation[AnyTally]:
        """Counts over the examples of both; a slice that one of them withholds is the other's."""
        slices = dict(self.slices)
        for group, counts in other.slices.items():
            slices[group] = slices[group] + counts if group in slices else counts
        return Evaluation(self.everybody + other.everybody, slices)

    def to_arrays(self) -> dict[str, Counts]:
        """As it travels: the slice of `group` has `group/` before its arrays' names."""
        arrays = self.everybody.to_arrays()
        for group, counts in self.slices.items():
            arrays |= counts.to_arrays(group + _SLICE_SEPARATOR)
        return arrays

    @staticmethod
    def from_arrays(
        arrays: Arrays,
        label_count: int,
        groups: Collection[str] = (),
        kind: type[Tally] = EvaluationCounts,
    ) -> Evaluation[Any]:
        """Read what `to_arrays` wrote, believing nothing.

        Args:
            arrays: As received.
            label_count: Number of the plan's labels.
            groups: The groups that the plan declares; any of them may be withheld.
            kind: What the plan's task counts (`client.learning.tasks.counts_of`).

        Raises:
            MalformedInput: With the first thing that no examples could have given.
        """
        names = kind.shapes(label_count)
        prefixes = {group: group + _SLICE_SEPARATOR for group in groups}
        told = {
            group: prefix
            for group, prefix in prefixes.items()
            if any(prefix + name in arrays for name in names)
        }
        expected = {prefix + name for prefix in ("", *told.values()) for name in names}
        if set(arrays) != expected:
            raise malformed(
                f"expected the arrays {', '.join(sorted(expected))} and nothing else, got "
                f"{', '.join(sorted(arrays))[:200] or 'none'}"
            )
        everybody = kind.from_arrays(arrays, label_count)
        slices = {
            group: kind.from_arrays(arrays, label_count, prefix) for group, prefix in told.items()
        }
        for name, array in everybody.to_arrays().items():
            if (sum(getattr(counts, name) for counts in slices.values()) > array).any():
                raise malformed("its slices count examples that are not among all")
        return Evaluation(everybody, slices)


def read_summed(
    arrays: Arrays, label_count: int, groups: Collection[str], kind: type[Tally]
) -> Evaluation[Any]:
    """Read counts that were summed with zeros for the slices that a site withheld.

    A slice that every site withheld counts nobody, and is none.

    Args:
        arrays: As `Evaluation.to_arrays` names them, of everybody and of every group.
        label_count: Number of the plan's labels.
        groups: The groups that the plan declares.
        kind: What the plan's task counts.

    Raises:
        MalformedInput: With the first thing that no examples could have given.
    """
    read = Evaluation.from_arrays(arrays, label_count, groups, kind)
    told = {group: counts for group, counts in read.slices.items() if counts.examples}
    return Evaluation(read.everybody, told)


def sum_evaluations(evaluations: Sequence[Evaluation[AnyTally]]) -> Evaluation[AnyTally]:
    """What the sites counted together.

    Raises:
        MalformedInput: When there is nothing to sum, or labels differ.
    """
    if not evaluations:
        raise MalformedInput("no evaluation to sum", fix="wait for a site's evaluation")
    return reduce(add, evaluations)


def evaluate_examples(
    examples: Sequence[Example],
    logits_of: Callable[[list[int]], npt.ArrayLike],
    label_count: int,
) -> Evaluation[EvaluationCounts]:
    """Count examples that have one label each, and slices by `Example.group`.

    Args:
        examples: Held-out examples, labels in `[0, label_count)`; an empty group means none.
        logits_of: Scores `(len(rows), label_count)` of the examples at some rows.
        label_count: Number of the plan's labels.

    Raises:
        MalformedInput: When a score is not finite.
    """

    def count(rows: list[int]) -> EvaluationCounts:
        return EvaluationCounts.count([examples[row].label for row in rows], logits_of(rows))

    return count_by_group(examples, count, EvaluationCounts.empty(label_count))


def count_by_group(
    examples: Sequence[Example], count: Callable[[list[int]], AnyTally], nothing: AnyTally
) -> Evaluation[AnyTally]:
    """Count all examples, and slices by `Example.group`.

    Args:
        examples: Held-out examples; an empty group means none.
        count: Counts of the examples at some rows.
        nothing: Counts of no examples.
    """
    rows_of: dict[str, list[int]] = {}
    groups_of: dict[str, set[str]] = {}
    for row, example in enumerate(examples):
        rows_of.setdefault(example.group, []).append(row)
        groups_of.setdefault(example.subject, set()).add(example.group)
    by_group = {
        group: reduce(
            add,
            (count(rows[start:][:CHUNK_RECORDS]) for start in range(0, len(rows), CHUNK_RECORDS)),
            nothing,
        )
        for group, rows in rows_of.items()
    }
    # A subject whose records lie in several groups makes none of them larger.
    subjects = dict.fromkeys(by_group, 0)
    for groups in groups_of.values():
        if len(groups) == 1:
            subjects[min(groups)] += 1
    everybody = reduce(add, by_group.values(), nothing)
    return Evaluation(everybody, {group: by_group[group] for group in groups_to_tell(subjects)})


def groups_to_tell(
    subjects: Mapping[str, int], minimum: int = MINIMUM_SLICE_SUBJECTS
) -> tuple[str, ...]:
    """Groups that can be told beside the whole without telling of a small one, in sorted order.

    Args:
        subjects: Subjects in each group that has examples; those of no group under the empty name.
        minimum: Fewest subjects in a told slice, and in what is left of the whole without them.

    >>> groups_to_tell({"f": 40, "m": 30, "x": 2})  # the whole less f and m would tell x
    ('f',)
    >>> groups_to_tell({"f": 40, "m": 30})
    ('f', 'm')
    """
    told = sorted((group for group in subjects if group), key=lambda g: (subjects[g], g))
    told = [group for group in told if subjects[group] >= minimum]
    withheld = set(subjects) - set(told)
    while told and withheld and sum(subjects[group] for group in withheld) < minimum:
        withheld.add(told.pop(0))
    return tuple(sorted(told))


def _score_bin(log_probability: npt.NDArray[np.float64]) -> Counts:
    """Bin of the log-odds `log p - log(1 - p)`; monotone in `p`, also at 0 and 1."""
    below_one = np.minimum(log_probability, -np.finfo(np.float64).eps)
    log_odds = below_one - np.log(-np.expm1(below_one))
    steps = np.floor((log_odds + SCORE_LIMIT) * (SCORE_BINS / (2 * SCORE_LIMIT)))
    return np.clip(steps, 0, SCORE_BINS - 1).astype(np.int64)


def _confidence_bin(confidence: Counts) -> Counts:
    bins: Counts = np.minimum(confidence * CONFIDENCE_BINS // CONFIDENCE_UNIT, CONFIDENCE_BINS - 1)
    return bins
