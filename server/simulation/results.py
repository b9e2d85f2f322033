"""What a simulated run says: figures of one variant, and how far sites differ. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from client.arrays import Arrays
from client.learning.evaluation import Evaluation
from client.learning.metrics import Summary, evaluation_report
from client.learning.tasks import counts_of
from compliance.statements import RoundReport, TrainingPlan
from server.runs import RunState
from server.simulation.wire import Traffic


@dataclass(frozen=True)
class Spread:
    """One figure over sites, each with its own held-out subjects.

    Attributes:
        lowest, median, highest: Over the sites that counted.
        sites: How many.
    """

    lowest: float
    median: float
    highest: float
    sites: int


@dataclass(frozen=True)
class RoundFigures:
    """One round.

    Attributes:
        epsilon: The most that a site had spent after it.
        accuracy, macro_f1, perplexity: Of all sites' held-out subjects; None where nobody counted.
        absent: How many sites did not take part, by reason.
    """

    round: int
    phase: str
    participants: int
    absent: Mapping[str, int]
    epsilon: float
    accuracy: float | None
    macro_f1: float | None
    perplexity: float | None
    simulated_seconds: float


@dataclass(frozen=True)
class Figures:
    """One variant.

    Attributes:
        epsilon: What the plan promises.
        epsilon_spent: The most that a site spent.
        clipping: Norms of the phases, in order, a histogram's left out.
        verdict: `completed` or `failed`.
        accuracy_of_sites, macro_f1_of_sites: Of the last round.
        bytes_to_site, bytes_from_site: Of one site in one round that it took part in, mean.
        simulated_seconds: Of a round, mean: computing, sending and receiving.
        computing_seconds: Of one site's answer, median.
        real_seconds: How long this machine took for the whole run.
    """

    epsilon: Decimal
    epsilon_spent: float
    clipping: tuple[float, ...]
    rounds: int
    sites: int
    verdict: str
    reason: str
    history: tuple[RoundFigures, ...]
    accuracy_of_sites: Spread | None
    macro_f1_of_sites: Spread | None
    bytes_to_site: float
    bytes_from_site: float
    simulated_seconds: float
    computing_seconds: float
    real_seconds: float

    @property
    def last(self) -> RoundFigures | None:
        """The last round, if any was finished."""
        return self.history[-1] if self.history else None

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {**asdict(self), "epsilon": float(self.epsilon)}


def figures_of(
    plan: TrainingPlan,
    state: RunState,
    reports: Sequence[RoundReport],
    traffic: Traffic,
    counts: Mapping[str, Arrays],
    real_seconds: float,
) -> Figures:
    """The figures of a run.

    Args:
        plan: What was run.
        state: How it ended.
        reports: Of its rounds.
        traffic: What was sent.
        counts: What each site counted last.
        real_seconds: How long it took.
    """
    summaries = {summary.round: summary.seconds for summary in state.history}
    history = tuple(_round(report, summaries.get(report.round, 0.0)) for report in reports)
    accuracies, f1s = _of_sites(plan, counts)
    # A site that takes part in a round is asked to train, and to evaluate.
    asked = max(1, sum(each.participants for each in history))
    seconds = [each.simulated_seconds for each in history]
    return Figures(
        epsilon=plan.privacy.epsilon,
        epsilon_spent=max((each.epsilon for each in history), default=0.0),
        clipping=tuple(float(p.max_grad_norm) for p in plan.phases if p.kind != "histogram"),
        rounds=plan.rounds,
        sites=len(plan.sites),
        verdict=state.stage,
        reason=state.reason,
        history=history,
        accuracy_of_sites=_spread(accuracies),
        macro_f1_of_sites=_spread(f1s),
        bytes_to_site=traffic.to_sites / asked,
        bytes_from_site=traffic.from_sites / asked,
        simulated_seconds=statistics.fmean(seconds) if seconds else 0.0,
        computing_seconds=statistics.median(traffic.seconds) if traffic.seconds else 0.0,
        real_seconds=real_seconds,
    )


def _round(report: RoundReport, seconds: float) -> RoundFigures:
    absent: dict[str, int] = {}
    for reason in report.absent.values():
        absent[reason] = absent.get(reason, 0) + 1
    metrics = report.metrics
    return RoundFigures(
        round=report.round,
        phase=report.phase,
        participants=len(report.participants),
        absent=absent,
        epsilon=float(max(report.epsilon_by_site.values(), default=Decimal(0))),
        accuracy=None if metrics is None else float(metrics.accuracy),
        macro_f1=None if metrics is None else _number(metrics.macro_f1),
        perplexity=None if metrics is None else _number(metrics.perplexity),
        simulated_seconds=seconds,
    )


def _of_sites(plan: TrainingPlan, counts: Mapping[str, Arrays]) -> tuple[list[float], list[float]]:
    """Accuracy of each site that held somebody out, and macro F1 where a plan classifies."""
    accuracies, f1s = [], []
    kind = counts_of(plan)
    for arrays in counts.values():
        evaluation = Evaluation.from_arrays(arrays, len(plan.labels), plan.groups, kind)
        told = evaluation_report(evaluation, plan.labels).everybody
        if not told.examples:
            continue
        accuracies.append(float(told.accuracy))
        if isinstance(told, Summary):
            f1s.append(float(told.macro.f1))
    return accuracies, f1s


def _spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    return Spread(min(values), statistics.median(values), max(values), len(values))


def _number(value: Decimal | None) -> float | None:
    return None if value is None else float(value)
