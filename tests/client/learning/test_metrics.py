"""Figures from counts, beside scikit-learn's and scipy's from the raw scores."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    precision_recall_fscore_support,
    roc_auc_score,
)

from client.learning.evaluation import CONFIDENCE_UNIT, Evaluation, EvaluationCounts
from client.learning.intervals import wilson_interval
from client.learning.metrics import (
    Averages,
    Summary,
    accuracy,
    averages,
    evaluation_report,
    expected_calibration_error,
    in_words,
    macro_f1,
    macro_roc_auc,
    reliability,
    roc_auc,
)

Floats = npt.NDArray[np.float64]
NAMES = ("a", "b", "c", "d", "e")

pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


def confusion_of(told: list[tuple[int, int]]) -> EvaluationCounts:
    true, predicted = zip(*told, strict=True)
    return EvaluationCounts.count(true, np.eye(5)[list(predicted)])


def scored(seed: int, examples: int, skill: float, labels: int = 5) -> tuple[Floats, Floats]:
    """True labels, uneven, and logits in which the true one has `skill` more."""
    rng = np.random.default_rng(seed)
    true = np.minimum(rng.geometric(0.4, examples) - 1, labels - 1)
    logits = rng.normal(scale=1.5, size=(examples, labels))
    logits[np.arange(examples), true] += skill
    return true, logits


def probabilities(logits: Floats) -> Floats:
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    share: Floats = odds / odds.sum(axis=1, keepdims=True)
    return share


@given(pairs)
@settings(max_examples=100, deadline=None)
def test_shares_are_those_of_scikit_learn(told: list[tuple[int, int]]) -> None:
    true, predicted = zip(*told, strict=True)
    counts = confusion_of(told)
    assert accuracy(counts.confusion) == pytest.approx(accuracy_score(true, predicted))
    assert macro_f1(counts.confusion) == pytest.approx(
        f1_score(true, predicted, average="macro", zero_division=0)
    )
    for average, ours in zip(
        ("macro", "micro", "weighted"), averages(counts.confusion), strict=True
    ):
        theirs = precision_recall_fscore_support(true, predicted, average=average, zero_division=0)
        assert (ours.precision, ours.recall, ours.f1) == pytest.approx(theirs[:3])
    rows = evaluation_report(Evaluation(counts), NAMES).labels
    theirs = precision_recall_fscore_support(true, predicted, labels=range(5), zero_division=np.nan)
    for place, row in enumerate(rows):
        figures = (row.precision, row.recall, row.f1, row.support)
        for mine, figure in zip(figures, (column[place] for column in theirs), strict=True):
            assert mine == (None if np.isnan(figure) else pytest.approx(figure, abs=1e-6))
        assert (row.precision_interval is None) == (row.precision is None)
        assert (row.recall_interval is None) == (row.support == 0)


@given(st.integers(0, 50), st.integers(0, 50))
@settings(max_examples=100, deadline=None)
def test_wilson_intervals_are_those_of_scipy(right: int, wrong: int) -> None:
    if not right + wrong:
        assert wilson_interval(0, 0) == (0.0, 1.0)
        return
    theirs = binomtest(right, right + wrong).proportion_ci(0.95, method="wilson")
    assert wilson_interval(right, right + wrong) == pytest.approx(
        (theirs.low, theirs.high), abs=1e-12
    )


@given(st.integers(0, 10**6), st.integers(2, 120), st.floats(-3, 12))
@settings(max_examples=150, deadline=None)
def test_areas_are_those_of_the_raw_scores_within_the_stated_error(
    seed: int, examples: int, skill: float
) -> None:
    true, logits = scored(seed, examples, skill)
    counts = EvaluationCounts.count(true, logits)
    for label in range(5):
        area = roc_auc(counts.scores[label])
        own = true == label
        if own.all() or not own.any():
            assert area is None
            continue
        assert area is not None
        raw = roc_auc_score(own, probabilities(logits)[:, label])
        assert abs(area.value - raw) <= area.binning_error + 1e-12
        assert 0 <= area.interval[0] <= area.value <= area.interval[1] <= 1


def test_the_stated_error_is_reached_and_small_where_it_matters() -> None:
    """All pairs in one bin: nothing is known. Thousands of examples of 77 labels: a lot is."""
    one_bin = roc_auc(np.array([[5], [7]]))
    assert one_bin is not None
    assert (one_bin.value, one_bin.binning_error) == (0.5, 0.5)

    true, logits = scored(1, 3000, 4.0, labels=77)
    counts = EvaluationCounts.count(true, logits)
    errors = []
    for label in np.unique(true):
        area = roc_auc(counts.scores[label])
        assert area is not None
        raw = roc_auc_score(true == label, probabilities(logits)[:, label])
        errors.append(abs(area.value - raw))
        assert area.binning_error < 0.02
    assert max(errors) < 0.004
    assert max(errors) > 0


def test_probabilities_near_zero_are_told_apart() -> None:
    """Equal bins of probability would put both labels' scores of 1e-4 and 1e-3 into the first."""
    odds = np.log([1e-4, 1e-4, 1e-3, 1e-3])
    counts = EvaluationCounts.count([0, 0, 1, 1], np.stack([np.zeros(4), odds], axis=1))
    area = roc_auc(counts.scores[1])
    assert area is not None
    assert (area.value, area.binning_error) == (1.0, 0.0)


@pytest.mark.parametrize(("own", "others", "shift"), [(20, 400, 1.0), (30, 30, 2.5), (8, 60, 0.0)])
def test_intervals_of_areas_hold_what_they_promise(own: int, others: int, shift: float) -> None:
    """Of 400 samples the true area of two shifted normals lies in about 95 % of the intervals."""
    from scipy.stats import norm

    rng = np.random.default_rng(5)
    true_area = float(norm.cdf(shift / 2**0.5))
    edges = np.linspace(-8, 10, 129)
    inside = 0
    for _ in range(400):
        histogram = np.stack(
            [
                np.histogram(rng.normal(size=others), edges)[0],
                np.histogram(rng.normal(shift, size=own), edges)[0],
            ]
        )
        area = roc_auc(histogram)
        assert area is not None
        inside += area.interval[0] <= true_area <= area.interval[1]
    assert 0.92 <= inside / 400 <= 0.995


def test_an_area_of_one_is_not_certain() -> None:
    few, many = roc_auc(np.array([[5, 0], [0, 5]])), roc_auc(np.array([[500, 0], [0, 500]]))
    assert few is not None
    assert many is not None
    assert few.value == many.value == few.interval[1] == 1.0
    assert 0.4 < few.interval[0] < 0.9 < many.interval[0] < 1.0


def test_the_macro_area_is_over_labels_that_occur() -> None:
    true, logits = scored(3, 400, 1.0)
    logits[true == 3] += 0.1
    kept = true != 3  # label 3 never occurs
    scores = EvaluationCounts.count(true[kept], logits[kept]).scores
    raw = [
        roc_auc_score(true[kept] == label, probabilities(logits[kept])[:, label])
        for label in (0, 1, 2, 4)
    ]
    assert macro_roc_auc(scores) == pytest.approx(np.mean(raw), abs=0.005)
    assert macro_roc_auc(EvaluationCounts.empty(3).scores) is None
    only_one = EvaluationCounts.count([1, 1], [[0.0, 1.0], [1.0, 0.0]])
    assert macro_roc_auc(only_one.scores) is None


@given(st.integers(0, 10**6), st.integers(1, 200), st.floats(0, 12))
@settings(max_examples=100, deadline=None)
def test_calibration_is_that_of_the_raw_scores(seed: int, examples: int, skill: float) -> None:
    true, logits = scored(seed, examples, skill)
    counts = EvaluationCounts.count(true, logits)
    share = probabilities(logits)
    surest, right = share.max(axis=1), share.argmax(axis=1) == true
    place = np.minimum((surest * 16).astype(int), 15)
    error = 0.0
    bins = {round(each.low * 16): each for each in reliability(counts.calibration)}
    assert sorted(bins) == np.unique(place).tolist()
    for number, each in bins.items():
        here = place == number
        assert each.examples == here.sum()
        assert each.accuracy == pytest.approx(right[here].mean())
        assert each.mean_confidence == pytest.approx(surest[here].mean(), abs=2 / CONFIDENCE_UNIT)
        error += abs(right[here].mean() - surest[here].mean()) * here.mean()
    assert expected_calibration_error(counts.calibration) == pytest.approx(
        error, abs=2 / CONFIDENCE_UNIT
    )


@given(st.integers(0, 10**6), st.permutations(range(5)))
@settings(max_examples=30, deadline=None)
def test_nothing_depends_on_the_order_of_examples_or_labels(seed: int, order: list[int]) -> None:
    true, logits = scored(seed, 80, 1.0)
    report = evaluation_report(Evaluation(EvaluationCounts.count(true, logits)), NAMES)
    shuffled = np.random.default_rng(seed).permutation(len(true))
    again = evaluation_report(
        Evaluation(EvaluationCounts.count(true[shuffled], logits[shuffled])), NAMES
    )
    assert again == report
    # Label `n` of the renamed plan is label `order[n]` of the first.
    renamed = evaluation_report(
        Evaluation(EvaluationCounts.count(np.argsort(order)[true], logits[:, order])),
        [NAMES[place] for place in order],
    )
    assert [renamed.labels[place] for place in np.argsort(order)] == list(report.labels)
    assert renamed.everybody.accuracy == report.everybody.accuracy
    assert isinstance(report.everybody, Summary)
    assert isinstance(renamed.everybody, Summary)
    assert renamed.everybody.macro.f1 == pytest.approx(report.everybody.macro.f1, abs=2e-6)


def test_no_examples_have_no_figures_but_no_failure() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = evaluation_report(Evaluation(EvaluationCounts.empty(3)), NAMES[:3])
    nothing = Averages(0.0, 0.0, 0.0)
    assert report.everybody.accuracy_interval == (0.0, 1.0)
    assert isinstance(report.everybody, Summary)
    assert (report.everybody.macro, report.everybody.weighted) == (nothing, nothing)
    assert report.everybody.macro_roc_auc is None
    assert report.everybody.expected_calibration_error is None
    assert report.reliability == ()
    assert report.confusion == ()
    assert all(
        (row.support, row.precision, row.recall, row.f1, row.roc_auc) == (0, None, None, None, None)
        for row in report.labels
    )
    assert in_words(report.everybody) == (
        "accuracy 0.000000 (95 % interval 0.0000 to 1.0000), macro F1 0.000000"
    )


def test_a_report_holds_the_matrix_and_the_slices() -> None:
    counts = confusion_of([(0, 1), (0, 1), (2, 2)])
    report = evaluation_report(Evaluation(counts, {"f": counts}), NAMES)
    assert report.confusion == ((0, 1, 2), (2, 2, 1))
    assert report.slices == {"f": report.everybody}
    assert "macro ROC-AUC" in in_words(report.everybody)
