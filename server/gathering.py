"""What the sites of a plan make of a round: updates or counts, each alone or only their sum.

* `train` gives the sites' updates, or, where the plan sums securely, nothing but their mean.
* `evaluate` gives the counts of all sites together.
* Both raise `QuorumNotReached`, with each missing site's reason, when too few were left.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from audit.errors import FiduciaryError, MalformedInput
from audit.keys import VerifyKey
from audit.words import count_of
from client.arrays import Arrays, pack_arrays
from client.deflated import deflate, largest_document, open_arrays
from client.fleet_tasks import TaskKind
from client.learning.evaluation import Evaluation, read_summed, sum_evaluations
from client.learning.plan_model import State
from client.learning.tasks import counts_like, counts_of
from client.learning.travelling import chosen, names_in_task, names_in_update
from client.secure_aggregation.collector import Collector
from client.secure_aggregation.fixed_point import FixedPoint, split_counts
from client.secure_aggregation.messages import Activity
from compliance.statements import SiteReport, TrainingPlan
from server.errors import MalformedReply, QuorumNotReached
from server.kept_sums import KeptSums
from server.replies import (
    Expected,
    accept_evaluation,
    accept_masked,
    accept_update,
    check_mean,
)
from server.rounds import Exchange, Task, Wire, exchange
from server.running_mean import Updates
from server.secure_sums import Summed, new_session, secure_sum, unmask
from server.superlink import Answer

MAX_REASON_CHARACTERS = 1500

IN_VAIN = "it answered, but too few others did"

UPDATES, COUNTS = "<u4", "<u8"
"""Rings of secure sums: of updates in fixed point, of counts."""

T = TypeVar("T")


class Identities(Protocol):
    """Who signs for a site."""

    def identity_of(self, site: str) -> VerifyKey | None:
        """The admitted site's identity key."""


class Watch(Protocol):
    """Told how an exchange goes."""

    def __call__(
        self,
        kind: TaskKind,
        accepted: Collection[str],
        absent: Mapping[str, str],
        waiting: Collection[str],
    ) -> None:
        """Who has answered, who is absent and why, and who is still out."""


@dataclass(frozen=True)
class Trained:
    """What training came to.

    Attributes:
        updates: Their mean alone, or, where the plan's rule needs them, the sites' updates in the
            order of their names; of what the round's phase trains.
        reports: The report of each site that is counted in.
        absent: Each other site, with the reason.
    """

    updates: Sequence[State]
    reports: dict[str, SiteReport]
    absent: dict[str, str]


@dataclass(frozen=True)
class Counted:
    """What evaluation came to."""

    total: Evaluation[Any]
    reports: dict[str, SiteReport]


class Gathering:
    """Asks the sites of one plan in one run.

    Args:
        plan_id: The plan's digest.
        plan: The plan, verified.
        run_id: From `SuperLink.open_run`.
        wire: The SuperLink.
        sites: Identities of the admitted sites.
        stop: Set when the coordinator is asked to stop.
        watch: Told how it goes.
        tell: Told how each exchange went.
        clock: Monotonic seconds, by which deadlines are kept.
        kept: Sums that a kill interrupted.
        stretch: `PlanModel.stretch` of the plan's model.
    """

    def __init__(
        self,
        plan_id: str,
        plan: TrainingPlan,
        run_id: int,
        *,
        wire: Wire,
        sites: Identities,
        stop: threading.Event,
        watch: Watch,
        tell: Callable[[Task, Exchange[Any]], None],
        clock: Callable[[], float],
        kept: KeptSums,
        stretch: float,
    ) -> None:
        self._stretch = stretch
        self._tell = tell
        self._clock = clock
        self._kept = kept
        self._plan_id = plan_id
        self._plan = plan
        self._run_id = run_id
        self._wire = wire
        self._sites = sites
        self._stop = stop
        self._watch = watch

    def train(self, number: int, sent: State, returning: frozenset[str]) -> Trained:
        """Train round `number` from `sent`.

        Args:
            number: The round, from 0.
            sent: The global state.
            returning: Sites that took part in the last round.

        Raises:
            QuorumNotReached: When fewer than the plan's quorum are left.
            Stopped: When the coordinator was asked to stop.
        """
        if self._plan.secure_aggregation:
            return self._train_securely(number, sent, returning)

        part = chosen(sent, names_in_update(self._plan, number, sent))
        updates = Updates(self._plan, part)

        def judge(site: str, answer: Answer) -> SiteReport:
            expected = self._expected(site, number, "train")
            arrays = self._opened(answer, part)
            accepted = accept_update(expected, arrays, answer.report, sent, self._stretch)
            updates.add(site, accepted.arrays)
            return accepted.report

        told = self._ask(
            "train",
            number,
            sent,
            returning,
            judge,
            quorum=self._plan.quorum,
            reply_bytes=largest_document(part),
        )
        if len(told.accepted) < self._plan.quorum:
            raise QuorumNotReached(
                f"round {number + 1} had {len(told.accepted)} of the"
                f" {count_of(self._plan.quorum, 'site')} "
                f"that it needs{_borne(self._plan)}: {_reasons(told)}",
                absent={**told.absent, **dict.fromkeys(told.accepted, IN_VAIN)},
                reports=told.accepted,
            )
        return Trained(updates.values(), told.accepted, told.absent)

    def evaluate(self, number: int, state: State, returning: frozenset[str]) -> Counted:
        """Measure `state` on the sites' held-out subjects.

        A site may keep its counts to itself. One that tells is enough, unless they are summed
        securely, which takes a quorum.

        Raises:
            QuorumNotReached: When nobody, or too few, told.
            Stopped: When the coordinator was asked to stop.
        """
        if self._plan.secure_aggregation:
            return self._count_securely(number, state, returning)

        def judge(site: str, answer: Answer) -> tuple[Evaluation[Any], SiteReport]:
            expected = self._expected(site, number, "evaluate")
            arrays = self._opened(answer, counts_like(self._plan))
            return accept_evaluation(expected, arrays, answer.report)

        told = self._ask("evaluate", number, state, returning, judge, quorum=1)
        if not told.accepted:
            raise QuorumNotReached(_reasons(told))
        total = sum_evaluations([counts for counts, _ in told.accepted.values()])
        return Counted(total, {site: report for site, (_, report) in told.accepted.items()})

    # --- sums ----------------------------------------------------------------------------------

    def _train_securely(self, number: int, sent: State, returning: frozenset[str]) -> Trained:
        form = FixedPoint.of(self._plan, number, self._stretch)
        part = chosen(sent, names_in_update(self._plan, number, sent))
        size = sum(array.size for array in part.values())
        summed = self._sum("train", number, sent, returning, size, UPDATES, form.exponent)
        total = form.decode(summed.total, part)
        mean: State = {
            name: (array / len(summed.reports)).astype(np.float32) for name, array in total.items()
        }
        try:
            check_mean(self._plan, number, mean, self._stretch)
        except MalformedReply as error:
            raise QuorumNotReached(
                f"round {number + 1}: {error}",
                absent={**summed.absent, **dict.fromkeys(summed.reports, str(error))},
                reports=summed.reports,
            ) from error
        return Trained([mean], summed.reports, summed.absent)

    def _count_securely(self, number: int, state: State, returning: frozenset[str]) -> Counted:
        plan, like = self._plan, counts_like(self._plan)
        size = sum(array.size for array in like.values())
        summed = self._sum("evaluate", number, state, returning, size, COUNTS)
        arrays = split_counts(summed.total, like)
        try:
            total = read_summed(arrays, len(plan.labels), plan.groups, counts_of(plan))
        except FiduciaryError as error:
            raise QuorumNotReached(f"the summed counts are none: {error}") from error
        return Counted(total, summed.reports)

    def _sum(
        self,
        activity: Activity,
        number: int,
        sent: State,
        returning: frozenset[str],
        size: int,
        ring: str,
        unit_exponent: int = 0,
    ) -> Summed:
        identities = {
            site: identity
            for site in self._plan.sites
            if (identity := self._sites.identity_of(site)) is not None
        }

        def ask(
            kind: TaskKind,
            documents: Mapping[str, str],
            judge: Callable[[str, Answer], T],
            *,
            reply_bytes: int,
        ) -> Exchange[T]:
            first = kind == activity
            return self._ask(
                kind,
                number,
                sent if first else None,
                returning if first else frozenset(documents),
                judge,
                quorum=self._plan.quorum,
                documents=documents,
                reply_bytes=reply_bytes,
            )

        def report_of(
            site: str, arrays: Mapping[str, npt.NDArray[Any]], report: dict[str, str | int]
        ) -> SiteReport:
            return accept_masked(self._expected(site, number, activity), arrays, report)

        kept = self._kept.load(number, activity, identities, self._plan.quorum)
        if kept is not None:
            return unmask(ask, kept.collector, kept.reports, kept.absent)
        session = new_session(self._plan_id, number, activity, unit_exponent)
        collector = Collector(session, identities, self._plan.quorum, size, ring)
        return secure_sum(ask, collector, self._plan.sites, report_of, self._kept.keep)

    # --- exchanges -------------------------------------------------------------------------------

    def _expected(self, site: str, number: int, activity: Activity) -> Expected:
        identity = self._sites.identity_of(site)
        if identity is None:
            raise MalformedReply("the site is no longer admitted")
        return Expected(self._plan_id, self._plan, number, site, identity, activity)

    def _opened(self, answer: Answer, like: Arrays) -> Arrays:
        compression = self._plan.transport.compression
        try:
            return open_arrays(answer.arrays, answer.deflated, compression, like)
        except MalformedInput as error:
            raise MalformedReply(str(error)) from error

    def _packed(self, kind: TaskKind, number: int, state: State) -> bytes:
        """What travels of the global state."""
        activity: Activity = "evaluate" if kind == "evaluate" else "train"
        document = pack_arrays(chosen(state, names_in_task(self._plan, activity, number, state)))
        return deflate(document) if self._plan.transport.compression == "deflate" else document

    def _ask(
        self,
        kind: TaskKind,
        number: int,
        state: State | None,
        returning: frozenset[str],
        judge: Callable[[str, Answer], T],
        *,
        quorum: int,
        documents: Mapping[str, str] | None = None,
        reply_bytes: int | None = None,
    ) -> Exchange[T]:
        task = Task(
            run_id=self._run_id,
            kind=kind,
            plan_id=self._plan_id,
            round=number,
            arrays=b"" if state is None else self._packed(kind, number, state),
            sites=self._plan.sites if documents is None else tuple(documents),
            quorum=quorum,
            deadline_seconds=self._plan.deadline_seconds,
            returning=returning,
            documents=documents or {},
            reply_bytes=reply_bytes,
        )

        def watch(
            accepted: Collection[str], absent: Mapping[str, str], waiting: Collection[str]
        ) -> None:
            self._watch(kind, accepted, absent, waiting)

        told = exchange(self._wire, task, judge, clock=self._clock, stop=self._stop, watch=watch)
        self._tell(task, told)
        return told


def _borne(plan: TrainingPlan) -> str:
    return (
        f" (the plan bears {count_of(plan.missed_rounds, 'such round')})"
        if plan.missed_rounds
        else ""
    )


def _reasons(told: Exchange[T]) -> str:
    absent = (f"{site}: {reason}" for site, reason in sorted(told.absent.items()))
    return "; ".join(absent)[:MAX_REASON_CHARACTERS]
