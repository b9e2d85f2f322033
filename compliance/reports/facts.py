"""What reports are made of: facts of one moment, each with its place in the log.

Nothing here reads a database or a clock; `compliance.service.report_facts` fills it in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Generic, TypeVar

from compliance.breach_views import BreachView
from compliance.erasure_views import ErasureCaseView
from compliance.rules.retention import Judgement, RuleBook
from compliance.statements import (
    Decision,
    Refusal,
    ReleaseManifest,
    RoundReport,
    RunOutcome,
    SiteReport,
    Statement,
    TrainingPlan,
)

_Filed = TypeVar("_Filed", bound=Statement)


@dataclass(frozen=True)
class Filed(Generic[_Filed]):
    """A signed statement and its entry."""

    statement: _Filed
    digest: str
    position: int
    time: str
    by: str


@dataclass(frozen=True)
class Logged:
    """An entry that quotes no statement. `payload` is None once it was forgotten."""

    position: int
    time: str
    actor: str
    action: str
    object: str
    payload: Mapping[str, Any] | None

    def said(self, name: str, otherwise: str = "(forgotten)") -> str:
        """What the payload says under a name."""
        return otherwise if self.payload is None else str(self.payload.get(name, ""))


@dataclass(frozen=True)
class PlanFacts:
    """A plan, and what became of it."""

    plan_id: str
    state: str
    submitted: Filed[TrainingPlan]
    decision: Filed[Decision] | None
    outcome: Filed[RunOutcome] | None
    rounds: tuple[Filed[RoundReport], ...]
    reports: tuple[Filed[SiteReport], ...]

    @property
    def plan(self) -> TrainingPlan:
        """The plan itself."""
        return self.submitted.statement

    @property
    def positions(self) -> tuple[int, ...]:
        """Where it was submitted, decided and ended."""
        steps = (self.submitted, self.decision, self.outcome)
        return tuple(step.position for step in steps if step is not None)

    @property
    def started(self) -> bool:
        """Whether anything was trained."""
        return bool(self.rounds or self.reports)


@dataclass(frozen=True)
class ReleaseFacts:
    """A release, and what became of it.

    Attributes:
        release_id: Digest of its manifest.
        state: Where it stands.
        announced: Its manifest.
        decision: Approval or rejection.
        events: Every other entry about it, oldest first: grants, downloads, recalls, notices.
    """

    release_id: str
    state: str
    announced: Filed[ReleaseManifest]
    decision: Filed[Decision] | None
    events: tuple[Logged, ...]

    @property
    def manifest(self) -> ReleaseManifest:
        """The manifest itself."""
        return self.announced.statement

    @property
    def positions(self) -> tuple[int, ...]:
        """Where it was announced and decided."""
        steps = (self.announced, self.decision)
        return tuple(step.position for step in steps if step is not None)

    def of(self, action: str) -> tuple[Logged, ...]:
        """Its entries of one action."""
        return tuple(event for event in self.events if event.action == action)


@dataclass(frozen=True)
class ActionFacts:
    """All entries of one action.

    Attributes:
        action: What was done.
        count: How often.
        first: When first.
        last: When last.
        positions: The newest of them, oldest first.
    """

    action: str
    count: int
    first: str
    last: str
    positions: tuple[int, ...]


@dataclass(frozen=True)
class SiteFacts:
    """A site. `size` is how much of the log it vouched for last, `cosigned_at` when; if ever."""

    name: str
    state: str
    positions: tuple[int, ...]
    size: int | None
    cosigned_at: str | None


@dataclass(frozen=True)
class PartFacts:
    """What a request says of one site: what it did, if it answered, and entries about it alone."""

    outcome: str | None
    positions: tuple[int, ...]


@dataclass(frozen=True)
class RequestFacts:
    """A data subject's request. Who it is, nobody here knows.

    Attributes:
        request_id: Its own.
        right: What was asked for.
        jurisdiction: By which law.
        stage: Where it stands.
        received_at: When it came; clocks count from here.
        due_at: By when it must be answered.
        confirm_by: By when its receipt must be confirmed, where the law asks.
        confirmed_at: When that was done.
        extended_at: When the longer period was taken.
        finished_at: When it was answered.
        ground: Of a refusal.
        outcomes: What the sites did, one for each that answered or was waived.
        positions: Its entries, oldest first.
        parts: What concerns one site alone, by site.
    """

    request_id: str
    right: str
    jurisdiction: str
    stage: str
    received_at: str
    due_at: str
    confirm_by: str | None
    confirmed_at: str | None
    extended_at: str | None
    finished_at: str | None
    ground: str
    outcomes: tuple[str, ...]
    positions: tuple[int, ...]
    parts: Mapping[str, PartFacts] = field(default_factory=dict)

    @property
    def result(self) -> str:
        """What came of it, as those count who count requests."""
        if self.stage != "completed":
            return {"refused": "denied", "expired": "expired"}.get(self.stage, "open")
        lacking = not {"refused", "waived"}.isdisjoint(self.outcomes)
        if "done" in self.outcomes:
            return "in part" if lacking else "in whole"
        return "denied" if lacking else "nothing found"

    def days(self) -> Decimal | None:
        """Days from receipt to answer, to a tenth, rounded up; None while there is none."""
        if self.finished_at is None or self.stage == "expired":
            return None
        taken = datetime.fromisoformat(self.finished_at) - datetime.fromisoformat(self.received_at)
        seconds = Decimal(str(taken.total_seconds()))
        return (seconds / 86_400).quantize(Decimal("0.1"), "ROUND_CEILING")


@dataclass(frozen=True)
class CaseFacts:
    """What is to become of a release that erased people took part in, and its entries."""

    view: ErasureCaseView
    positions: tuple[int, ...]


@dataclass(frozen=True)
class RetentionFacts:
    """What retention says. `problem` is why it says nothing, where its settings cannot be used."""

    book: RuleBook
    jurisdictions: tuple[str, ...]
    judgements: tuple[Judgement, ...]
    problem: str = ""


@dataclass(frozen=True)
class Facts:
    """Everything, at one moment.

    Attributes:
        now: The moment.
        origin: Name of the log.
        log_size: Its entries.
        plans: Oldest first.
        releases: Oldest first.
        sites: By name.
        refusals: Of sites and coordinator, oldest first.
        requests: Of data subjects, oldest first.
        cases: Of releases that erased people took part in, oldest first.
        breaches: Oldest first.
        commitments: What the log's newest entry says of the words of each breach, by name.
        reports: Entries of reports that were made, the newest few, oldest first.
        actions: By name.
        retention: Of the log.
    """

    now: datetime
    origin: str
    log_size: int
    plans: tuple[PlanFacts, ...]
    releases: tuple[ReleaseFacts, ...]
    sites: tuple[SiteFacts, ...]
    refusals: tuple[Filed[Refusal], ...]
    requests: tuple[RequestFacts, ...]
    cases: tuple[CaseFacts, ...]
    breaches: tuple[BreachView, ...]
    commitments: Mapping[str, str]
    reports: tuple[Logged, ...]
    actions: Mapping[str, ActionFacts]
    retention: RetentionFacts

    def plan_name(self, plan_id: str) -> str:
        """Name of a plan."""
        return next((plan.plan.name for plan in self.plans if plan.plan_id == plan_id), plan_id)

    def actions_of(self, *patterns: str) -> Iterator[ActionFacts]:
        """Actions by name, or with a trailing `.` by prefix."""
        for name, action in sorted(self.actions.items()):
            if any(
                name == pattern or (pattern.endswith(".") and name.startswith(pattern))
                for pattern in patterns
            ):
                yield action


def by_site(
    reports: Sequence[Filed[SiteReport]], value: Callable[[SiteReport], Any]
) -> dict[str, Filed[SiteReport]]:
    """For each site the report with the largest value; reports without one do not count."""
    best: dict[str, Filed[SiteReport]] = {}
    for filed in reports:
        said = value(filed.statement)
        if said is None:
            continue
        before = best.get(filed.statement.site)
        if before is None or said > value(before.statement):
            best[filed.statement.site] = filed
    return dict(sorted(best.items()))
