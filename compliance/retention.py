"""Ending retention: the order of steps that shreds payloads of a log, and the holds that forbid it.

The compliance service's log and a site's journal are shredded by the same steps:

1. `retention.ordered`, durable: no audit entry, no action.
2. The key is destroyed, durably and for ever.
3. When all that are due are destroyed, the key-encryption key is rotated, so that older copies of
   the wrapped keys are useless.
4. `retention.shredded` confirms each.

* A run that was killed between any two steps is finished by the next: an order is not given twice,
  and nothing is confirmed before its key is destroyed and the key-encryption key is rotated.
* An order whose key still exists is followed only while the rules still say so: a hold, or a longer
  period, that came in between wins.
* A key that a restored keyring brings back is shredded again, with an order of its own.
* Holds are log entries; which are in force is read from the log and nowhere else.
* Runs and changes of holds queue for one lock, between threads and processes.

Which keys are due is `compliance.rules.retention`'s to say.
Decision record: docs/adr/0013-retention.md.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol

from audit.errors import Conflict, MalformedInput, NotFound, Refused
from compliance import rules
from compliance.retention_history import (
    HELD,
    HOLD_PREFIX,
    ORDERED,
    RELEASED,
    SHREDDED,
    Event,
    History,
)
from compliance.rules.months import Month
from compliance.rules.retention import (
    ActionKey,
    Hold,
    Judgement,
    Policy,
    RetentionSettings,
    RuleBook,
    default_rules,
    may_apply,
    parse_retention_settings,
)
from compliance.toml_file import MAX_SETTINGS_BYTES

SETTINGS_FILE: Final = "retention.toml"
LOCK_FILE: Final = "retention.lock"

CHECK_SECONDS: Final = 24 * 3600.0
"""How often a running service or site looks for what is due. Periods are months: a day is soon."""


class RetentionLog(Protocol):
    """The log whose payloads end, and in which that is recorded."""

    def record(self, action: str, object_name: str, payload: Mapping[str, Any]) -> int:
        """Append an entry, durable when this returns; its position.

        Raises:
            FiduciaryError: When it cannot be made durable.
        """
        ...

    def events(self) -> Iterable[Event]:
        """All entries whose action begins with `retention.`, in order."""
        ...

    def last_in_effect(self, key: ActionKey) -> Month | None:
        """The month in which what the key's entries are about ended; None: not, or not known."""
        ...

    def counts(self) -> Mapping[str, int]:
        """Number of entries sealed with each key, by its name."""
        ...


class ShreddableKeys(Protocol):
    """The keyring of that log; `audit.keyring.Keyring` is one."""

    def names(self) -> Iterator[str]:
        """Names of the data keys that exist."""
        ...

    def destroy(self, name: str) -> bool:
        """Destroy a key durably and for ever."""
        ...

    def rotate(self) -> object:
        """Wrap all keys under a new key-encryption key and destroy the old one."""
        ...


@dataclass(frozen=True)
class Report:
    """What the rules say of every key of the log.

    Attributes:
        rules_version: Version of the rules.
        jurisdictions: Those that the operator named.
        judgements: One for each action and month, in order.
        counts: Number of entries of each key, by its name.
        ordered: Keys whose shredding was ordered and not confirmed.
        holds: Holds in force.
    """

    rules_version: str
    jurisdictions: tuple[str, ...]
    judgements: tuple[Judgement, ...]
    counts: Mapping[str, int]
    ordered: frozenset[str]
    holds: tuple[Hold, ...]


@dataclass(frozen=True)
class Outcome:
    """What a run did, or would do.

    Attributes:
        shredded: What was due, and is shredded and confirmed.
        finished: Keys that an earlier run destroyed and this one confirmed.
    """

    shredded: tuple[Judgement, ...]
    finished: tuple[str, ...]


class Retention:
    """Retention of one log, by one operator's settings.

    Args:
        log: The log.
        keys: Its keyring.
        folder: Holds `retention.toml`, unless the operator wrote none, and the lock.
        clock: The present time, with its zone.
        book: The rules; those of this version unless given.
    """

    def __init__(
        self,
        log: RetentionLog,
        keys: ShreddableKeys,
        folder: Path,
        clock: Callable[[], datetime],
        book: RuleBook | None = None,
    ) -> None:
        self._log = log
        self._keys = keys
        self._folder = folder
        self._clock = clock
        self._book = book or default_rules()

    def show(self) -> Report:
        """What may be shredded when. Changes nothing.

        Raises:
            MalformedInput: When `retention.toml` cannot be read.
            Refused: When it asks for what a rule forbids.
        """
        policy = read_policy(self._folder, self._book)
        history = History.of(self._log.events())
        return Report(
            rules_version=policy.book.version,
            jurisdictions=policy.settings.jurisdictions,
            judgements=tuple(self._judge(policy, history)),
            counts=self._log.counts(),
            ordered=frozenset(history.ordered),
            holds=tuple(history.holds.values()),
        )

    def run(self, *, dry_run: bool = False) -> Outcome:
        """Shred what is due, and finish what an earlier run began.

        Args:
            dry_run: Tell what would be done, and do nothing.

        Raises:
            MalformedInput: When `retention.toml` cannot be read; nothing is shredded then.
            Refused: When it asks for what a rule forbids; nothing is shredded then.
            FiduciaryError: When log or keyring fail. What was begun is finished by the next run.
        """
        with _exclusive(self._folder / LOCK_FILE):
            policy = read_policy(self._folder, self._book)
            history = History.of(self._log.events())
            due = tuple(
                judgement for judgement in self._judge(policy, history) if judgement.status == "due"
            )
            existing = set(self._keys.names())
            gone = tuple(name for name in history.ordered if name not in existing)
            if not dry_run:
                self._shred(policy, due, gone, dict(history.ordered))
            return Outcome(due, gone)

    def hold(
        self,
        name: str,
        *,
        reason: str,
        action: str | None = None,
        first: Month | None = None,
        last: Month | None = None,
    ) -> Hold:
        """Forbid that something is shredded. The same hold again is no second one.

        Args:
            name: Names it, such as `case-17`.
            reason: For the record.
            action: An action or a prefix; every action without it.
            first: The first month.
            last: The last month.

        Raises:
            Conflict: When another hold in force has this name.
            MalformedInput: When it could cover nothing.
        """
        if first is not None and last is not None and last < first:
            raise MalformedInput(f"the hold ends in {last}, before it begins in {first}")
        with _exclusive(self._folder / LOCK_FILE):
            present = self._holds().get(name)
            if present is not None:
                if (present.action, present.first, present.last, present.reason) != (
                    action,
                    first,
                    last,
                    reason,
                ):
                    raise Conflict(
                        "another hold of this name is in force", fix="choose another name"
                    )
                return present
            payload = {
                "action": action,
                "first": None if first is None else str(first),
                "last": None if last is None else str(last),
                "reason": reason,
            }
            self._log.record(HELD, f"{HOLD_PREFIX}{name}", payload)
            return self._holds()[name]

    def release(self, name: str, *, reason: str) -> Hold:
        """End a hold; what it kept is shredded by the next run, if it is due.

        Returns:
            The hold that ended.

        Raises:
            NotFound: When no hold of this name is in force.
        """
        with _exclusive(self._folder / LOCK_FILE):
            hold = self._holds().get(name)
            if hold is None:
                raise NotFound(
                    "no hold of this name is in force", fix="`retention show` lists the holds"
                )
            self._log.record(RELEASED, f"{HOLD_PREFIX}{name}", {"reason": reason})
            return hold

    def _holds(self) -> dict[str, Hold]:
        return History.of(self._log.events()).holds

    def _judge(self, policy: Policy, history: History) -> Iterator[Judgement]:
        now = self._clock()
        holds = tuple(history.holds.values())
        keys = (ActionKey.parse(name) for name in self._keys.names())
        for key in sorted(key for key in keys if key is not None):
            yield policy.judge(key, holds, now, self._log.last_in_effect)

    def _shred(
        self,
        policy: Policy,
        due: tuple[Judgement, ...],
        gone: tuple[str, ...],
        orders: dict[str, int],
    ) -> None:
        if not due and not gone:
            return
        for judgement in due:
            name = judgement.key.name
            if name not in orders:
                orders[name] = self._log.record(ORDERED, name, _order(policy, judgement))
            self._keys.destroy(name)
        self._keys.rotate()
        for name in (*(judgement.key.name for judgement in due), *gone):
            self._log.record(SHREDDED, name, {"order": orders[name]})


def _order(policy: Policy, judgement: Judgement) -> dict[str, Any]:
    """Why a key is shredded, as its order says it."""
    rule = judgement.rule
    if rule is None or judgement.due is None:
        raise ValueError("nothing is due without a rule")
    return {
        "rule": rule.id,
        "source": rule.source,
        "period": judgement.reason,
        "due": str(judgement.due),
        "rules_version": policy.book.version,
        "jurisdictions": list(policy.settings.jurisdictions),
    }


def parse_month(text: str | None) -> Month | None:
    """The month that somebody wrote, if they wrote one.

    Raises:
        MalformedInput: When it is none.
    """
    month = None if text is None else Month.parse(text)
    if text is not None and month is None:
        raise MalformedInput(f"malformed month: {text}", fix="write it as 2026-01")
    return month


def read_policy(folder: Path, book: RuleBook) -> Policy:
    """The rules as the operator applies them; without a file none that ends anything.

    Raises:
        MalformedInput: When `retention.toml` cannot be read.
        Refused: When it asks for what a rule forbids.
    """
    try:
        with (folder / SETTINGS_FILE).open("rb") as file:
            data = file.read(MAX_SETTINGS_BYTES + 1)
    except FileNotFoundError:
        return Policy(book, RetentionSettings())
    settings = parse_retention_settings(data, SETTINGS_FILE)
    ruling = may_apply(book, settings)
    if isinstance(ruling, rules.Refused):
        kind = MalformedInput if ruling.status == "malformed" else Refused
        raise kind(f"{SETTINGS_FILE}: {ruling.reason}", fix=ruling.fix)
    return Policy(book, settings)


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Wait for a lock that the system lets go of when its holder ends, however it ends."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
