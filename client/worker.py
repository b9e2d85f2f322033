"""The site's worker: `client start`. It trains what its own guard allows, and nothing else.

* What one task does, and in which order, is in `client.rounds`. A refusal is signed, journalled,
  reported and answered.
* Only `train`, `evaluate` and the steps of a secure sum exist. Nothing that the coordinator sends
  is run, opened or used as a name of a file. A coordinator that names code to run is refused: a
  site runs what its operator installed, and nothing else.
* What a task may make this site say is bounded: reasons come from the guard's and the ledger's own
  words, and a repeated refusal is journalled and reported once.
* The site witnesses the compliance service's log from its first second: at the start, before each
  round and on a timer. A log that misbehaves ends the run (`client.witnessing`).
* The coordinator is answered first; the compliance service is sent what was stated right after the
  round's last answer, or within `TEND_SECONDS`. It waits durably until then (`client.outbox`).
* Data subjects' requests are asked for and answered beside it (`client.subject_desk`).
* The worker dials out, and dials again with growing pauses when a connection is lost.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from datetime import datetime
from enum import Enum

from audit.errors import (
    Conflict,
    FiduciaryError,
    MalformedInput,
    NotFound,
    Refused,
    Unauthorised,
    Unreachable,
)
from audit.log import utc_clock
from audit.storage import LogUnavailable
from client.alarms import LogAlarm
from client.answers import MAX_REASON, Answers
from client.budget import AlreadyEvaluated, NoReservation, RoundAlreadyStarted
from client.compute import read_compute
from client.counterparts import Fleet, Service
from client.fleet_tasks import IncomingTask
from client.kept_answers import Answer, KeptAnswers
from client.lessons import Lessons
from client.peers import Peers
from client.plan_audit import PlanAudit
from client.presentation import short
from client.progress import ActivityFile, Reporter
from client.refusals import Declined
from client.renewal import Renewal
from client.retention import RetentionTimer, site_retention
from client.reveals import AlreadyRevealed
from client.review import Review
from client.rounds import PLAN_ID, Rounds, Work
from client.sealing_keys import sealing_statement
from client.secure_aggregation.member import SumRefused
from client.secure_sums import SecureSums
from client.site import Site
from client.stopping import Stopped, StopSignal
from client.subject_desk import SubjectDesk
from client.subject_exclusions import journal_exclusions
from client.subject_trail import Trail
from client.vault.store import Vault
from client.witnessing import Witnessing
from client.worker_lock import hold_worker_lock

POLL_SECONDS = 1.0
"""How long one poll may be held by the coordinator."""

TEND_SECONDS = 2.0
"""How often ended plans are settled and waiting statements are sent."""

REQUEST_SECONDS = 30.0
"""How often data subjects' requests are asked for: they have weeks, their subjects wait."""

RENEWAL_SECONDS = 3600.0
"""How often a worker looks whether its certificate ends soon; it asks nobody before."""

ENDED_SECONDS = 30.0
"""How often once it has ended: the site is in no round until it has the next one."""

WITNESS_SECONDS = 60.0
"""How often the audit log's head is looked at and cosigned; before each round in any case."""

HAND_IN_SECONDS = 5.0
"""How long a cosignature waits after the last one that was handed in: the next one covers more."""

FIRST_PAUSE_SECONDS = 0.5
LAST_PAUSE_SECONDS = 30.0

UNAUTHORISED_SECONDS = 60.0
"""How long a coordinator may not know this site yet: its admission takes a moment to arrive."""

APP_BUNDLE = "app-bundle"
"""Code of the refusal of a task that comes with code to run."""

_ENDED = ("completed", "failed", "rejected")
_SAFE = (
    AlreadyEvaluated,
    AlreadyRevealed,
    MalformedInput,
    NoReservation,
    RoundAlreadyStarted,
    SumRefused,
    Unreachable,
)


class Ending(Enum):
    """Why the worker ended."""

    STOPPED = "stopped"
    COMPLETED = "completed"
    FAILED = "failed"
    REFUSED = "refused"


class _Renewed(Exception):
    """There is a new certificate: what is connected by the old one is connected again."""


class Worker:
    """Serves one coordinator until it is stopped.

    Args:
        site: The site, opened.
        connect: Opens a connection to the coordinator. It is given what to call with a code and a
            reason for a message that is no task; the connection has refused it already.
        service: The compliance service.
        stop: Says when to end.
        reporter: Where to say what happens.
        once: End after the first plan that ended, or that this site refused.
        pause: Seconds of the first pause before dialling again.
        now: The present time, with its zone; training hours are read off it.
    """

    def __init__(
        self,
        site: Site,
        *,
        connect: Callable[[Callable[[str, str], None]], AbstractContextManager[Fleet]],
        service: Service,
        stop: StopSignal,
        reporter: Reporter,
        once: bool = False,
        pause: float = FIRST_PAUSE_SECONDS,
        now: Callable[[], datetime] = utc_clock,
    ) -> None:
        self._site = site
        self._connect = connect
        self._service = service
        self._stop = stop
        self._reporter = reporter
        self._once = once
        self._pause = pause
        self._now = now
        self._activity = ActivityFile(site.paths.worker_state)
        self._answers = Answers(site, service, stop, reporter)
        self._malformed: list[tuple[str, str]] = []
        self._ending: Ending | None = None
        self._tended = float("-inf")
        self._watched = self._handed_in = float("-inf")
        self._asked = float("-inf")
        self._key_published = ""
        self._renewal = Renewal(site, service, now)
        self._renewal_looked = self._end_looked = float("-inf")
        self._renewal_problem: FiduciaryError | None = None
        self._waiting_requests: frozenset[str] = frozenset()
        self._witnessing = Witnessing(site, service, network=stop.interruptible)
        self._sums = SecureSums(site, Peers(site, service), self._answers, stop.interruptible)

    def run(self) -> Ending:
        """Serve until stopped, or, with `once`, until a plan has ended.

        Raises:
            Conflict: When another worker runs for this site.
            Unauthorised: When the coordinator does not know this site, or not any more.
            LogAlarm: When the compliance service's log is not the one that this site cosigned.
            FiduciaryError: When the site's own files cannot be used.
        """
        with (
            hold_worker_lock(self._site),
            Vault.open(self._site.paths, self._site.keyring) as vault,
            self._site.ledger() as ledger,
        ):
            self._ledger = ledger
            self._kept = KeptAnswers(self._site.paths.answers, self._site.keyring, self._site.name)
            settings = read_compute(self._site.paths.compute).settings()
            self._lessons = Lessons(vault, self._site.paths.models, settings)
            self._rounds = Rounds(
                self._site,
                ledger=ledger,
                lessons=self._lessons,
                review=Review(self._site, vault, ledger, self._service),
                trail=Trail(self._site.journal, vault, self._site.principal),
                audit=PlanAudit(
                    ledger, settings, self._answers.software, self._stop, self._reporter
                ),
                answers=self._answers,
                kept=self._kept,
                activity=self._activity,
                stop=self._stop,
                reporter=self._reporter,
                now=self._now,
            )
            self._retention = RetentionTimer(site_retention(self._site, ledger), self._reporter)
            self._desk = SubjectDesk(self._site, vault, ledger, self._service)
            journal_exclusions(self._site, vault)
            try:
                return self._dial()
            except Stopped:
                return Ending.STOPPED
            except LogAlarm as alarm:
                self._reporter.event("log-alarm", code=alarm.code)
                raise
            finally:
                self._lessons.forget()
                self._activity.update(doing="stopped", plan_id=None, round=None, rounds=None)

    # --- the connection -------------------------------------------------------------------------

    def _dial(self) -> Ending:
        pause = self._pause
        refused_since: float | None = None
        while True:
            self._renew()
            self._watch()
            try:
                self._activity.update(doing="connecting")
                with ExitStack() as stack:
                    with self._stop.interruptible():
                        fleet = stack.enter_context(self._connect(self._note_malformed))
                    self._say("connected; waiting for tasks")
                    self._reporter.event("connected")
                    self._activity.update(doing="waiting", last_problem="")
                    pause, refused_since = self._pause, None
                    return self._serve(fleet)
            except _Renewed:
                continue  # dialled again at once, with the new certificate
            except Unauthorised as error:
                now, lapsed = time.monotonic(), self._lapsed()
                refused_since = now if refused_since is None or lapsed else refused_since
                if now - refused_since >= UNAUTHORISED_SECONDS and not lapsed:
                    raise
                self._offline(lapsed or error, pause)
            except Unreachable as error:
                refused_since = None
                self._offline(error, pause)
            # Sites that lost the same coordinator must not all come back at the same moment.
            self._stop.wait(pause * random.uniform(0.8, 1.2))  # noqa: S311  not a secret
            pause = min(2 * pause, LAST_PAUSE_SECONDS)

    def _offline(self, error: FiduciaryError, pause: float) -> None:
        self._activity.update(doing="offline", last_problem=str(error)[:MAX_REASON])
        self._say(f"{error}; trying again in {pause:.1f} s", problem=True)
        self._reporter.event("disconnected", code=error.code, retry_seconds=round(pause, 1))

    def _serve(self, fleet: Fleet) -> Ending:
        while True:
            self._watch()
            self._tend()
            if self._renew():
                raise _Renewed
            if self._ending is not None:
                return self._ending
            with self._stop.interruptible():
                task = fleet.poll(POLL_SECONDS)
            if self._malformed:
                while self._malformed:
                    self._answers.refusal("plan:unknown", *self._malformed.pop())
                self._answers.deliver()
            if task is not None:
                self._handle(fleet, task)
                self._activity.update(doing="waiting", round=None)

    def _note_malformed(self, code: str, reason: str) -> None:
        # Called from within a poll, which may be interrupted: it is journalled right after.
        self._malformed.append((code, reason[:MAX_REASON]))
        self._say(f"refused a message: {code}: {reason[:MAX_REASON]}", problem=True)
        self._reporter.event("message-refused", code=code)

    def _tend(self) -> None:
        """Settle plans that ended, send what waits, and drop texts that are no longer in use."""
        if time.monotonic() - self._tended < TEND_SECONDS:
            return
        self._tended = time.monotonic()
        self._lessons.forget_changed()
        self._retention.tend()
        try:
            for plan_id in self._ledger.open_plans():
                with self._stop.interruptible():
                    state = self._service.plan(plan_id).state
                if state in _ENDED:
                    self._settle(plan_id, state)
            self._serve_subjects()
            self._answers.deliver()
        except (Unreachable, Unauthorised) as error:
            # The coordinator may still have work; the next round tries again.
            self._activity.update(last_problem=str(error)[:MAX_REASON])

    def _serve_subjects(self) -> None:
        """Answer data subjects' requests, when it is time to ask for them."""
        if time.monotonic() - self._asked < REQUEST_SECONDS:
            return
        self._asked = time.monotonic()
        try:
            with self._stop.interruptible():
                if self._key_published != sealing_statement(self._site).digest:
                    self._key_published = self._desk.publish_key()
                parts = self._desk.fetch()
            # An erasure that has begun is finished, whatever the operator wants to end.
            waiting = self._desk.serve(parts, self._tell_of_request)
        except (MalformedInput, NotFound, Conflict, Refused) as error:
            # Another version's service, the operator's own file, or a site restored from a backup.
            self._activity.update(last_problem=str(error)[:MAX_REASON])
            fix = f"; {error.fix}" if error.fix else ""
            self._say(f"data subjects' requests are not served: {error}{fix}", problem=True)
            return
        ids = frozenset(part.request_id for part in waiting)
        if ids - self._waiting_requests:
            self._say(
                f"{len(ids)} data subjects' requests wait for you: `client requests list`",
                problem=True,
            )
            self._reporter.event("request-waits")
        self._waiting_requests = ids

    def _tell_of_request(self, message: str, is_problem: bool) -> None:
        self._say(message, problem=is_problem)
        if not is_problem:
            self._reporter.event("request-answered")

    def _watch(self, *, now: bool = False) -> None:
        """Look at the audit log and cosign what extends it, when it is time to."""
        if not now and time.monotonic() - self._watched < WITNESS_SECONDS:
            return
        self._watched = time.monotonic()
        hand_in = self._watched - self._handed_in >= HAND_IN_SECONDS
        if hand_in:
            self._handed_in = self._watched
        problem = self._witnessing.round(hand_in=hand_in).problem
        if problem is not None:
            # The log may still be right; the next round asks again.
            self._activity.update(last_problem=str(problem)[:MAX_REASON])
            self._say(f"the audit log could not be witnessed: {problem}", problem=True)
            self._reporter.event("witness-failed", code=problem.code)

    def _renew(self) -> bool:
        """See to the node certificate, when it is time to; whether there is a new one."""
        now = time.monotonic()
        if now - self._end_looked < min(ENDED_SECONDS, RENEWAL_SECONDS):
            return False
        self._end_looked = now
        if now - self._renewal_looked < RENEWAL_SECONDS and self._renewal.ended_at() is None:
            return False
        self._renewal_looked = now
        self._renewal_problem = None
        try:
            with self._stop.interruptible():
                renewed = self._renewal.tend()
        except FiduciaryError as error:
            self._renewal_problem = error
            # The present one works on, and the next look asks again.
            self._activity.update(last_problem=str(error)[:MAX_REASON])
            self._say(f"the node certificate was not renewed: {error}", problem=True)
            return False
        if renewed:
            self._say("the node certificate was renewed")
            self._reporter.event("certificate-renewed")
        return renewed

    def _lapsed(self) -> FiduciaryError | None:
        """That the certificate ended and the next one will come; None where that is not so."""
        ended_at = self._renewal.ended_at()
        if ended_at is None or isinstance(self._renewal_problem, Unauthorised):
            return None
        return Unauthorised(
            f"the node certificate ended on {ended_at:%Y-%m-%d}; the next one is asked for, and"
            " fetched when the coordinator has given it",
            fix="the coordinator gives it by itself: ask whether `server start` runs there",
        )

    def _settle(self, plan_id: str, state: str) -> None:
        # First: a plan that is settled is not looked at again.
        self._kept.drop(plan_id)
        released = self._ledger.settle(plan_id)
        self._say(f"plan {short(plan_id)} {state}; {released} rounds given back to the budget")
        self._reporter.event("plan-settled", plan=plan_id, state=state, rounds_returned=released)
        self._lessons.forget()
        self._sums.forget(plan_id)
        if self._once:
            self._ending = Ending.COMPLETED if state == "completed" else Ending.FAILED

    # --- tasks ----------------------------------------------------------------------------------

    def _handle(self, fleet: Fleet, task: IncomingTask) -> None:
        try:
            _refuse_bundle(task)
            match task.kind:
                case "train":
                    self._watch(now=True)
                    self._give_work(fleet, task, self._rounds.train(task))
                case "evaluate":
                    self._give_work(fleet, task, self._rounds.evaluate(task))
                case _:
                    self._sum(fleet, task)
        except Declined as no:
            self._refuse(fleet, task, no)
        except Stopped:
            self._refuse(fleet, task, Declined("site-stopped", "the site's operator stopped it"))
            raise
        except LogAlarm as alarm:
            self._refuse(fleet, task, Declined(alarm.code, str(alarm)))
            raise
        except LogUnavailable:
            # Without a journal nothing may happen here, not even a refusal.
            raise
        except FiduciaryError as error:
            self._say(f"{error.code}: {error}. {error.fix}", problem=True)
            reason = str(error) if isinstance(error, _SAFE) else "its operator was told the reason"
            self._refuse(fleet, task, Declined(error.code, reason))
        except Exception as error:  # noqa: BLE001  torch raises anything; the site must go on
            # The exception's text may quote data: only its type is told.
            self._say(f"round {task.round} failed: {type(error).__name__}", problem=True)
            self._refuse(fleet, task, Declined("training-failed", type(error).__name__))
        else:
            if _ends_round(task):
                self._answers.deliver()

    def _give_work(self, fleet: Fleet, task: IncomingTask, work: Work) -> None:
        if work.plan.secure_aggregation:
            document = self._sums.begin(task, work)
            self._reply(lambda: fleet.reply_document(task, document))
        else:
            self._give(fleet, task, work.answer)

    def _sum(self, fleet: Fleet, task: IncomingTask) -> None:
        answer = self._sums.step(task)
        if isinstance(answer, str):
            document = answer
            self._reply(lambda: fleet.reply_document(task, document))
        else:
            self._give(fleet, task, answer)

    # --- answers --------------------------------------------------------------------------------

    def _refuse(self, fleet: Fleet, task: IncomingTask, no: Declined) -> None:
        about = task.plan_id if PLAN_ID.fullmatch(task.plan_id) else "unknown"
        reason = str(no)[:MAX_REASON]
        statement = self._answers.refusal(f"plan:{about}", no.code, reason).to_json()
        advice = f" ({no.fix})" if no.fix else ""
        self._say(f"refused plan {short(about)}: {no.code}: {reason}{advice}", problem=True)
        self._reporter.event(
            "task-refused", plan=about, round=task.round, activity=task.kind, code=no.code
        )
        self._reply(lambda: fleet.reply_refusal(task, no.code, reason, statement))
        self._answers.deliver()
        if self._once and no.whole_plan:
            self._ending = Ending.REFUSED

    def _give(self, fleet: Fleet, task: IncomingTask, answer: Answer) -> None:
        self._reply(lambda: fleet.reply_arrays(task, answer.arrays, answer.report))

    def _reply(self, send: Callable[[], bool]) -> None:
        """Answer the coordinator; an answer that does not arrive is lost, and the site goes on."""
        problem = ""
        try:
            if not send():
                problem = "it came too late; the coordinator no longer waits for it"
        except (Unreachable, Unauthorised) as error:
            problem = str(error)
        if problem:
            self._activity.update(last_problem=problem[:MAX_REASON])
            self._say(f"the answer did not arrive: {problem}", problem=True)
            self._reporter.event("answer-lost")

    def _say(self, message: str, *, problem: bool = False) -> None:
        self._reporter.say(message, problem=problem)


def _ends_round(task: IncomingTask) -> bool:
    """Whether a site is asked nothing more in a round, or in its sum: it sends what it stated.

    What it stated of a training waits for that of the evaluation, or for `TEND_SECONDS`.
    """
    summed_securely = bool(task.document)
    return task.kind == "reveal" or (task.kind == "evaluate" and not summed_securely)


def _refuse_bundle(task: IncomingTask) -> None:
    if task.names_bundle:
        raise Declined(
            APP_BUNDLE,
            "the task or its run names an app bundle, and this site runs only what its operator "
            "installed",
            "ask the coordinator what it wanted to run here; `server start` names none",
        )
