"""Where a plan starts from: the kept model, the plans that made it, and what they tell together.

* The line of a plan is read from the compliance service; each plan of it must carry this
  coordinator's own signature and be the one that its successor names.
* Whoever releases a model that started from others' rounds gives out those rounds too. So its ε is
  that of all of them, composed exactly, site by site.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Protocol

from audit.errors import VerificationFailed
from audit.keys import VerifyKey
from audit.statement import verify_statement
from client.learning.accounting import Event, event_of_subject, events_of, reported_epsilon
from client.learning.plan_model import State, check_state
from compliance.resources import PlanEvidence, PlanView
from compliance.rules.starts import Part, line_of
from compliance.statements import Phase, RoundReport, StartsFrom, TrainingPlan


class Plans(Protocol):
    """The part of `compliance.api.ComplianceClient` that knows plans."""

    def plan(self, plan_id: str) -> PlanView:
        """A plan."""

    def plan_evidence(self, plan_id: str) -> PlanEvidence:
        """What was reported of its rounds."""


class Opens(Protocol):
    """The part of `server.checkpoints.Checkpoints` that gives a kept model."""

    def open(self, plan_id: str, rounds: int, digest: str, now: datetime) -> dict[str, Any]:
        """The arrays."""


@dataclass(frozen=True)
class Start:
    """Where a plan that is being proposed starts.

    Attributes:
        statement: As the plan says it.
        earlier: The plan that had this model.
    """

    statement: StartsFrom
    earlier: TrainingPlan

    @property
    def phases_left(self) -> tuple[Phase, ...]:
        """What was left of the earlier plan; labels that it counted are not counted again."""
        left, done = [], self.statement.rounds
        for phase in self.earlier.phases:
            rounds = phase.rounds - min(done, phase.rounds)
            done -= min(done, phase.rounds)
            if rounds and phase.kind != "histogram":
                left.append(phase.model_copy(update={"rounds": rounds}))
        return tuple(left)


def read_line(
    compliance: Plans, coordinator: VerifyKey, plan_id: str, plan: TrainingPlan
) -> tuple[Part, ...]:
    """A plan's line, oldest first, itself the last part (`compliance.rules.starts`).

    Raises:
        VerificationFailed: When the service shows another plan, or one that we did not sign.
        NotFound: When it knows one of them no longer.
    """

    def read(wanted: str) -> TrainingPlan:
        statement = compliance.plan(wanted).statement
        if statement.digest != wanted:
            raise VerificationFailed(f"plan {wanted} is listed under another plan's id")
        return TrainingPlan.from_body(verify_statement(statement, coordinator))

    return line_of(plan_id, plan, read)


def reported_model(evidence: PlanEvidence, rounds: int) -> str | None:
    """What the last report of a plan's round says of the model after so many rounds."""
    for statement in reversed(evidence.rounds):
        report = RoundReport.from_body(statement.body)
        if report.round == rounds - 1:
            return report.model_digest
    return None


def start_state(checkpoints: Opens, start: StartsFrom, like: State) -> State:
    """The model that a plan starts from, to the last bit.

    Args:
        checkpoints: The kept models.
        start: As the plan says it.
        like: The state of the plan's model as built, for names and shapes.

    Raises:
        NotFound: When it is not kept any more.
        VerificationFailed: When it was altered, or is another one.
        MalformedInput: When it is of another shape.
    """
    arrays = checkpoints.open(start.plan, start.rounds, start.model, datetime.now(UTC))
    check_state(arrays, like)
    return {name: arrays[name] for name in like}


def unit_of_line(line: Sequence[Part]) -> str:
    """Whom a composed ε is about: the plans' unit where they all protect the same, else subjects.

    A promise to whole subjects says nothing of a change within one, so it does not compose with
    one to single records, but with what that one is to their subject.
    """
    units = {part.plan.privacy.unit for part in line}
    return units.pop() if len(units) == 1 else "subject"


def epsilon_with_start(line: Sequence[Part]) -> dict[str, Decimal]:
    """By site, the ε of all rounds that a model holds, at its own plan's δ; empty without a start.

    Composed exactly by the accountant (`client.learning.accounting`), as if the site had taken part
    in every round of every plan of the line that names it: an upper bound on what it did.

    Raises:
        MalformedInput: When no finite ε holds.
    """
    if len(line) == 1:
        return {}
    delta, unit = line[-1].plan.privacy.delta, unit_of_line(line)
    sites = sorted({site for part in line for site in part.plan.sites})
    composed: dict[tuple[Event, ...], Decimal] = {}
    by_site: dict[str, Decimal] = {}
    for site in sites:
        events = tuple(
            event for part in line if site in part.plan.sites for event in _events(part, unit)
        )
        if events not in composed:
            composed[events] = reported_epsilon(events, delta)
        by_site[site] = composed[events]
    return by_site


def _events(part: Part, unit: str) -> list[Event]:
    """The mechanism of a part's rounds, to one unit."""
    privacy, events = part.plan.privacy, events_of(part.plan.phases, part.rounds)
    if unit == privacy.unit:
        return list(events)
    return [
        event_of_subject(event, privacy.unit, privacy.max_records_per_subject) for event in events
    ]
