"""What a run tells: events (`server.event_kinds`), and lines for people."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TypeVar

from audit.words import count_of
from compliance.statements import TrainingPlan
from server.absences import absence_code
from server.progress import Reporter
from server.rounds import Exchange, Task
from server.runs import RoundSummary, RunState

T = TypeVar("T")


def tell_exchange(reporter: Reporter, task: Task, told: Exchange[T]) -> None:
    """Tell who answered and who did not."""
    for site in sorted(told.accepted):
        reporter.event(
            "answer-accepted", plan=task.plan_id, round=task.round, activity=task.kind, site=site
        )
    for site, reason in sorted(told.absent.items()):
        reporter.event(
            "site-absent",
            plan=task.plan_id,
            round=task.round,
            activity=task.kind,
            site=site,
            code=absence_code(reason),
        )


def tell_round(
    reporter: Reporter, plan_id: str, summary: RoundSummary, epsilon: Mapping[str, Decimal]
) -> None:
    """Tell a round that counts, and what sites say that they spent."""
    if summary.missed:
        reporter.event("round-missed", plan=plan_id, round=summary.round)
    else:
        _tell_finished(reporter, plan_id, summary)
    for site, spent in sorted(epsilon.items()):
        reporter.event(
            "epsilon-reported", plan=plan_id, round=summary.round, site=site, epsilon=float(spent)
        )


def _tell_finished(reporter: Reporter, plan_id: str, summary: RoundSummary) -> None:
    reporter.event(
        "round-finished",
        plan=plan_id,
        round=summary.round,
        phase=summary.phase,
        participants=len(summary.participants),
        absent=len(summary.absent),
        seconds=summary.seconds,
    )


def tell_end(reporter: Reporter, state: RunState) -> None:
    """Tell the outcome of a run."""
    reporter.event("run-ended", plan=state.plan_id, verdict=state.stage, rounds=state.rounds_done)


def round_in_words(
    plan: TrainingPlan, summary: RoundSummary, epsilon: Mapping[str, Decimal]
) -> str:
    """A round that counts, in one line."""
    spent = f", epsilon up to {max(epsilon.values()):.2f}" if epsilon else ""
    measured = f", accuracy {summary.metrics.accuracy:.4f}" if summary.metrics else ""
    if summary.metrics and summary.metrics.perplexity is not None:
        measured += f", perplexity {summary.metrics.perplexity:.2f}"
    absent = "".join(f"; without {site}: {reason}" for site, reason in summary.absent.items())
    missed = " missed," if summary.missed else ""
    return (
        f"round {summary.round + 1} of {plan.rounds} ({summary.phase}),{missed} "
        f"{len(summary.participants)} of {count_of(len(plan.sites), 'site')}{measured}{spent}, "
        f"{summary.seconds:.1f} s{absent}"
    )


def ending_in_words(state: RunState) -> str:
    """How a run ended, in one line."""
    if state.stage == "completed":
        missed = f", {state.rounds_missed} of them missed" if state.rounds_missed else ""
        return f"completed after {count_of(state.rounds_done, 'round')}{missed}"
    return f"failed after {count_of(state.rounds_done, 'round')}: {state.reason}"
