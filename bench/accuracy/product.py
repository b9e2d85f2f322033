"""Runs of the product's own trainer and aggregation, with privacy and without."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

from bench.accuracy.datasets import Dataset
from client.learning.accounting import events_of, reported_epsilon
from client.learning.aggregation import advance, begin, state_to_send
from client.learning.base_model import base_model_digest, resolve_base_model
from client.learning.data import StoredRecord
from client.learning.distributed_noise import noise_share
from client.learning.metrics import accuracy, macro_f1
from client.learning.private_sgd import SiteTrainer
from client.learning.task_recipes import recommended_for
from client.learning.tasks import build_model, read_examples
from compliance.statements import BaseModelReference, Phase, Privacy, TrainingPlan, utc_now

DELTA: Final = Decimal("0.00001")
EVERYTHING: Final = "everything"


@dataclass(frozen=True)
class Score:
    """Of one run, on the test records."""

    accuracy: float
    macro_f1: float


@dataclass(frozen=True)
class Run:
    """Who trains on what, under which phases."""

    key: str
    title: str
    dataset: Dataset
    sites: Mapping[str, Sequence[StoredRecord]]
    phases: tuple[Phase, ...]
    epsilon: int | None
    noise_sites: int | None = None

    @property
    def nominal_subjects(self) -> int:
        """The plan's public number of subjects a site."""
        return self.dataset.nominal_subjects * len(self.dataset.sites) // len(self.sites)

    @property
    def steps(self) -> int:
        """Of all sites in one repetition."""
        steps = sum(phase.rounds * phase.steps_per_round for phase in self.phases)
        return steps * len(self.sites)

    def promise(self) -> str:
        """What a site promises its subjects."""
        if self.epsilon is None:
            return "no guarantee"
        return f"ε = {reported_epsilon(events_of(self.phases), DELTA)} at δ = {DELTA}, each site"

    def plan(self) -> TrainingPlan:
        """As a coordinator would propose it."""
        base = resolve_base_model(self.dataset.base_model)
        return TrainingPlan(
            name=self.dataset.name.replace("_", "-"),
            federation="bench",
            author="bench",
            created_at=utc_now(),
            base_model=BaseModelReference(
                name=self.dataset.base_model, digest=base_model_digest(base)
            ),
            task=self.dataset.task,
            labels=self.dataset.labels,
            features=self.dataset.features,
            max_tokens=self.dataset.max_tokens,
            phases=self.phases,
            privacy=Privacy(
                epsilon=Decimal(self.epsilon or 100),
                delta=DELTA,
                nominal_subjects=self.nominal_subjects,
                max_records_per_subject=1,
                noise_sites=self.noise_sites,
            ),
            secure_aggregation=self.noise_sites is not None,
            purpose="benchmark",
            legal_basis="consent",
            retention_days=1,
            sites=tuple(self.sites),
            quorum=len(self.sites),
        )


def private_run(dataset: Dataset, epsilon: int, *, central: bool) -> Run:
    """What a plan that states ε only gets: four sites, or one with all the data."""
    sites = _sites(dataset, central=central)
    phases = recommended_for(
        dataset.task,
        Decimal(epsilon),
        DELTA,
        base_model=dataset.base_model,
        label_count=len(dataset.labels),
        nominal_subjects=dataset.nominal_subjects * len(dataset.sites) // len(sites),
        site_count=len(sites),
    )
    who, title = ("central", "one site") if central else ("federated", "each site's own DP")
    return Run(
        f"{dataset.name}.{who}_dp_epsilon_{epsilon}",
        f"{dataset.name}, {title}, ε = {epsilon}",
        dataset,
        sites,
        phases,
        epsilon,
    )


def distributed_run(dataset: Dataset, epsilon: int) -> Run:
    """Four honest sites that share the noise, of which nobody sees more than their sum."""
    own = private_run(dataset, epsilon, central=False)
    return replace(
        own,
        key=f"{dataset.name}.distributed_dp_epsilon_{epsilon}",
        title=f"{dataset.name}, noise distributed over the sites, ε = {epsilon}",
        noise_sites=len(own.sites),
    )


def plain_run(dataset: Dataset, *, central: bool) -> Run:
    """No privacy: a millionth of the noise, and a clipping norm that no gradient reaches."""
    sites = _sites(dataset, central=central)
    tabular = dataset.task == "tabular-classification"
    phase = Phase(
        kind="full" if tabular else "probe",
        rounds=250,
        steps_per_round=2,
        sampling_rate=Decimal("0.2"),
        learning_rate=PLAIN_RATE_PER_LABEL * len(dataset.labels),
        max_grad_norm=Decimal(20),
        noise_multiplier=Decimal("0.000001"),
    )
    who, title = ("central", "one site") if central else ("federated", "federated")
    return Run(
        f"{dataset.name}.{who}_plain",
        f"{dataset.name}, {title}, no privacy",
        dataset,
        sites,
        (phase,),
        None,
    )


PLAIN_RATE_PER_LABEL: Final = Decimal(2)
"""Not tuned. At the start a logit's curvature is about `1 / labels` times the features' largest
variance, which is below 1: steps of this length cannot oscillate, and 500 of them go far."""


def scores_of(
    run: Run, repetitions: int, seed: int | None, progress: Callable[[], None]
) -> Iterator[Score]:
    """Of the model that each repetition would release.

    Repetitions go on with the same trainers, whose noise is never the same twice: what lies below
    the trained part is computed once.
    """
    plan = run.plan()
    base = resolve_base_model(run.dataset.base_model)
    model = build_model(plan, base, seed=0)
    start = model.get_state()
    trainers = [
        SiteTrainer(
            model,
            plan,
            read_examples(plan, records),
            None if seed is None else seed * len(run.sites) + at,
            noise_share=noise_share(plan),
        )
        for at, records in enumerate(run.sites.values())
    ]
    test = read_examples(plan, run.dataset.test)
    for _ in range(repetitions):
        iterate = begin(start)
        for round_index in range(plan.rounds):
            state = state_to_send(iterate, plan)
            updates = [
                trainer.train_round(round_index, state, lambda _done, _all: progress()).update
                for trainer in trainers
            ]
            iterate = advance(iterate, plan, updates)
        confusion = trainers[0].evaluate(iterate.average, test).everybody.confusion
        yield Score(accuracy(confusion), macro_f1(confusion))


def _sites(dataset: Dataset, *, central: bool) -> Mapping[str, Sequence[StoredRecord]]:
    if not central:
        return dataset.sites
    return {EVERYTHING: [record for records in dataset.sites.values() for record in records]}
