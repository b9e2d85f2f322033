"""Evaluation counts: what they count, that they add up, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.errors import MalformedInput
from client.arrays import pack_arrays, unpack_arrays
from client.learning.data import Example
from client.learning.evaluation import (
    CHUNK_RECORDS,
    CONFIDENCE_BINS,
    CONFIDENCE_UNIT,
    SCORE_BINS,
    Evaluation,
    EvaluationCounts,
    evaluate_examples,
    groups_to_tell,
    sum_evaluations,
)

LABELS = 4

scores = st.floats(-40, 40, width=32)
rows = st.lists(
    st.tuples(st.integers(0, LABELS - 1), st.lists(scores, min_size=LABELS, max_size=LABELS)),
    max_size=30,
)
Rows = list[tuple[int, list[float]]]


def counts_of(told: Rows) -> EvaluationCounts:
    logits = np.array([logits for _, logits in told], dtype=np.float32).reshape(-1, LABELS)
    return EvaluationCounts.count([label for label, _ in told], logits)


def bytes_of(counts: EvaluationCounts) -> bytes:
    return pack_arrays(counts.to_arrays())


@given(rows, rows, rows)
@settings(max_examples=50, deadline=None)
def test_summed_sites_are_the_union_in_any_order(one: Rows, two: Rows, three: Rows) -> None:
    union = counts_of(three + one + two)
    sites = [Evaluation(counts_of(site)) for site in (one, two, three)]
    for order in (sites, sites[::-1]):
        assert bytes_of(sum_evaluations(order).everybody) == bytes_of(union)
    assert union.examples == len(one) + len(two) + len(three)


@given(rows)
@settings(max_examples=100, deadline=None)
def test_what_was_counted_passes_as_counts(told: Rows) -> None:
    evaluation = Evaluation(counts_of(told))
    read = Evaluation.from_arrays(unpack_arrays(pack_arrays(evaluation.to_arrays())), LABELS)
    assert bytes_of(read.everybody) == bytes_of(evaluation.everybody)


@given(rows)
@settings(max_examples=50, deadline=None)
def test_counts_are_those_of_the_raw_scores(told: Rows) -> None:
    """One example at a time, in plain Python's floats."""
    counts = counts_of(told)
    confusion = np.zeros((LABELS, LABELS), int)
    confidence = np.zeros(CONFIDENCE_BINS)
    for true, logits in told:
        odds = np.exp(np.array(logits) - max(logits))
        probability = odds / odds.sum()
        confusion[true, np.argmax(logits)] += 1
        surest = probability[np.argmax(logits)]
        confidence[min(int(surest * CONFIDENCE_BINS), CONFIDENCE_BINS - 1)] += surest
    assert counts.confusion.tolist() == confusion.tolist()
    # At a bin's edge rounding decides; sums over all bins do not depend on it.
    assert counts.calibration[:, 2].sum() / CONFIDENCE_UNIT == pytest.approx(
        confidence.sum(), abs=len(told) / CONFIDENCE_UNIT + 1e-6
    )


def test_scores_are_binned_by_log_odds_and_the_ends_are_open() -> None:
    """Of two labels the log-odds are the difference of the logits."""
    odds = np.array([-1000.0, -16.1, -15.9, -0.1, 0.1, 3.3, 15.9, 16.1, 1000.0])
    logits = np.stack([np.zeros_like(odds), odds], axis=1)
    counts = EvaluationCounts.count(np.ones(len(odds), int), logits)
    places = np.repeat(np.arange(SCORE_BINS), counts.scores[1, 1])
    assert places.tolist() == [0, 0, 0, 63, 64, 77, 127, 127, 127]
    mirrored = np.repeat(np.arange(SCORE_BINS), counts.scores[0, 0])
    assert mirrored.tolist() == sorted(127 - places)
    assert counts.scores[1, 0].sum() == counts.scores[0, 1].sum() == 0


@given(st.lists(st.floats(-60, 60), min_size=2, max_size=40))
@settings(max_examples=100, deadline=None)
def test_bins_never_change_an_order(odds: list[float]) -> None:
    logits = np.stack([np.zeros(len(odds)), np.sort(odds)], axis=1)
    places = [int(np.argmax(EvaluationCounts.count([1], row[None]).scores[1, 1])) for row in logits]
    assert places == sorted(places)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(MalformedInput, match="not finite"):
        EvaluationCounts.count([0, 1], [[0.0, 1.0], [bad, 1.0]])


def test_labels_of_different_plans_do_not_add_up() -> None:
    with pytest.raises(MalformedInput, match="3 labels cannot be added to counts of 4"):
        EvaluationCounts.empty(3) + EvaluationCounts.empty(4)
    with pytest.raises(MalformedInput, match="no evaluation to sum"):
        sum_evaluations([])


Change = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]


def _adding(place: tuple[int, ...], value: int) -> Change:
    def change(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        array[place] += value
        return array

    return change


HONEST = EvaluationCounts.count([0, 0, 1], [[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
"""One prediction of 0.5 (bin 8), two of 0.9999 (bin 15); all right."""


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("scores", lambda array: array.astype(np.int32), "expected int64 scores of shape"),
        ("scores", lambda array: array[:, :, 1:], "expected int64 scores of shape"),
        ("calibration", lambda array: array.T, "expected int64 calibration of shape"),
        ("confusion", _adding((0, 1), -1), "its confusion holds numbers that cannot be counts"),
        ("scores", _adding((0, 0, 0), 2**40), "its scores holds numbers that cannot be counts"),
        ("calibration", _adding((3, 2), -1), "its calibration holds numbers that cannot be"),
        ("confusion", lambda array: array + 10**9, "its confusion holds numbers that cannot"),
        ("confusion", lambda array: array + 5 * 10**8, "more than 1000000000"),
        ("confusion", _adding((1, 0), 1), "its scores count other examples"),
        ("scores", _adding((1, 1, 4), 1), "its scores count other examples"),
        ("scores", _adding((1, 0, 4), 1), "its scores count other examples"),
        ("calibration", _adding((8, 0), 1), "its calibration counts other examples"),
        ("calibration", _adding((8, 1), -1), "its calibration counts other examples"),
        ("calibration", lambda array: array[:, [1, 0, 2]] * 0 + array[::-1], "outside their bin"),
        ("calibration", _adding((8, 2), -1), "confidences outside their bin"),
        ("calibration", _adding((8, 2), CONFIDENCE_UNIT // 16), "confidences outside their bin"),
        ("calibration", _adding((4, 2), 1), "confidences outside their bin"),
    ],
)
def test_what_no_examples_could_give_is_refused(name: str, change: Change, said: str) -> None:
    arrays = HONEST.to_arrays()
    changed = {**arrays, name: change(arrays[name].copy())}
    with pytest.raises(MalformedInput, match=said) as refused:
        Evaluation.from_arrays(changed, 2)
    assert refused.value.fix


def test_more_right_than_there_are_is_refused() -> None:
    arrays = HONEST.to_arrays()
    calibration = arrays["calibration"].copy()
    calibration[8, 1], calibration[15, 1] = 2, 1
    with pytest.raises(MalformedInput, match="more right than there are"):
        Evaluation.from_arrays({**arrays, "calibration": calibration}, 2)


# --- slices --------------------------------------------------------------------------------------


def _people(group: str, subjects: int, records: int = 1) -> list[Example]:
    return [
        Example(f"{group}-{number}", "text", number % 2, group)
        for number in range(subjects)
        for _ in range(records)
    ]


def _evaluated(examples: list[Example]) -> Evaluation[EvaluationCounts]:
    """Every model says label 0, more surely of the later examples."""
    return evaluate_examples(
        examples, lambda rows: np.array([[1 + row / 1000, 0.0] for row in rows]), 2
    )


def test_slices_are_counted_apart_and_are_parts_of_the_whole() -> None:
    examples = _people("f", 20, records=2) + _people("m", 15)
    evaluation = _evaluated(examples)
    assert {group: counts.examples for group, counts in evaluation.slices.items()} == {
        "f": 40,
        "m": 15,
    }
    assert bytes_of(evaluation.slices["f"] + evaluation.slices["m"]) == bytes_of(
        evaluation.everybody
    )
    read = Evaluation.from_arrays(evaluation.to_arrays(), 2, groups=("f", "m", "x"))
    assert pack_arrays(read.to_arrays()) == pack_arrays(evaluation.to_arrays())


def test_more_records_than_fit_in_memory_at_once_are_all_counted() -> None:
    assert _evaluated(_people("", CHUNK_RECORDS + 3)).everybody.examples == CHUNK_RECORDS + 3
    assert _evaluated([]).everybody.examples == 0


@pytest.mark.parametrize(
    ("examples", "told"),
    [
        (_people("f", 30) + _people("m", 11), {"f", "m"}),
        # Ten people in a slice, or ten left by subtraction, are too few, however many records.
        (_people("f", 30) + _people("m", 10, records=5), set()),
        (_people("f", 30) + _people("", 10), set()),
        (_people("f", 30) + _people("", 11), {"f"}),
        (_people("f", 30) + _people("m", 20) + _people("x", 1), {"f"}),
        (_people("f", 30) + _people("x", 6) + _people("y", 6), {"f"}),
        (_people("", 30), set()),
    ],
)
def test_small_slices_are_withheld_also_from_subtraction(
    examples: list[Example], told: set[str]
) -> None:
    assert set(_evaluated(examples).slices) == told


def test_somebody_in_two_groups_makes_neither_larger() -> None:
    both = [Example("both", "text", 0, "f"), Example("both", "text", 0, "m")]
    assert set(_evaluated(_people("f", 10) + _people("m", 20) + both).slices) == set()
    assert set(_evaluated(_people("f", 11) + _people("m", 20) + both).slices) == {"f", "m"}


@given(st.dictionaries(st.sampled_from(["", *"abcdefgh"]), st.integers(0, 40)))
@settings(max_examples=200, deadline=None)
def test_what_is_told_and_what_is_left_are_never_few(subjects: dict[str, int]) -> None:
    told = groups_to_tell(subjects)
    assert all(subjects[group] >= 11 for group in told)
    left = set(subjects) - set(told)
    assert not told or not left or sum(subjects[group] for group in left) >= 11


def test_sites_slices_add_up_whoever_withholds() -> None:
    large = _evaluated(_people("f", 20) + _people("m", 20))
    small = _evaluated(_people("f", 20) + _people("m", 3))
    total = sum_evaluations([large, small, large])
    assert {group: counts.examples for group, counts in total.slices.items()} == {"f": 40, "m": 40}
    assert total.everybody.examples == 103
    assert bytes_of(total.slices["f"]) == bytes_of(large.slices["f"] + large.slices["f"])


def test_slices_that_nobody_declared_or_that_are_no_parts_are_refused() -> None:
    whole = _evaluated(_people("f", 20) + _people("m", 20))
    with pytest.raises(MalformedInput, match="and nothing else"):
        Evaluation.from_arrays(whole.to_arrays(), 2)
    with pytest.raises(MalformedInput, match="and nothing else"):
        Evaluation.from_arrays(whole.to_arrays(), 2, groups=("f", "x"))
    halved = {name: array for name, array in whole.to_arrays().items() if name != "f/scores"}
    with pytest.raises(MalformedInput, match="and nothing else"):
        Evaluation.from_arrays(halved, 2, groups=("f", "m"))
    twice = Evaluation(whole.everybody, {"f": whole.everybody, "m": whole.slices["m"]})
    with pytest.raises(MalformedInput, match="not among all"):
        Evaluation.from_arrays(twice.to_arrays(), 2, groups=("f", "m"))
    spoilt = whole.to_arrays()
    spoilt["f/confusion"] = spoilt["f/confusion"] + 1
    with pytest.raises(MalformedInput, match="other examples"):
        Evaluation.from_arrays(spoilt, 2, groups=("f", "m"))
