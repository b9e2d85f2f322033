"""Retention order, destroy, confirm: whatever fails in between."""

from __future__ import annotations

import threading

import pytest

from audit.errors import (
    FiduciaryError,
    Unreachable,
)
from compliance.api import ComplianceClient
from compliance.retention import Retention
from compliance.rules import Bearer
from compliance.rules.months import Month
from compliance.service.retention import (
    ServiceLog,
)
from tests.compliance.retaining import (
    MONTH,
    SECURITY,
    STEPS,
    Killed,
    SteppedKeys,
    Steps,
    check_order,
    configure,
    key_names,
    payload_of,
    retention_events,
    stepped,
    verify,
    write_entries,
)
from tests.compliance.running import RunningService


def test_a_run_whose_officer_is_revoked_in_the_middle_is_finished_by_the_next(
    service: RunningService, officer: ComplianceClient
) -> None:
    write_entries(service, *SECURITY)
    configure(service, "gdpr")
    service.clock.advance(days=400)
    officer.add_principal("second", ["officer"])

    class Revoking(SteppedKeys):
        def rotate(self) -> object:
            officer.revoke_principal("second")
            return super().rotate()

    with pytest.raises(FiduciaryError, match="token is not valid"):
        Retention(
            ServiceLog(service.registry, Bearer("second", frozenset({"officer"}))),
            Revoking(service.registry.keyring, Steps()),
            service.folder.path,
            service.clock,
        ).run()
    keys = [f"action:{action}:{MONTH}" for action in SECURITY]
    assert {action for _, action, _ in retention_events(service)} == {"retention.ordered"}
    assert set(officer.retention.run().finished) == set(keys)
    check_order(service, keys, complete=True)


def test_a_kill_between_any_two_steps_is_repaired_by_the_next_run(service: RunningService) -> None:
    """Each step fails *not done* and *done, but the process ended*."""
    configure(service, "gdpr")
    for number, name in enumerate(STEPS):
        for done in (False, True):
            month = Month.of(service.clock())
            write_entries(service, *SECURITY)
            keys = [f"action:{action}:{month}" for action in SECURITY]
            service.clock.advance(days=400)
            steps = Steps(number, done=done)
            with pytest.raises(Killed):
                stepped(service, steps).run()
            assert steps.taken == STEPS[: number + 1]
            check_order(service, keys, complete=False)

            clean = Steps()
            stepped(service, clean).run()
            check_order(service, keys, complete=True)
            if name != "retention.shredded" or number == len(STEPS) - 2:
                assert "rotate" in clean.taken, "confirmed without a new key-encryption key"
            nothing = Steps()
            stepped(service, nothing).run()
            assert nothing.taken == []
    verify(service)


def test_runs_at_the_same_moment_shred_once(service: RunningService) -> None:
    write_entries(service, *SECURITY)
    configure(service, "gdpr")
    service.clock.advance(days=400)
    outcomes: list[int] = []

    def run() -> None:
        outcomes.append(len(service.as_("officer").retention.run().shredded))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [0, 0, 0, 2]
    check_order(service, [f"action:{action}:{MONTH}" for action in SECURITY], complete=True)


@pytest.mark.parametrize("fault", ["append", "commit", "after_commit"])
def test_no_entry_no_shred(service: RunningService, officer: ComplianceClient, fault: str) -> None:
    write_entries(service, *SECURITY)
    configure(service, "gdpr")
    service.clock.advance(days=400)
    keys = [f"action:{action}:{MONTH}" for action in SECURITY]
    setattr(service.faults, fault, True)
    with pytest.raises(Unreachable):
        officer.retention.run()
    setattr(service.faults, fault, False)
    assert set(keys) <= key_names(service)
    officer.retention.run()
    check_order(service, keys, complete=True)
    verify(service)


def test_a_hold_after_an_order_wins(service: RunningService, officer: ComplianceClient) -> None:
    configure(service, "gdpr")
    write_entries(service, *SECURITY)
    keys = [f"action:{action}:{MONTH}" for action in SECURITY]
    service.clock.advance(days=400)
    with pytest.raises(Killed):  # ordered, not destroyed
        stepped(service, Steps(1)).run()
    officer.retention.hold("case-17", reason="inquiry")
    assert officer.retention.run().shredded == ()
    assert set(keys) <= key_names(service)
    shown = {key.key: key for key in officer.retention.show().keys}
    assert (shown[keys[0]].status, shown[keys[0]].ordered) == ("held", True)
    officer.retention.release("case-17", reason="closed")
    officer.retention.run()
    check_order(service, keys, complete=True)


def test_a_longer_period_after_an_order_wins(
    service: RunningService, officer: ComplianceClient
) -> None:
    configure(service, "gdpr")
    write_entries(service, *SECURITY)
    service.clock.advance(days=400)
    with pytest.raises(Killed):
        stepped(service, Steps(1)).run()
    configure(service, "gdpr", "hipaa")
    assert officer.retention.run().shredded == ()
    assert {f"action:{action}:{MONTH}" for action in SECURITY} <= key_names(service)


def test_what_was_destroyed_is_confirmed_whatever_the_file_says_now(
    service: RunningService, officer: ComplianceClient
) -> None:
    configure(service, "gdpr")
    write_entries(service, "request.refused")
    service.clock.advance(days=400)
    with pytest.raises(Killed):  # destroyed, not confirmed
        stepped(service, Steps(2)).run()
    (service.folder.path / "retention.toml").unlink()
    key = f"action:request.refused:{MONTH}"
    assert officer.retention.run().finished == (key,)
    check_order(service, [key], complete=True)


def test_after_a_shred_older_copies_of_the_wrapped_keys_are_useless(
    service: RunningService, officer: ComplianceClient
) -> None:
    """No file of the keyring still holds what wrapped the shredded key."""
    configure(service, "gdpr")
    write_entries(service, "request.refused")
    before = {path.read_bytes() for path in service.folder.keyring.glob("*.key")}
    assert before
    service.clock.advance(days=400)
    officer.retention.run()
    after = {path.read_bytes() for path in service.folder.keyring.glob("*.key")}
    assert after
    assert before.isdisjoint(after)
    assert payload_of(service, "service.created")
