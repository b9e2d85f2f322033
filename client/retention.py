"""Retention of the site's own journal: what `compliance.retention` needs of it, and the timer.

* Rules, order of steps and holds are those of the compliance service's log. The site's operator
  names the jurisdictions in the site's own `retention.toml`; without it nothing is shredded.
* A report of a round is in effect until the ledger has settled its plan; that month is read from
  the clear fields of the ledger's entries.
* What code of the site reads back is kept for ever by rules that always apply: the ledger's entries
  (`client.ledger_journal` notices by them that a budget was put back), alarms, and the marks of the
  subjects' trail. Entries about a subject have the subject's key, and only erasure ends those.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from audit.errors import FiduciaryError
from audit.log import Entry, utc_clock
from audit.statement import SignedStatement
from client.ledger import Ledger
from client.ledger_journal import ACTION_PREFIX as LEDGER_PREFIX
from client.progress import Reporter
from client.site import Site
from compliance.retention import CHECK_SECONDS, Retention
from compliance.retention_history import ACTION_PREFIX, Event
from compliance.rules.months import Month
from compliance.rules.retention import ActionKey

PAGE_ENTRIES = 500
"""Entries of the journal that are read at once."""

_PLAN = "plan:"


def site_retention(
    site: Site, ledger: Ledger, clock: Callable[[], datetime] = utc_clock
) -> Retention:
    """Retention of a site's journal.

    Args:
        site: The site.
        ledger: Knows which plans are open.
        clock: The present time, with its zone.
    """
    return Retention(SiteLog(site, ledger), site.keyring, site.paths.root, clock)


class RetentionTimer:
    """Runs retention when the worker tends it, at once and then daily.

    Args:
        retention: What to run.
        reporter: Where to say what happened.
        monotonic: Seconds that only grow.
    """

    def __init__(
        self,
        retention: Retention,
        reporter: Reporter,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._retention = retention
        self._reporter = reporter
        self._monotonic = monotonic
        self._next = float("-inf")

    def tend(self) -> None:
        """Run if it is time. A failure is told to the operator, and the site goes on."""
        if self._monotonic() < self._next:
            return
        self._next = self._monotonic() + CHECK_SECONDS
        try:
            outcome = self._retention.run()
        except (FiduciaryError, OSError, sqlite3.Error) as error:
            fix = getattr(error, "fix", "")
            self._reporter.say(f"retention did not run: {error}. {fix}", problem=True)
            self._reporter.event("retention-failed", code=getattr(error, "code", "unexpected"))
            return
        for judgement in outcome.shredded:
            self._reporter.say(f"retention ended: shredded {judgement.key.name}")
        self._reporter.event("retention-swept", keys=len(outcome.shredded) + len(outcome.finished))


class SiteLog:
    """`compliance.retention.RetentionLog` over the journal, which is read once and then further."""

    def __init__(self, site: Site, ledger: Ledger) -> None:
        self._site = site
        self._ledger = ledger
        self._read = 0
        self._events: list[Event] = []
        self._counts: dict[str, int] = {}
        self._plans: dict[str, Month] = {}

    def record(self, action: str, object_name: str, payload: Mapping[str, Any]) -> int:
        """Append an entry, durable when this returns."""
        entry = Entry(self._site.principal, action, object_name, None, payload)
        return self._site.journal.record(entry).position

    def events(self) -> list[Event]:
        """What the log says of retention, in order."""
        self._read_on()
        return list(self._events)

    def counts(self) -> Mapping[str, int]:
        """Number of entries sealed with each key."""
        self._read_on()
        return self._counts

    def last_in_effect(self, key: ActionKey) -> Month | None:
        """When that ended what a key's entries are about."""
        self._read_on()
        open_plans = set(self._ledger.open_plans())
        latest = key.month
        for position in self._positions_of(key):
            ended = self._end_of(position, open_plans)
            if ended is None:
                return None
            latest = max(latest, ended)
        return latest

    def _end_of(self, position: int, open_plans: set[str]) -> Month | None:
        """When the plan ended that an entry's statement is about."""
        _, payload = self._site.journal.read(position)
        if "statement" not in payload:
            return None
        plan_id = SignedStatement.from_json(payload["statement"]).body.get("plan_id")
        return None if plan_id in open_plans else self._plans.get(str(plan_id))

    def _positions_of(self, key: ActionKey) -> Iterator[int]:
        for start in range(0, self._site.journal.size(), PAGE_ENTRIES):
            for leaf in self._site.journal.leaves(start - 1, PAGE_ENTRIES):
                if leaf.key == key.name:
                    yield leaf.position

    def _read_on(self) -> None:
        journal = self._site.journal
        while page := journal.leaves(self._read - 1, PAGE_ENTRIES):
            for leaf in page:
                if leaf.action.startswith(ACTION_PREFIX):
                    _, payload = journal.read(leaf.position)
                    self._events.append(
                        Event(
                            leaf.position, leaf.time, leaf.actor, leaf.action, leaf.object, payload
                        )
                    )
                elif leaf.action.startswith(LEDGER_PREFIX) and leaf.object.startswith(_PLAN):
                    month = Month.parse(leaf.time[:7])
                    if month is not None:
                        self._plans[leaf.object.removeprefix(_PLAN)] = month
                self._counts[leaf.key] = self._counts.get(leaf.key, 0) + 1
                self._read = leaf.position + 1
