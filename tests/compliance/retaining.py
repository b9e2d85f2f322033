"""What tests of retention write, and what they look at afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from audit.storage import LogStorage, read_leaf
from audit.verifier import verify_log
from compliance.retention import Retention, RetentionLog, ShreddableKeys
from compliance.retention_history import Event
from compliance.rules.months import Month
from compliance.rules.retention import ActionKey
from compliance.service.retention import (
    ServiceLog,
)
from tests.compliance.running import RunningService

MONTH = "2026-11"
"""The month in which the service's clock begins."""

SECURITY = ("attempts.limited", "request.refused")
"""Actions that GDPR's rules end after 12 months."""


def configure(service: RunningService, *jurisdictions: str, months: str = "") -> None:
    named = ", ".join(f'"{name}"' for name in jurisdictions)
    (service.folder.path / "retention.toml").write_text(
        f'format = "fiduciary.retention/1"\njurisdictions = [{named}]\n[months]\n{months}\n'
    )


def write_entries(service: RunningService, *actions: str, each: int = 2) -> None:
    """Entries as the service writes them."""
    with service.registry.writing(None) as transaction:
        for action in actions:
            for number in range(each):
                transaction.record(action, f"thing:{number}", {"detail": f"of {action}"})


def key_names(service: RunningService) -> set[str]:
    return set(service.registry.keyring.names())


def retention_events(service: RunningService) -> list[tuple[str, str, str]]:
    """Actor, action and object of every entry about retention."""
    with service.registry.reading() as session:
        storage = service.registry.storage(session)
        leaves = [read_leaf(storage, position) for position in range(storage.size())]
    return [
        (leaf.actor, leaf.action, leaf.object)
        for leaf in leaves
        if leaf.action.startswith("retention.")
    ]


def payload_of(service: RunningService, action: str) -> dict[str, Any]:
    """The payload of the first entry with this action."""
    with service.registry.reading() as session:
        storage = service.registry.storage(session)
        return service.registry.log.read(storage, first_position(storage, action))[1]


def first_position(storage: LogStorage, action: str) -> int:
    return next(p for p in range(storage.size()) if read_leaf(storage, p).action == action)


def verify(service: RunningService) -> None:
    report = verify_log(service.folder.path / "compliance.sqlite", service.trust.log_key)
    assert report.ok, report


class Killed(BaseException):
    """The process ends here."""


class Steps:
    """Counts the writes of a run, and fails one of them before or after it is done."""

    def __init__(self, fail_at: int | None = None, *, done: bool = False) -> None:
        self.taken: list[str] = []
        self._fail_at = fail_at
        self._done = done

    def take(self, name: str, write: Callable[[], Any]) -> Any:
        fails = len(self.taken) == self._fail_at
        self.taken.append(name)
        if fails and not self._done:
            raise Killed
        result = write()
        if fails:
            raise Killed
        return result


class SteppedLog:
    """`RetentionLog` whose writes are steps; otherwise the real one."""

    def __init__(self, log: RetentionLog, steps: Steps) -> None:
        self._log = log
        self._steps = steps

    def record(self, action: str, object_name: str, payload: Mapping[str, Any]) -> int:
        position: int = self._steps.take(
            action, lambda: self._log.record(action, object_name, payload)
        )
        return position

    def events(self) -> Iterator[Event]:
        yield from self._log.events()

    def last_in_effect(self, key: ActionKey) -> Month | None:
        return self._log.last_in_effect(key)

    def counts(self) -> Mapping[str, int]:
        return self._log.counts()


class SteppedKeys:
    """`ShreddableKeys` whose writes are steps; otherwise the real ones."""

    def __init__(self, keys: ShreddableKeys, steps: Steps) -> None:
        self._keys = keys
        self._steps = steps

    def names(self) -> Iterator[str]:
        return self._keys.names()

    def destroy(self, name: str) -> bool:
        existed: bool = self._steps.take("destroy", lambda: self._keys.destroy(name))
        return existed

    def rotate(self) -> object:
        return self._steps.take("rotate", self._keys.rotate)


STEPS = [
    "retention.ordered",
    "destroy",
    "retention.ordered",
    "destroy",
    "rotate",
    "retention.shredded",
    "retention.shredded",
]


def stepped(service: RunningService, steps: Steps) -> Retention:
    log = ServiceLog(service.registry, None)
    return Retention(
        SteppedLog(log, steps),
        SteppedKeys(service.registry.keyring, steps),
        service.folder.path,
        service.clock,
    )


def check_order(service: RunningService, keys: list[str], *, complete: bool) -> None:
    """What must hold at every moment; and, when complete, that each was shredded exactly once."""
    events = [(action, name) for _, action, name in retention_events(service)]
    existing = key_names(service)
    for key in keys:
        ordered = events.count(("retention.ordered", key))
        shredded = events.count(("retention.shredded", key))
        assert ordered <= 1, "ordered twice"
        assert shredded <= ordered, "confirmed more often than ordered"
        if shredded:
            assert key not in existing, "confirmed without being destroyed"
        if key not in existing:
            assert ordered == 1, "destroyed without an order"
        if complete:
            assert (ordered, shredded, key in existing) == (1, 1, False)
