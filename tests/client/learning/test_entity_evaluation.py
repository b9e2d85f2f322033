"""Spans that are found exactly: counted, summed, checked, and told by label."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.errors import MalformedInput
from client.learning.data import Span
from client.learning.entity_evaluation import (
    SpanCounts,
    count_entities,
    entities_in_words,
    entity_report,
    runs,
)
from client.learning.evaluation import Evaluation
from client.learning.metrics import Summary, evaluation_report, report_in_words

NAMES = ("O", "person", "city")
labels = st.lists(st.integers(0, 2), max_size=15)


def counts_of(told: list[tuple[list[int], list[int]]]) -> SpanCounts:
    """Counts of texts whose tokens are and are said to be so, spans being the runs of labels."""
    true = [label for truth, _ in told for label in truth]
    said = [label for _, guess in told for label in guess]
    logits = 3.0 * np.eye(3)[said] if said else np.zeros((0, 3))
    entities = count_entities([(guess, runs(truth)) for truth, guess in told], 3)
    return SpanCounts.of_tokens(true, logits, entities)


texts = st.lists(
    labels.flatmap(
        lambda truth: st.tuples(
            st.just(truth),
            st.lists(st.integers(0, 2), min_size=len(truth), max_size=len(truth)),
        )
    ),
    max_size=6,
)


@given(texts, texts)
@settings(max_examples=100, deadline=None)
def test_counts_add_up_and_pass_as_counts(
    one: list[tuple[list[int], list[int]]], two: list[tuple[list[int], list[int]]]
) -> None:
    summed, union = counts_of(one) + counts_of(two), counts_of(one + two)
    read = Evaluation.from_arrays(summed.to_arrays(), 3, (), SpanCounts).everybody
    for name, array in union.to_arrays().items():
        assert np.array_equal(getattr(read, name), array)


@given(labels)
@settings(max_examples=100, deadline=None)
def test_runs_are_the_maximal_spans_of_equal_labels(told: list[int]) -> None:
    painted = [0] * len(told)
    for span in runs(told):
        assert span.start < span.end
        painted[span.start : span.end] = [span.label] * (span.end - span.start)
        assert told[span.start - 1 : span.start] != [span.label]
        assert told[span.end : span.end + 1] != [span.label]
    assert painted == told


def test_only_the_same_tokens_with_the_same_label_are_found() -> None:
    predicted = [1, 1, 0, 2, 2, 0, 1, 1]
    labelled = [
        Span(0, 2, 1),  # found
        Span(3, 4, 2),  # too long
        Span(6, 7, 1),  # two spans that touch
        Span(7, 8, 1),
        Span(0, 0, 2),  # cut away
    ]
    assert count_entities([(predicted, labelled)], 3).tolist() == [[0, 0, 0], [1, 2, 3], [0, 1, 2]]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([-1, 0, 0], "cannot be counts"),
        ([0, 10**10, 0], "cannot be counts"),
        ([3, 2, 5], "more found"),
        ([3, 5, 2], "more found"),
        ([0, 5, 0], "other tokens"),
    ],
)
def test_what_no_texts_could_have_given_is_refused(row: list[int], said: str) -> None:
    arrays: dict[str, Any] = counts_of([([1, 1, 0, 2], [1, 1, 0, 1])]).to_arrays()
    arrays["entities"] = arrays["entities"].copy()
    arrays["entities"][1] = row
    with pytest.raises(MalformedInput, match=said):
        Evaluation.from_arrays(arrays, 3, (), SpanCounts)


def test_spans_of_the_first_label_are_refused() -> None:
    arrays = counts_of([([0, 0], [0, 0])]).to_arrays()
    arrays["entities"] = np.array([[0, 0, 1], [0, 0, 0], [0, 0, 0]], np.int64)
    with pytest.raises(MalformedInput, match="what is no entity"):
        Evaluation.from_arrays(arrays, 3, (), SpanCounts)


def test_the_report_is_by_label_by_group_and_of_all() -> None:
    ward = counts_of([([1, 1, 0, 2, 0], [1, 1, 0, 2, 1])])
    home = counts_of([([0, 2, 2], [0, 2, 0])])
    report = evaluation_report(Evaluation(ward + home, {"ward": ward}), NAMES)
    assert isinstance(report.everybody, Summary)
    assert report.everybody.examples == 8
    spans = report.entities
    assert spans is not None
    person, city = spans.labels
    assert (person.label, person.support, person.predicted, person.found) == ("person", 1, 2, 1)
    assert (person.precision, person.recall) == (0.5, 1.0)
    assert person.f1 == pytest.approx(2 / 3, abs=1e-6)
    assert (city.support, city.predicted, city.found, city.f1) == (2, 2, 1, 0.5)
    everybody = spans.everybody
    assert (everybody.support, everybody.predicted, everybody.found) == (3, 4, 2)
    assert everybody.f1 == pytest.approx(4 / 7, abs=1e-6)
    assert spans.slices["ward"].recall == 1.0
    assert everybody.recall_interval is not None
    assert not math.isclose(*everybody.recall_interval)
    line = report_in_words(report)
    assert line.startswith("of 3 spans: precision 0.5000, recall 0.6667, F1 0.5714; of tokens: ")


def test_no_spans_have_no_figures_but_no_failure() -> None:
    report = entity_report(SpanCounts.empty(3), {}, NAMES)
    assert report.everybody.f1 is None
    assert report.labels[0].precision is None
    assert entities_in_words(report.everybody) == "no spans"
