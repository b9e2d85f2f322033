"""A limited batch: a uniform subset of those sampled, never more, and only where it is promised.

Who takes part in a step is read off a label histogram in which every subject has a label alone.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2

from audit.errors import MalformedInput
from client.learning import private_sgd
from client.learning.data import Example
from client.learning.private_sgd import SiteTrainer
from client.learning.subject_gradients import SubjectGradients
from client.learning.subject_optimizer import SubjectOptimizer
from client.learning.tasks.text_classification import TextClassifier
from compliance.statements import BatchLimit, Privacy, TrainingPlan
from tests.client.learning.conftest import MakePlan, people, phase

SUBJECTS = 8
POPULATION = [Example(f"subject-{n}", "text", n) for n in range(SUBJECTS)]


def limited(
    make_plan: MakePlan, limit: int | None, rate: str, rounds: int = 1, population: int = 100
) -> TrainingPlan:
    batch_limit = None if limit is None else BatchLimit(subjects=limit, max_population=population)
    counting = phase(
        "histogram",
        rounds=rounds,
        sampling_rate=rate,
        learning_rate="1",
        max_grad_norm="1",
        batch_limit=batch_limit,
    )
    return make_plan(
        counting,
        phase("probe"),
        labels=tuple(f"label {number}" for number in range(SUBJECTS)),
        class_weights="histogram",
    )


def batches(
    make_plan: MakePlan, base: Path, limit: int | None, rate: str, steps: int
) -> list[set[int]]:
    """Who took part in each of so many steps."""
    plan = limited(make_plan, limit, rate, rounds=steps)
    model = TextClassifier.build(plan, base)
    trainer = SiteTrainer(model, plan, POPULATION, seed=8)
    state = model.get_state()
    taken = []
    for number in range(steps):
        counted = trainer.train_round(number, state).update["label_histogram"]
        one = 1 / (float(rate) * 10)
        shares = counted / one
        assert np.allclose(shares, shares.round(), atol=1e-4), "whole subjects, or none of them"
        taken.append(set(np.flatnonzero(shares.round()).tolist()))
    return taken


def test_never_more_than_the_limit_and_any_subset_alike(
    make_plan: MakePlan, tiny_base: Path
) -> None:
    """Everybody is sampled, and three of eight stay: 56 subsets, each as likely as the others."""
    taken = batches(make_plan, tiny_base, 3, "1", 1500)
    assert {len(batch) for batch in taken} == {3}
    subsets = dict.fromkeys(combinations(range(SUBJECTS), 3), 0)
    for batch in taken:
        subsets[tuple(sorted(batch))] += 1  # type: ignore[index]
    expected = len(taken) / len(subsets)
    statistic = sum((count - expected) ** 2 / expected for count in subsets.values())
    assert statistic < chi2.ppf(0.999, len(subsets) - 1)


def test_of_a_poisson_sample_too(make_plan: MakePlan, tiny_base: Path) -> None:
    """Sizes are a binomial's, cut at the limit; within each size all subjects are alike."""
    taken = batches(make_plan, tiny_base, 4, "0.5", 1500)
    sizes = np.bincount([len(batch) for batch in taken], minlength=5)
    assert len(sizes) == 5
    ways = np.array([1, 8, 28, 56, 256 - 93]) / 256
    statistic = float(((sizes - 1500 * ways) ** 2 / (1500 * ways)).sum())
    assert statistic < chi2.ppf(0.999, 4)
    appears = np.bincount([subject for batch in taken for subject in batch], minlength=SUBJECTS)
    expected = appears.sum() / SUBJECTS
    assert float(((appears - expected) ** 2 / expected).sum()) < chi2.ppf(0.999, SUBJECTS - 1)


@pytest.mark.parametrize("rate", ["0.2", "0.0000001"])
def test_a_step_below_the_limit_is_as_without_one(
    make_plan: MakePlan, tiny_base: Path, rate: str
) -> None:
    """Also one that nobody is in."""
    free = batches(make_plan, tiny_base, None, rate, 12)
    most = max(len(batch) for batch in free)
    assert batches(make_plan, tiny_base, max(1, most), rate, 12) == free
    if rate == "0.2":
        assert most > 1
        narrow = batches(make_plan, tiny_base, most - 1, rate, 12)
        first = next(step for step, batch in enumerate(free) if len(batch) == most)
        assert narrow[:first] == free[:first]
        assert len(narrow[first]) == most - 1
        assert narrow[first] < free[first], "of those sampled, not of everybody"


def test_the_limit_counts_subjects_and_not_records(
    model: TextClassifier, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of seven people with up to four records two remain, with all of theirs."""
    seen: list[int] = []

    class Counting(SubjectOptimizer):
        def accumulate(
            self, gradients: SubjectGradients, subject_count: int, *, finished: bool = True
        ) -> None:
            seen.append(subject_count)
            super().accumulate(gradients, subject_count, finished=finished)

    monkeypatch.setattr(private_sgd, "SubjectOptimizer", Counting)
    plan = make_plan(phase(batch_limit=BatchLimit(subjects=2, max_population=7)))
    SiteTrainer(model, plan, people([4, 1, 4, 2, 4, 1, 3])).train_round(0, model.get_state())
    assert sum(seen) == 2


def test_the_divisor_and_the_noise_do_not_follow_the_limit(
    model: TextClassifier, make_plan: MakePlan
) -> None:
    """They are the plan's rate times its nominal subjects, however many remain."""
    updates = []
    for limit in (None, BatchLimit(subjects=1, max_population=100)):
        plan = make_plan(phase(noise_multiplier="1", batch_limit=limit))
        trainer = SiteTrainer(model, plan, [], seed=2)
        updates.append(trainer.train_round(0, model.get_state()).update["head.weight"])
        model.set_state({n: a * 0 for n, a in model.get_state().items()})
    np.testing.assert_allclose(updates[0], updates[1], atol=1e-6)


def test_a_site_with_more_subjects_than_promised_is_refused(
    model: TextClassifier, make_plan: MakePlan
) -> None:
    limit = BatchLimit(subjects=2, max_population=3)
    for phases in ([phase(batch_limit=limit)], [phase(), phase("adapter", batch_limit=limit)]):
        plan = make_plan(*phases)
        SiteTrainer(model, plan, people([2, 4, 1]))
        with pytest.raises(MalformedInput, match="at most 3 subjects") as refused:
            SiteTrainer(model, plan, people([1, 1, 1, 1]))
        assert "max_population" in refused.value.fix
        assert " 4 " not in str(refused.value), "it tells nobody how many there are"


def test_a_limit_above_the_population_is_no_limit(make_plan: MakePlan) -> None:
    """And is refused in a plan."""
    fields: dict[str, Any] = {"subjects": 5, "max_population": 4}
    with pytest.raises(ValueError, match="must not be larger than the population"):
        BatchLimit(**fields)
    privacy: Privacy = make_plan().privacy
    assert privacy.nominal_subjects == 10
