"""What the worker says: signed, journalled, queued for the compliance service, then answered.

The order is the guarantee. The journal's entry is durable before anything leaves the site, and the
statement is in the outbox before the coordinator is answered or anybody tries to send it, so that
neither a crash nor an absent service loses evidence. The worker says when to send (`deliver`): the
coordinator, which gets the same statement in the answer, does not wait for that.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Literal

from audit.log import Entry
from audit.statement import SignedStatement, sign_statement
from client.outbox import Outbox, StatementService
from client.progress import Reporter
from client.site import Site
from client.stopping import StopSignal
from compliance.statements import Refusal, SiteReport, Statement, utc_now

MAX_REASON = 500
"""Characters of a refusal's reason; the guard's are a sentence."""

_MAX_REMEMBERED = 1000


class Answers:
    """Makes the statements of one site.

    Args:
        site: Who signs.
        service: Where statements go.
        stop: When the operator ends the process, sending is left to the next start.
        reporter: Told what the service did not take.
        clock: Gives the time as statements write it.
    """

    def __init__(
        self,
        site: Site,
        service: StatementService,
        stop: StopSignal,
        reporter: Reporter,
        clock: Callable[[], str] = utc_now,
    ) -> None:
        self._site = site
        self._service = service
        self._stop = stop
        self._reporter = reporter
        self._clock = clock
        self._outbox = Outbox(site)
        self._refusals: dict[tuple[str, str, str], SignedStatement] = {}
        self.software = f"fiduciary {version('fiduciary')}"

    def report(self, report: SiteReport) -> SignedStatement:
        """State what the site did in a round."""
        return self._state(f"round-{report.activity}", "site-report", report)

    def answer_report(self, report: SiteReport) -> dict[str, Any]:
        """State it, as an answer to the coordinator holds it."""
        return {"site": report.site, "statement": self.report(report).to_json()}

    def refusal(self, about: str, code: str, reason: str) -> SignedStatement:
        """State that the site says no, and why. The same refusal again is not stated again.

        Args:
            about: What it says no to: `plan:<id>`.
            code: Stable kebab-case reason.
            reason: One sentence that may leave the site.
        """
        key = (about, code, reason)
        known = self._refusals.get(key)
        if known is not None:
            return known
        if len(self._refusals) >= _MAX_REMEMBERED:
            self._refusals.clear()
        refusal = Refusal(
            refused_by=self._site.principal,
            object=about,
            code=code,
            reason=reason[:MAX_REASON],
            refused_at=self._clock(),
        )
        self._refusals[key] = self._state("task-refused", "refusal", refusal)
        return self._refusals[key]

    def deliver(self) -> None:
        """Send what waits, unless the operator wants to end. Interrupted, it is sent again later.

        What cannot be sent now stays queued and is no error.
        """
        if self._stop.requested:
            return
        with self._stop.interruptible():
            delivery = self._outbox.send(self._service)
        for reason in delivery.rejected:
            self._reporter.say(
                f"the compliance service did not take a statement: {reason}", problem=True
            )
            self._reporter.event("statement-rejected")

    def _state(
        self, action: str, kind: Literal["site-report", "refusal"], document: Statement
    ) -> SignedStatement:
        statement = sign_statement(document.body(), self._site.identity)
        self._site.journal.record(
            Entry(
                actor=self._site.principal,
                action=action,
                object=statement.log_object,
                subject=None,
                payload={"statement": statement.to_json()},
            )
        )
        self._outbox.put(kind, statement)
        return statement
