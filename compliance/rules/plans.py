"""What may be planned, decided and reported."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from audit.words import count_of
from compliance.rules.access import Bearer
from compliance.rules.ruling import ALLOWED, Refused, Ruling, contradiction
from compliance.statements import RoundReport, RunOutcome, SiteReport, TrainingPlan
from compliance.wire import PlanState, ReleaseState

ENDED: Final[tuple[PlanState, ...]] = ("completed", "failed")
"""States of a plan whose run is over."""


def keeps_name(state: PlanState) -> bool:
    """Whether a plan's name is its own: an officer's rejection gives it back."""
    return state != "rejected"


def is_same_proposal(one: TrainingPlan, other: TrainingPlan) -> bool:
    """Whether two plans ask for the same, whenever they were made and in whichever format."""
    unimportant = {"format", "created_at"}
    return one.model_dump(exclude=unimportant) == other.model_dump(exclude=unimportant)


def may_submit_plan(
    plan: TrainingPlan, known_sites: Collection[str], named: tuple[str, PlanState] | None = None
) -> Ruling:
    """Whether a plan asks only sites that take part, under a name that no other plan has.

    Args:
        plan: The plan.
        known_sites: Sites that take part.
        named: Id and state of the plan that has its name now, if any (`keeps_name`).
    """
    missing = sorted(set(plan.sites) - set(known_sites))
    if missing:
        return contradiction(
            "site-unknown",
            f"not an approved site: {', '.join(missing)}",
            "admit them first: `server admit SITE`",
        )
    if named is not None:
        plan_id, state = named
        return Refused(
            "name-in-use",
            f"another plan has the name {plan.name}: {plan_id}, {state}",
            "give this one another name; a name is free again once its plan was rejected",
            "conflict",
        )
    return ALLOWED


def may_decide(
    officer: Bearer,
    *,
    submitted_by: str,
    author: str,
    state: PlanState | ReleaseState,
    undecided: PlanState | ReleaseState,
) -> Ruling:
    """Whether an officer may approve or reject: undecided, and not their own.

    Args:
        officer: Who decides.
        submitted_by: The principal that submitted it.
        author: The author that the document names; the same as `submitted_by` if it names none.
        state: Where it stands.
        undecided: Where it must stand.
    """
    if officer.name in (submitted_by, author):
        return Refused(
            "own-work",
            "nobody decides about what they submitted themselves",
            "ask another officer",
        )
    if state == undecided:
        return ALLOWED
    if state == "announced":
        return Refused(
            "content-missing",
            "the release's content has not been uploaded",
            "wait for the coordinator",
            "conflict",
        )
    return Refused("already-decided", f"it is {state} already", status="conflict")


def may_report_round(
    report: RoundReport, plan: TrainingPlan, plan_id: str, state: PlanState
) -> Ruling:
    """Whether a round report belongs to a running plan. A repeated round is new evidence."""
    running = _running(report.plan_id, plan_id, state)
    if isinstance(running, Refused):
        return running
    if report.round >= plan.rounds:
        return contradiction("round-unknown", f"the plan has only {count_of(plan.rounds, 'round')}")
    if report.phase != plan.phase_of(report.round).kind:
        return contradiction("phase-mismatch", "the round belongs to another phase")
    named = [*report.participants, *report.absent]
    if len(set(named)) != len(named) or set(named) != set(plan.sites):
        return contradiction(
            "participants-mismatch", "each site of the plan must be either present or absent, once"
        )
    return _quorum_or_missed(report, plan)


def _quorum_or_missed(report: RoundReport, plan: TrainingPlan) -> Ruling:
    """A round has a quorum, or no participant and no update, where its plan bears such rounds."""
    if len(report.participants) >= plan.quorum:
        return ALLOWED
    if report.participants:
        return contradiction(
            "quorum-missing",
            f"{count_of(len(report.participants), 'participant')}: no quorum of {plan.quorum}",
            "report it without participants: nobody's update may count",
        )
    if not plan.missed_rounds:
        return contradiction("round-missed", "the plan bears no round without a quorum")
    if report.update_norm:
        return contradiction("round-missed", "without participants there is no update")
    return ALLOWED


def may_report_site(
    report: SiteReport, plan: TrainingPlan, plan_id: str, state: PlanState
) -> Ruling:
    """Whether a site's report belongs to an approved plan that asked it.

    A report of more epsilon than the plan allows is recorded: it is evidence. `may_release` refuses
    what came of it. So is one that comes late: the site did what it says when the run had ended.
    """
    running = _running(report.plan_id, plan_id, "approved" if state in ENDED else state)
    if isinstance(running, Refused):
        return running
    if report.site not in plan.sites:
        return Refused("site-not-asked", "the plan does not name this site", status="forbidden")
    if report.round >= plan.rounds:
        return contradiction("round-unknown", f"the plan has only {count_of(plan.rounds, 'round')}")
    if report.base_model_digest != plan.base_model.digest:
        return contradiction("base-model-mismatch", "the site trained another base model")
    return ALLOWED


def may_close(
    outcome: RunOutcome, plan: TrainingPlan, plan_id: str, state: PlanState, missed: int = 0
) -> Ruling:
    """Whether a run's outcome belongs to a running plan.

    Args:
        outcome: How the coordinator says that it ended.
        plan: The plan.
        plan_id: Its digest.
        state: Where the plan stands.
        missed: Of its reported rounds, how many had no quorum.
    """
    running = _running(outcome.plan_id, plan_id, state)
    if isinstance(running, Refused):
        return running
    if outcome.rounds_done > plan.rounds:
        return contradiction("round-unknown", f"the plan has only {count_of(plan.rounds, 'round')}")
    if outcome.verdict == "completed" and outcome.rounds_done < plan.rounds:
        return contradiction("rounds-missing", "a run with rounds missing is failed, not completed")
    if outcome.verdict == "completed" and missed:
        if missed > plan.missed_rounds:
            return contradiction(
                "rounds-missed",
                f"{count_of(missed, 'round')} had no quorum, the plan bears {plan.missed_rounds}",
            )
        if missed >= plan.rounds or outcome.metrics is None:
            return contradiction(
                "rounds-missed", "a run that trained or measured nothing is failed"
            )
    return ALLOWED


def _running(named: str, plan_id: str, state: PlanState) -> Ruling:
    if named != plan_id:
        return contradiction("plan-mismatch", "the statement is about another plan")
    if state != "approved":
        return Refused("plan-not-approved", f"the plan is {state}, not approved", status="conflict")
    return ALLOWED
