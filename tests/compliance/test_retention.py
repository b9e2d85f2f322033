"""Retention of a real service's log: what is due, what is held, what is still in effect."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from audit.errors import (
    Conflict,
    MalformedInput,
    NotFound,
    Unauthorised,
    Unreachable,
)
from audit.key_manager import KeyDestroyed
from compliance.api import ComplianceClient
from compliance.rules.months import Month
from compliance.rules.retention import ActionKey
from compliance.service.retention import (
    ServiceLog,
)
from compliance.service.tables import SubjectRequestRow
from compliance.statements import format_time
from tests.compliance.federation import Consumer, Coordinator, Site
from tests.compliance.retaining import (
    MONTH,
    SECURITY,
    configure,
    key_names,
    payload_of,
    retention_events,
    verify,
    write_entries,
)
from tests.compliance.running import RunningService

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


def test_an_open_note_of_before_is_kept_and_an_answered_one_counts_from_its_answer(
    service: RunningService, north: Site
) -> None:
    configure(service, "ccpa")
    officer, clock = service.as_("officer"), service.clock
    with service.registry.writing(None) as transaction:
        position = transaction.record("request.filed", f"request:{'a' * 32}", {}, site="north")
        note = SubjectRequestRow(
            request_id="a" * 32,
            kind="erasure",
            site="north",
            state="open",
            filed_by="officer",
            filed_at=transaction.time,
            position=position,
        )
        transaction.session.add(note)
    key = f"action:request.filed:{MONTH}"
    clock.advance(days=1200)
    shown = {view.key: view for view in officer.retention.show().keys}
    assert shown[key].status == "in-effect"
    answered = Month.of(clock())
    with service.registry.writing(None) as transaction:
        transaction.record("subject.erased", "statement:x", {}, site="north")
        transaction.session.get_one(SubjectRequestRow, "a" * 32).done_at = transaction.time
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
