"""What the coordinator states of a round and of a run, from what was aggregated and measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal

from client.arrays import arrays_digest
from client.learning.aggregation import Iterate
from client.learning.language_evaluation import LanguageSummary
from client.learning.metrics import EvaluationReport
from compliance.statements import Metrics, PhaseKind, RoundReport, RunOutcome, SiteReport
from server.runs import AggregatedRound, RunState


def round_report(
    plan_id: str,
    phase: PhaseKind,
    aggregated: AggregatedRound,
    advanced: Iterate,
    epsilon_by_site: Mapping[str, Decimal],
    metrics: Metrics | None,
    finished_at: str,
) -> RoundReport:
    """A round's report, to be signed.

    Args:
        plan_id: The plan's digest.
        phase: The phase that the round is of.
        aggregated: Who took part, and what came of it.
        advanced: The model after the round.
        epsilon_by_site: What each site says that it has spent.
        metrics: What sites measured; None when nobody did.
        finished_at: RFC 3339 time.
    """
    return RoundReport(
        plan_id=plan_id,
        round=aggregated.round,
        phase=phase,
        participants=aggregated.participants,
        absent=aggregated.absent,
        update_norm=aggregated.update_norm,
        state_digest=arrays_digest(advanced.to_arrays()),
        model_digest=arrays_digest(advanced.average),
        epsilon_by_site=dict(epsilon_by_site),
        metrics=metrics,
        finished_at=finished_at,
    )


def run_outcome(state: RunState, finished_at: str) -> RunOutcome:
    """How a run ended, to be signed."""
    return RunOutcome(
        plan_id=state.plan_id,
        verdict="completed" if state.stage == "completed" else "failed",
        reason=state.reason,
        rounds_done=state.rounds_done,
        metrics=state.metrics,
        finished_at=finished_at,
    )


def epsilon_after(
    before: Mapping[str, Decimal], reports: Iterable[SiteReport]
) -> dict[str, Decimal]:
    """What each site says that it has spent, by name; it never becomes less."""
    epsilon = dict(before)
    for report in reports:
        epsilon[report.site] = max(epsilon.get(report.site, Decimal(0)), report.epsilon_spent)
    return dict(sorted(epsilon.items()))


def metrics_of(evaluation: EvaluationReport) -> Metrics:
    """What signed statements say of an evaluation."""
    figures = evaluation.everybody
    accuracy, examples = _fraction(figures.accuracy), figures.examples
    if isinstance(figures, LanguageSummary):
        perplexity = None if figures.perplexity is None else _fraction(figures.perplexity)
        return Metrics(accuracy=accuracy, perplexity=perplexity, examples=examples)
    return Metrics(accuracy=accuracy, macro_f1=_fraction(figures.macro.f1), examples=examples)


def _fraction(value: float) -> Decimal:
    return Decimal(f"{value:.6f}")
