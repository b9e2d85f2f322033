"""Retention of a real service's log: order, destroy, confirm, whatever fails in between."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from audit.errors import (
    Conflict,
    ExitCode,
    FiduciaryError,
    MalformedInput,
    NotFound,
    Unauthorised,
    Unreachable,
)
from audit.key_manager import KeyDestroyed
from audit.log import LogStorage, read_leaf
from audit.verifier import verify_log
from compliance import cli
from compliance.api import ComplianceClient
from compliance.retention import CHECK_SECONDS, Event, Retention, RetentionLog, ShreddableKeys
from compliance.rules import Bearer
from compliance.rules.months import Month
from compliance.rules.retention import ActionKey
from compliance.service.retention import (
    FIRST_CHECK_SECONDS,
    RetentionTimer,
    ServiceLog,
    retention_timer,
    service_retention,
)
from compliance.statements import format_time
from tests.compliance.federation import Consumer, Coordinator, Site
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


@pytest.fixture
def officer(service: RunningService) -> ComplianceClient:
    return service.as_("officer")


# --- an officer's work ----------------------------------------------------------------------------


def test_a_month_that_is_due_is_shredded_and_the_log_says_so(
    service: RunningService, officer: ComplianceClient
) -> None:
    write_entries(service, *SECURITY)
    configure(service, "gdpr")
    keys = [f"action:{action}:{MONTH}" for action in SECURITY]
    assert officer.retention.run().shredded == ()
    shown = {key.key: key for key in officer.retention.show().keys}
    assert (shown[keys[0]].status, shown[keys[0]].due) == ("waiting", "2027-12")
    assert shown[keys[0]].entries == 2
    assert payload_of(service, "request.refused") == {"detail": "of request.refused"}

    service.clock.advance(days=394)  # 2027-12-01T09:00
    assert str(Month.of(service.clock())) == "2027-12"
    rehearsed = officer.retention.run(dry_run=True)
    assert rehearsed.dry_run
    assert list(rehearsed.shredded) == keys
    assert set(keys) <= key_names(service)
    assert retention_events(service) == []

    assert list(officer.retention.run().shredded) == keys
    assert key_names(service).isdisjoint(keys)
    with pytest.raises(KeyDestroyed):
        payload_of(service, "request.refused")
    assert retention_events(service) == [
        *[("officer", "retention.ordered", key) for key in keys],
        *[("officer", "retention.shredded", key) for key in keys],
    ]
    order = payload_of(service, "retention.ordered")
    assert order["rule"] == "gdpr-security"
    assert order["jurisdictions"] == ["gdpr"]
    assert order["due"] == "2027-12"
    assert "Art. 5(1)(e)" in order["source"]
    verify(service)

    size = len(retention_events(service))
    assert officer.retention.run().shredded == ()
    assert len(retention_events(service)) == size
    # The action goes on, in later months; everything that nothing ends is still readable.
    write_entries(service, "request.refused")
    assert payload_of(service, "service.created")


def test_without_a_file_nothing_is_ever_shredded(
    service: RunningService, officer: ComplianceClient
) -> None:
    write_entries(service, *SECURITY)
    service.clock.advance(days=36_500)
    view = officer.retention.show()
    assert view.jurisdictions == ()
    assert {key.status for key in view.keys} == {"kept"}
    assert officer.retention.run().shredded == ()
    assert retention_events(service) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("jurisdictions = [", "malformed retention.toml"),
        ('format = "fiduciary.retention/1"\nlaws = ["gdpr"]', "malformed retention.toml: laws"),
        ('format = "fiduciary.retention/1"\njurisdictions = ["mars"]', "no rules for mars"),
        (
            'format = "fiduciary.retention/1"\njurisdictions = ["hipaa"]\n'
            '[months]\n"request.refused" = 12',
            "rule hipaa-activity",
        ),
    ],
)
def test_a_file_that_cannot_be_followed_shreds_nothing(
    service: RunningService, officer: ComplianceClient, text: str, says: str
) -> None:
    write_entries(service, *SECURITY)
    service.clock.advance(days=36_500)
    (service.folder.path / "retention.toml").write_text(text)
    before = key_names(service)
    for call in (officer.retention.show, officer.retention.run):
        with pytest.raises(Unreachable, match=says) as failed:
            call()
        assert "compliance folder" in failed.value.fix
    assert key_names(service) == before


def test_only_officers_change_anything(service: RunningService) -> None:
    auditor, coordinator = service.as_("auditor"), service.as_("coordinator")
    assert auditor.retention.show().keys
    for client in (auditor, coordinator):
        with pytest.raises(Unauthorised):
            client.retention.run()
        assert service.last_entry()[1] == "request.refused"
        with pytest.raises(Unauthorised):
            client.retention.hold("case-17", reason="inquiry")
    with pytest.raises(Unauthorised):
        coordinator.retention.show()


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


# --- holds ----------------------------------------------------------------------------------------


def test_a_hold_keeps_until_it_is_released(
    service: RunningService, officer: ComplianceClient
) -> None:
    write_entries(service, *SECURITY)
    configure(service, "gdpr")
    hold = officer.retention.hold(
        "case-17", reason="inquiry", action="request.", first=MONTH, last=MONTH
    )
    assert (hold.placed_by, hold.action) == ("officer", "request.")
    assert (
        officer.retention.hold(
            "case-17", reason="inquiry", action="request.", first=MONTH, last=MONTH
        )
        == hold
    )
    with pytest.raises(Conflict):
        officer.retention.hold("case-17", reason="another")
    service.clock.advance(days=400)
    held, free = f"action:request.refused:{MONTH}", f"action:attempts.limited:{MONTH}"
    assert officer.retention.run().shredded == (free,)
    shown = {key.key: key for key in officer.retention.show().keys}
    assert (shown[held].status, shown[held].hold) == ("held", "case-17")
    assert payload_of(service, "request.refused")

    released = officer.retention.release("case-17", reason="closed")
    assert released.name == "case-17"
    with pytest.raises(NotFound):
        officer.retention.release("case-17", reason="closed")
    assert officer.retention.show().holds == ()
    assert officer.retention.run().shredded == (held,)
    events = [(action, name) for _, action, name in retention_events(service)]
    assert events[0] == ("retention.held", "hold:case-17")
    assert ("retention.released", "hold:case-17") in events


def test_two_holds_over_the_same_thing_end_separately(
    service: RunningService, officer: ComplianceClient
) -> None:
    write_entries(service, *SECURITY)
    configure(service, "gdpr")
    officer.retention.hold("case-17", reason="inquiry")
    officer.retention.hold("case-18", reason="lawsuit")
    service.clock.advance(days=400)
    officer.retention.release("case-17", reason="closed")
    assert officer.retention.run().shredded == ()
    officer.retention.release("case-18", reason="settled")
    assert len(officer.retention.run().shredded) == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"first": "2026-05", "last": "2026-04"},
        {"first": "2026-13"},
        {"action": "Request."},
        {"reason": ""},
    ],
)
def test_a_hold_that_says_nothing_clear_is_refused(
    officer: ComplianceClient, fields: dict[str, str]
) -> None:
    with pytest.raises(MalformedInput):
        officer.retention.hold("case-17", **{"reason": "inquiry", **fields})
    assert officer.retention.show().holds == ()


# --- what is still in effect ----------------------------------------------------------------------


def test_evidence_of_what_is_in_effect_is_kept(
    service: RunningService, coordinator: Coordinator, north: Site, tmp_path: Path
) -> None:
    """HIPAA counts six years from when a plan or a grant was last in effect."""
    configure(service, "hipaa")
    officer, clock = service.as_("officer"), service.clock
    plan_id = coordinator.approved_plan()
    plans = f"action:plan.approved:{MONTH}"

    def status(key: str) -> tuple[str, str | None]:
        shown = {view.key: view for view in officer.retention.show().keys}
        return shown[key].status, shown[key].due

    clock.advance(days=7 * 365 + 30)
    assert status(plans) == ("in-effect", None)  # the run has not ended
    coordinator.run(plan_id, north)
    assert status(plans)[0] == "waiting"
    release = coordinator.release(plan_id)
    coordinator.api.submit_release(release.manifest, sealed_key=release.sealed_key)
    coordinator.api.upload_release(release.release_id, release.file(tmp_path))
    clock.advance(days=7 * 365)
    assert status(plans) == ("in-effect", None)  # a release of it waits for a decision
    officer.approve_release(release.release_id)
    desk = Consumer(service)

    def grant() -> None:
        officer.grant(
            release.release_id,
            desk.name,
            public_key=desk.public_key,
            purpose="triage",
            expires_at=format_time(clock() + timedelta(days=1000)),
        )

    grant()
    approved = f"action:release.approved:{Month.of(clock())}"
    # Nothing but the grant keeps both when six years have passed since the approval.
    officer.revoke_grant(release.release_id, desk.name)
    ended = Month.of(clock())
    clock.advance(days=6 * 365)
    assert status(approved) == ("waiting", str(ended.first_after(72)))
    clock.advance(days=62)
    assert status(approved) == ("due", str(ended.first_after(72)))
    assert status(plans)[0] == "due"
    shredded = officer.retention.run().shredded
    assert {plans, approved} <= set(shredded)
    assert not [name for name in shredded if "principal" in name or "site.a" in name]
    with pytest.raises(Conflict, match="how this release was made"):
        grant()  # nobody could be told any more what it is
    verify(service)


def test_a_live_grant_keeps_the_evidence_of_its_release(
    service: RunningService, coordinator: Coordinator, north: Site, tmp_path: Path
) -> None:
    configure(service, "gdpr", months='"release.approved" = 36')
    officer, clock = service.as_("officer"), service.clock
    plan_id = coordinator.approved_plan()
    coordinator.run(plan_id, north)
    release = coordinator.release(plan_id)
    coordinator.api.submit_release(release.manifest, sealed_key=release.sealed_key)
    coordinator.api.upload_release(release.release_id, release.file(tmp_path))
    officer.approve_release(release.release_id)
    key = ActionKey("release.approved", Month.of(clock()))
    log = ServiceLog(service.registry, None)
    assert log.last_in_effect(key) == key.month
    clock.advance(days=800)
    desk = Consumer(service)
    officer.grant(
        release.release_id,
        desk.name,
        public_key=desk.public_key,
        purpose="triage",
        expires_at=format_time(clock() + timedelta(days=1000)),
    )
    clock.advance(days=990)
    assert log.last_in_effect(key) is None
    clock.advance(days=11)
    assert log.last_in_effect(key) == Month.of(clock())


def test_an_open_request_is_kept_and_an_answered_one_counts_from_its_answer(
    service: RunningService, north: Site
) -> None:
    configure(service, "ccpa")
    officer, clock = service.as_("officer"), service.clock
    request = officer.file_request("erasure", "north", sealed=b"?")
    key = f"action:request.filed:{MONTH}"
    clock.advance(days=1200)
    shown = {view.key: view for view in officer.retention.show().keys}
    assert shown[key].status == "in-effect"
    north.client(service).report_erasure(north.erasure(), request_id=request.request_id)
    answered = Month.of(clock())
    shown = {view.key: view for view in officer.retention.show().keys}
    assert (shown[key].status, shown[key].due) == ("waiting", str(answered.first_after(36)))


def test_an_entry_that_depends_on_nothing_known_is_kept(
    service: RunningService, officer: ComplianceClient
) -> None:
    configure(service, "gdpr")
    write_entries(service, "run.ended")
    service.clock.advance(days=36_500)
    shown = {key.action: key for key in officer.retention.show().keys}
    assert shown["run.ended"].status == "in-effect"


# --- faults ---------------------------------------------------------------------------------------


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


# --- the timer ------------------------------------------------------------------------------------


class Waits:
    """Stands for the passing of time: what it was asked to wait, until told to stop."""

    def __init__(self, rounds: int, between: Callable[[], object] = lambda: None) -> None:
        self.seconds: list[float] = []
        self._rounds = rounds
        self._between = between

    def __call__(self, seconds: float) -> bool:
        self.seconds.append(seconds)
        if len(self.seconds) > self._rounds:
            return True
        self._between()
        return False


def test_the_timer_shreds_soon_and_then_daily(service: RunningService) -> None:
    configure(service, "gdpr")
    write_entries(service, *SECURITY)
    waits = Waits(3, lambda: service.clock.advance(days=200))
    RetentionTimer(service_retention(service.registry, None).run, waits).serve()
    assert waits.seconds == [FIRST_CHECK_SECONDS, CHECK_SECONDS, CHECK_SECONDS, CHECK_SECONDS]
    assert {actor for actor, _, _ in retention_events(service)} == {"compliance"}
    check_order(service, [f"action:{action}:{MONTH}" for action in SECURITY], complete=True)


@pytest.mark.parametrize(
    "failure", [FiduciaryError("disk full", fix="free some"), ZeroDivisionError("x")]
)
def test_a_failing_run_is_logged_and_the_next_one_comes(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    runs: list[int] = []

    def run() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise failure

    with caplog.at_level(logging.ERROR, "compliance.service"):
        RetentionTimer(run, Waits(2)).serve()
    assert len(runs) == 2
    (record,) = caplog.records
    assert "retention did not run" in record.getMessage()
    expected = "disk full" if isinstance(failure, FiduciaryError) else "ZeroDivisionError"
    assert expected in record.getMessage()


def test_the_timer_ends_with_the_service(service: RunningService) -> None:
    with retention_timer(service.registry):
        pass
    assert retention_events(service) == []


# --- the command ----------------------------------------------------------------------------------


def test_the_command(
    service: RunningService,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("TRUST", "TOKEN_FILE", "COMPLIANCE"):
        monkeypatch.delenv(f"FIDUCIARY_{name}", raising=False)
    service.trust.save(tmp_path / "trust.json")
    who = [
        *("--trust", str(tmp_path / "trust.json")),
        *("--token-file", str(service.folder.token("officer"))),
    ]

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["compliance", "retention", *arguments, *who])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return int(str(ended.value.code or 0)), captured.out + captured.err

    write_entries(service, *SECURITY)
    code, out = run("show")
    assert code == 0
    assert "none named, so nothing is shredded" in out
    configure(service, "gdpr")
    code, out = run("show")
    assert "gdpr-security" in out
    assert "2027-12" in out
    code, out = run("hold", "case-17", "--reason", "inquiry", "--action", "request.", "--json")
    assert json.loads(out)["placed_by"] == "officer"
    service.clock.advance(days=400)
    code, out = run("run", "--dry-run")
    assert "would shred action:attempts.limited:2026-11" in out
    code, out = run("run", "--json")
    assert json.loads(out)["shredded"] == ["action:attempts.limited:2026-11"]
    code, out = run("show", "--json")
    held = [key["action"] for key in json.loads(out)["keys"] if key["hold"]]
    assert "request.refused" in held
    code, out = run("show")
    assert "case-17" in out
    assert "every action" not in out
    code, out = run("release", "case-17", "--reason", "closed")
    assert (code, "released case-17" in out) == (0, True)
    code, out = run("release", "case-17", "--reason", "closed")
    assert code == ExitCode.NOT_FOUND
    code, out = run("hold", "case-18", "--reason", "inquiry", "--from", "May")
    assert code == ExitCode.MALFORMED_INPUT
    code, out = run("run")
    assert "shredded action:request.refused:2026-11" in out
    code, out = run("run")
    assert "nothing is due" in out
