"""The site's worker: `client start`. It trains what its own guard allows, and nothing else.

* How one task is done and answered is in `client.tasks`, what a round does in `client.rounds`.
  Nothing that the coordinator sends is run, opened or used as a name of a file.
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

from audit.errors import FiduciaryError, Unauthorised, Unreachable
from audit.log import utc_clock
from audit.words import count_of
from client.alarms import LogAlarm
from client.answers import MAX_REASON, Answers
from client.compute import read_compute
from client.counterparts import Fleet, Service
from client.kept_answers import KeptAnswers
from client.lessons import Lessons
from client.peers import Peers
from client.plan_audit import PlanAudit
from client.presentation import short
from client.progress import ActivityFile, Reporter
from client.renewal import Renewal
from client.retention import RetentionTimer, site_retention
from client.review import Review
from client.rounds import Rounds
from client.secure_sums import SecureSums
from client.site import Site
from client.stopping import Stopped, StopSignal
from client.subject_desk import SubjectDesk
from client.subject_exclusions import journal_exclusions
from client.subject_trail import Trail
from client.tasks import Tasks
from client.timers import RenewalTimer, RequestTimer, WitnessTimer
from client.vault.store import Vault
from client.witnessing import Witnessing
from client.worker_lock import hold_worker_lock

POLL_SECONDS = 1.0
"""How long one poll may be held by the coordinator."""

TEND_SECONDS = 2.0
"""How often ended plans are settled and waiting statements are sent."""

FIRST_PAUSE_SECONDS = 0.5
LAST_PAUSE_SECONDS = 30.0

UNAUTHORISED_SECONDS = 60.0
"""How long a coordinator may not know this site yet: its admission takes a moment to arrive."""

_ENDED = ("completed", "failed", "rejected")


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
        self._witness = WitnessTimer(
            Witnessing(site, service, network=stop.interruptible), reporter, self._activity
        )
        self._renewal = RenewalTimer(Renewal(site, service, now), stop, reporter, self._activity)
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
            rounds = Rounds(
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
            self._requests = RequestTimer(
                self._site,
                SubjectDesk(self._site, vault, ledger, self._service),
                self._stop,
                self._reporter,
                self._activity,
            )
            self._tasks = Tasks(
                rounds,
                self._sums,
                self._answers,
                witness=self._witness,
                reporter=self._reporter,
                activity=self._activity,
            )
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
            self._renewal.tend()
            self._witness.tend()
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
                now, lapsed = time.monotonic(), self._renewal.lapsed()
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
            self._witness.tend()
            self._tend()
            if self._renewal.tend():
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
                refused_plan = self._tasks.handle(fleet, task)
                if self._once and refused_plan:
                    self._ending = Ending.REFUSED
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
            self._requests.tend()
            self._answers.deliver()
        except (Unreachable, Unauthorised) as error:
            # The coordinator may still have work; the next round tries again.
            self._activity.update(last_problem=str(error)[:MAX_REASON])

    def _settle(self, plan_id: str, state: str) -> None:
        # First: a plan that is settled is not looked at again.
        self._kept.drop(plan_id)
        released = self._ledger.settle(plan_id)
        back = count_of(released, "round")
        self._say(f"plan {short(plan_id)} {state}; {back} given back to the budget")
        self._reporter.event("plan-settled", plan=plan_id, state=state, rounds_returned=released)
        self._lessons.forget()
        self._sums.forget(plan_id)
        if plan_id == self._activity.activity.plan_id:
            self._activity.ended()
        if self._once:
            self._ending = Ending.COMPLETED if state == "completed" else Ending.FAILED

    def _say(self, message: str, *, problem: bool = False) -> None:
        self._reporter.say(message, problem=problem)
