"""Examples and the split by subject."""

from __future__ import annotations

from decimal import Decimal

import pytest

from audit.errors import MalformedInput
from client.learning.data import Example, Span, StoredRecord, check_examples, split_by_subject
from client.learning.tasks import read_examples
from tests.client.learning.conftest import MakePlan

EXAMPLES = [Example(f"subject-{n % 400}", f"text {n}", 1 - n % 2) for n in range(1000)]


def test_labels_become_positions_in_the_plan(make_plan: MakePlan) -> None:
    plan = make_plan(labels=("no", "yes"), groups=("f", "m"))
    records = [
        StoredRecord("anna", "text", "yes", "f"),
        StoredRecord("ben", "other text", "no"),
        StoredRecord("carla", "", "no", "x"),  # a group that the plan does not declare
    ]
    assert read_examples(plan, records) == [
        Example("anna", "text", 1, "f"),
        Example("ben", "other text", 0, ""),
        Example("carla", "", 0, ""),
    ]


def test_a_label_that_the_plan_does_not_name_is_refused(make_plan: MakePlan) -> None:
    plan = make_plan(labels=("no", "yes"))
    for label in ("maybe", "", "Yes"):
        with pytest.raises(MalformedInput, match=f"label '{label}' is not one of the plan's 2 lab"):
            read_examples(plan, [StoredRecord("s", "t", "no"), StoredRecord("s", "t", label)])


@pytest.mark.parametrize("label", [-1, 3])
def test_an_index_outside_the_plan_is_refused_of_spans_too(label: int) -> None:
    spans = (Span(0, 1, 2), Span(2, 3, label))
    for example in (Example("s", "t", label), Example("s", "t", 0, "", spans)):
        with pytest.raises(MalformedInput, match=f"label {label} is not one of the plan's 3"):
            check_examples([Example("s", "t", 2), example], 3)
    check_examples([Example("s", "t"), Example("s", "t", spans=(Span(0, 1, 2),))], 3)
    check_examples([Example("s", "t")], 0)


def test_a_subjects_records_stay_together_and_the_share_is_about_right() -> None:
    training, held_out = split_by_subject(EXAMPLES, Decimal("0.2"), b"secret")
    assert sorted(training + held_out, key=lambda e: e.text) == sorted(
        EXAMPLES, key=lambda e: e.text
    )
    subjects = [{example.subject for example in side} for side in (training, held_out)]
    assert not subjects[0] & subjects[1]
    assert 40 < len(subjects[1]) < 125  # 80 of 400 expected, 8 standard deviation


def test_the_split_is_repeatable_and_depends_on_the_secret_and_the_subject_only() -> None:
    split = split_by_subject(EXAMPLES, 0.3, b"secret")
    assert split == split_by_subject(EXAMPLES, Decimal("0.3"), b"secret")
    assert split != split_by_subject(EXAMPLES, 0.3, b"other")
    fewer = split_by_subject(EXAMPLES[::2], 0.3, b"secret")
    assert fewer[1] == [example for example in split[1] if example in EXAMPLES[::2]]
    larger = split_by_subject(EXAMPLES, 0.5, b"secret")
    assert {e.subject for e in split[1]} < {e.subject for e in larger[1]}


@pytest.mark.parametrize("share", [0, 1, -0.5, 2])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="held_out_share"):
        split_by_subject(EXAMPLES, share, b"secret")
