"""What a run tells as events (`server.event_kinds`), beside the lines for people."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TypeVar

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
