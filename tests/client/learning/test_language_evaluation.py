"""Counts of predicted tokens: what they count, that they add up, what is refused, the interval."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.errors import MalformedInput
from client.arrays import pack_arrays, unpack_arrays
from client.learning.evaluation import Evaluation, EvaluationCounts, sum_evaluations
from client.learning.intervals import ratio_interval
from client.learning.language_evaluation import (
    LARGEST_LOSS,
    MAX_RECORD_TOKENS,
    LanguageCounts,
    language_in_words,
    language_summary,
)
from client.learning.tally import MAX_EXAMPLES

Record = npt.NDArray[np.float64]

token = st.tuples(st.floats(0, 50, width=32), st.booleans())
records = st.lists(
    st.lists(token, max_size=12).map(lambda t: np.array(t, np.float64).reshape(-1, 2)), max_size=12
)


def bytes_of(counts: LanguageCounts) -> bytes:
    return pack_arrays(counts.to_arrays())


@given(records, records)
@settings(max_examples=100, deadline=None)
def test_summed_sites_are_the_union_and_pass_as_counts(
    one: list[Record], two: list[Record]
) -> None:
    union = LanguageCounts.count(two + one)
    total = sum_evaluations([Evaluation(LanguageCounts.count(side)) for side in (one, two)])
    assert bytes_of(total.everybody) == bytes_of(union)
    arrays = unpack_arrays(pack_arrays(total.to_arrays()))
    read = Evaluation.from_arrays(arrays, 0, (), LanguageCounts)
    assert bytes_of(read.everybody) == bytes_of(union)


@given(records)
@settings(max_examples=50, deadline=None)
def test_perplexity_is_the_exponential_of_the_mean_loss(told: list[Record]) -> None:
    summary = language_summary(LanguageCounts.count(told))
    tokens = np.concatenate(told) if told else np.zeros((0, 2))
    assert summary.examples == len(tokens)
    assert summary.records == sum(len(record) > 0 for record in told)
    if not len(tokens):
        assert (summary.perplexity, summary.perplexity_interval) == (None, None)
        return
    mean = np.minimum(tokens[:, 0], LARGEST_LOSS).mean()
    assert summary.perplexity == pytest.approx(math.exp(mean), rel=1e-4, abs=1e-5)
    assert summary.accuracy == pytest.approx(tokens[:, 1].mean(), abs=1e-6)
    assert summary.perplexity is not None
    if summary.perplexity_interval is not None:
        low, high = summary.perplexity_interval
        assert low <= summary.perplexity * (1 + 1e-6)
        assert high >= summary.perplexity * (1 - 1e-6)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_losses_that_are_not_finite_are_refused(loss: float) -> None:
    with pytest.raises(MalformedInput, match="not finite"):
        LanguageCounts.count([np.array([[loss, 0.0]])])


HONEST = LanguageCounts.count([np.array([[0.5, 1.0], [2.0, 0.0]]), np.array([[1.0, 1.0]])])


@pytest.mark.parametrize(
    ("name", "place", "value", "said"),
    [
        ("predictions", 0, -1, "cannot be counts"),
        ("products", 2, -1, "cannot be counts"),
        ("predictions", 0, MAX_EXAMPLES + 1, "more than"),
        ("predictions", 1, 4, "other tokens"),
        ("predictions", 3, 4, "other tokens"),
        ("predictions", 3, 0, "other tokens"),
        ("predictions", 2, 10**9, "larger than they can be"),
        ("products", 0, 1, "products"),
        ("products", 0, 3 * MAX_RECORD_TOKENS + 10, "products"),
        ("products", 1, 0, "products"),
        ("products", 1, 10**9, "products"),
        ("products", 2, 0, "products"),
        ("products", 2, 10**12, "products"),
    ],
)
def test_what_no_records_could_have_given_is_refused(
    name: str, place: int, value: int, said: str
) -> None:
    arrays = {key: array.copy() for key, array in HONEST.to_arrays().items()}
    arrays[name][place] = value
    with pytest.raises(MalformedInput, match=said):
        Evaluation.from_arrays(arrays, 0, (), LanguageCounts)


@pytest.mark.parametrize(
    "changed",
    [
        {"predictions": np.zeros(3, np.int64)},
        {"predictions": np.zeros(4, np.float64)},
        {"products": np.zeros((3, 1), np.int64)},
        {"confusion": np.zeros((2, 2), np.int64)},
    ],
)
def test_other_arrays_are_refused(changed: dict[str, npt.NDArray[np.generic]]) -> None:
    with pytest.raises(MalformedInput, match="expected"):
        Evaluation.from_arrays({**HONEST.to_arrays(), **changed}, 0, (), LanguageCounts)


def test_counts_of_language_and_of_labels_do_not_add_up() -> None:
    with pytest.raises(MalformedInput, match="cannot be added"):
        HONEST + EvaluationCounts.empty(0)  # type: ignore[operator]


def test_the_sums_of_a_thousand_full_sites_stay_below_the_end_of_int64() -> None:
    longest = np.stack([np.full(MAX_RECORD_TOKENS, 40.0), np.ones(MAX_RECORD_TOKENS)], axis=1)
    one = LanguageCounts.count([longest])
    most = max(int(array.max()) for array in one.to_arrays().values())
    assert most * (MAX_EXAMPLES // MAX_RECORD_TOKENS) * 1000 < 2**63


def test_the_interval_holds_for_records_whose_tokens_are_alike() -> None:
    """Tokens of a record share most of their loss: an interval over tokens would be too narrow."""
    random = np.random.default_rng(3)
    covered = {"records": 0, "tokens": 0}
    true, repeats = 3.0, 300
    for _ in range(repeats):
        told = []
        for _record in range(60):
            length = int(random.integers(5, 40))
            losses = true + random.normal(0, 0.6) + random.normal(0, 0.3, length)
            told.append(np.stack([losses, np.zeros(length)], axis=1))
        interval = language_summary(LanguageCounts.count(told)).perplexity_interval
        assert interval is not None
        covered["records"] += interval[0] <= math.exp(true) <= interval[1]
        every = np.concatenate(told)[:, 0]
        half = 1.96 * every.std() / math.sqrt(len(every))
        covered["tokens"] += abs(every.mean() - true) <= half
    # 95 % of 300 is 285; a standard deviation is 4.
    assert 270 <= covered["records"] <= 297
    assert covered["tokens"] < 200


def test_one_record_alone_has_no_interval() -> None:
    assert ratio_interval(1, 10, 20.0, (100.0, 200.0, 400.0)) is None
    summary = language_summary(LanguageCounts.count([np.array([[1.0, 0.0]])]))
    assert summary.perplexity == pytest.approx(math.e, rel=1e-5)
    assert summary.perplexity_interval is None
    assert "interval" not in language_in_words(summary).partition("next-token")[0]


def test_the_figures_in_words() -> None:
    # Records of 2 and 1 tokens, and losses of 2.5 and 1: a mean of 7/6, and a half width of
    # 1.96 · sqrt(2 · ((2.5 - 14/6)² + (1 - 7/6)²)) / 3 = 0.2178.
    assert language_in_words(language_summary(HONEST)) == (
        "perplexity 3.2113 (95 % interval 2.5828 to 3.9926), "
        "next-token accuracy 0.666667 (95 % interval 0.2077 to 0.9385)"
    )
