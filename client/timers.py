"""What a worker looks at by the clock, beside its rounds: log, certificate, subjects' requests.

* A timer does nothing before its time. Every failure but an alarm is told to the operator; the site
  goes on, and the next look asks again.
* The timer of retention is `client.retention.RetentionTimer`.
"""

from __future__ import annotations

import time
from typing import Final

from audit.errors import Conflict, FiduciaryError, MalformedInput, NotFound, Refused, Unauthorised
from audit.words import count_of
from client.answers import MAX_REASON
from client.progress import ActivityFile, Reporter
from client.renewal import Renewal
from client.sealing_keys import sealing_statement
from client.site import Site
from client.stopping import StopSignal
from client.subject_desk import SubjectDesk
from client.witnessing import Witnessing

REQUEST_SECONDS: Final = 30.0
"""How often data subjects' requests are asked for: they have weeks, their subjects wait."""

RENEWAL_SECONDS: Final = 3600.0
"""How often a worker looks whether its certificate ends soon; it asks nobody before."""

ENDED_SECONDS: Final = 30.0
"""How often once it has ended: the site is in no round until it has the next one."""

WITNESS_SECONDS: Final = 60.0
"""How often the audit log's head is looked at and cosigned; before each round in any case."""

HAND_IN_SECONDS: Final = 5.0
"""How long a cosignature waits after the last one that was handed in: the next one covers more."""


class WitnessTimer:
    """Looks at the audit log and cosigns what extends it, when it is time to.

    Args:
        witnessing: Does so.
        reporter: Where to say what happens.
        activity: What `client status` shows.
    """

    def __init__(self, witnessing: Witnessing, reporter: Reporter, activity: ActivityFile) -> None:
        self._witnessing = witnessing
        self._reporter = reporter
        self._activity = activity
        self._looked = self._handed_in = float("-inf")

    def tend(self, *, now: bool = False) -> None:
        """Look if it is time to, or now.

        Raises:
            LogAlarm: When the log is not the one that this site cosigned.
        """
        if not now and time.monotonic() - self._looked < WITNESS_SECONDS:
            return
        self._looked = time.monotonic()
        hand_in = self._looked - self._handed_in >= HAND_IN_SECONDS
        if hand_in:
            self._handed_in = self._looked
        problem = self._witnessing.round(hand_in=hand_in).problem
        if problem is not None:
            # The log may still be right; the next round asks again.
            self._activity.update(last_problem=str(problem)[:MAX_REASON])
            self._reporter.say(f"the audit log could not be witnessed: {problem}", problem=True)
            self._reporter.event("witness-failed", code=problem.code)


class RenewalTimer:
    """Sees to the node certificate, when it is time to.

    Args:
        renewal: Asks for the next one and fetches it.
        stop: May interrupt that.
        reporter: Where to say what happens.
        activity: What `client status` shows.
    """

    def __init__(
        self, renewal: Renewal, stop: StopSignal, reporter: Reporter, activity: ActivityFile
    ) -> None:
        self._renewal = renewal
        self._stop = stop
        self._reporter = reporter
        self._activity = activity
        self._looked = self._looked_at_end = float("-inf")
        self._problem: FiduciaryError | None = None

    def tend(self) -> bool:
        """Look if it is time to; whether there is a new certificate."""
        now = time.monotonic()
        if now - self._looked_at_end < min(ENDED_SECONDS, RENEWAL_SECONDS):
            return False
        self._looked_at_end = now
        if now - self._looked < RENEWAL_SECONDS and self._renewal.ended_at() is None:
            return False
        self._looked = now
        self._problem = None
        try:
            with self._stop.interruptible():
                renewed = self._renewal.tend()
        except FiduciaryError as error:
            self._problem = error
            # The present one works on, and the next look asks again.
            self._activity.update(last_problem=str(error)[:MAX_REASON])
            self._reporter.say(f"the node certificate was not renewed: {error}", problem=True)
            return False
        if renewed:
            self._reporter.say("the node certificate was renewed")
            self._reporter.event("certificate-renewed")
        return renewed

    def lapsed(self) -> FiduciaryError | None:
        """That the certificate ended and the next one will come; None where that is not so."""
        ended_at = self._renewal.ended_at()
        if ended_at is None or isinstance(self._problem, Unauthorised):
            return None
        return Unauthorised(
            f"the node certificate ended on {ended_at:%Y-%m-%d}; the next one is asked for, and"
            " fetched when the coordinator has given it",
            fix="the coordinator gives it by itself: ask whether `server start` runs there",
        )


class RequestTimer:
    """Answers data subjects' requests, when it is time to ask for them.

    Args:
        site: Whose subjects they are.
        desk: Answers them.
        stop: May interrupt the asking, and nothing that has begun.
        reporter: Where to say what happens.
        activity: What `client status` shows.
    """

    def __init__(
        self,
        site: Site,
        desk: SubjectDesk,
        stop: StopSignal,
        reporter: Reporter,
        activity: ActivityFile,
    ) -> None:
        self._site = site
        self._desk = desk
        self._stop = stop
        self._reporter = reporter
        self._activity = activity
        self._asked = float("-inf")
        self._key_published = ""
        self._waiting: frozenset[str] = frozenset()
        self._problems: set[str] = set()
        self._known_problems: set[str] = set()

    def tend(self) -> None:
        """Ask if it is time to.

        Raises:
            Unreachable: When the service does not answer.
            Unauthorised: When it does not know this site.
        """
        if time.monotonic() - self._asked < REQUEST_SECONDS:
            return
        self._asked = time.monotonic()
        try:
            with self._stop.interruptible():
                if self._key_published != sealing_statement(self._site).digest:
                    self._key_published = self._desk.publish_key()
                parts = self._desk.fetch()
            # An erasure that has begun is finished, whatever the operator wants to end.
            self._problems = set()
            waiting = self._desk.serve(parts, self._tell)
            self._known_problems = self._problems
        except (MalformedInput, NotFound, Conflict, Refused) as error:
            # Another version's service, the operator's own file, or a site restored from a backup.
            self._activity.update(last_problem=str(error)[:MAX_REASON])
            fix = f"; {error.fix}" if error.fix else ""
            self._reporter.say(
                f"data subjects' requests are not served: {error}{fix}", problem=True
            )
            return
        ids = frozenset(part.request_id for part in waiting)
        if ids - self._waiting:
            self._reporter.say(
                f"waiting for you: {count_of(len(ids), 'data subject request')}: `client requests"
                " list`",
                problem=True,
            )
            self._reporter.event("request-waits")
        self._waiting = ids

    def _tell(self, message: str, is_problem: bool) -> None:
        """What is still wrong as it was half a minute ago is not told again."""
        if is_problem:
            self._problems.add(message)
        if message not in self._known_problems:
            self._reporter.say(message, problem=is_problem)
        if not is_problem:
            self._reporter.event("request-answered")
