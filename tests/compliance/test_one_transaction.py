"""No audit entry, no action: each write of the service fails in each way that a write can fail.

| fault        | the caller gets | what must hold afterwards                                      |
|--------------|-----------------|----------------------------------------------------------------|
| append fails | 503             | not one row of the database differs                            |
| commit fails | 503             | not one row of the database differs                            |
| answer lost  | 503             | done once, with its entry; a repeat answers, and adds nothing  |
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from audit.errors import Conflict, Unreachable
from audit.verifier import verify_log
from compliance.rules import Bearer
from compliance.service.errors import ServiceUnavailable
from compliance.service.folder import NewService, create_folder, open_registry
from compliance.service.registry import Registry
from compliance.service.tables import PrincipalRow
from compliance.statements import format_time
from tests.compliance.federation import Consumer, Coordinator, Kit, Site
from tests.compliance.running import Clock, InjectedFault, RunningService

Step = tuple[str, Callable[[], object]]


def every_write(
    service: RunningService, folder: Path, coordinator: Coordinator | None = None
) -> Iterator[Step]:
    """Each write of the service once, in an order in which it is possible, repeatable as it is."""
    coordinator = coordinator or Coordinator(service)
    officer, clock = service.as_("officer"), service.clock
    yield "register the coordinator", coordinator.register
    kit = Kit("one-time-token-of-north", "ab" * 32)
    yield "invite", lambda: coordinator.announce("north", kit)
    site = Site("north")
    enrolment = site.enrolment()

    def enrol() -> None:
        enrolled = service.client().enrol(
            token=kit.token, kit_sha256=kit.sha256, statement=enrolment
        )
        assert site.token in (None, enrolled.site_token)
        site.token = enrolled.site_token

    yield "enrol", enrol
    admission = coordinator.admission(site, enrolment.digest)
    yield "admit", lambda: coordinator.api.approve_site("north", admission)
    north = site.client(service)

    plan, unwanted = coordinator.plan(), coordinator.plan(name="unwanted")
    yield "submit a plan", lambda: coordinator.api.submit_plan(plan)
    yield "submit another plan", lambda: coordinator.api.submit_plan(unwanted)
    yield "approve a plan", lambda: officer.approve_plan(plan.digest, reason="DPIA 12")
    yield "reject a plan", lambda: officer.reject_plan(unwanted.digest, reason="too much")
    for index in range(2):
        done = site.report(plan.digest, index)
        yield "report of a site", lambda done=done: north.report_site(plan.digest, done)  # type: ignore[misc]
        seen = coordinator.round_report(plan.digest, index)
        yield (
            "report of a round",
            lambda seen=seen: coordinator.api.report_round(plan.digest, seen),  # type: ignore[misc]
        )
    refusal = site.refusal()
    yield "refusal", lambda: north.report_refusal(refusal)
    outcome = coordinator.outcome(plan.digest)
    yield "outcome", lambda: coordinator.api.report_outcome(plan.digest, outcome)

    releases = [coordinator.release(plan.digest, name=name) for name in ("kept", "unwanted")]
    for release in releases:
        yield (
            "announce a release",
            lambda release=release: coordinator.api.submit_release(  # type: ignore[misc]
                release.manifest, sealed_key=release.sealed_key
            ),
        )
        content = release.file(folder)
        yield (
            "upload",
            lambda release=release, content=content: coordinator.api.upload_release(  # type: ignore[misc]
                release.release_id, content
            ),
        )
    kept, bad = (release.release_id for release in releases)
    yield "approve a release", lambda: officer.approve_release(kept)
    yield "reject a release", lambda: officer.reject_release(bad)
    desk = Consumer(service)
    until = format_time(clock() + timedelta(days=2))
    yield (
        "grant",
        lambda: officer.grant(
            kept, desk.name, public_key=desk.public_key, purpose="triage", expires_at=until
        ),
    )
    yield "revoke a grant", lambda: officer.revoke_grant(kept, desk.name)

    request_id = "0123456789abcdef" * 2
    yield (
        "file a request",
        lambda: officer.subject_requests.file(
            "erasure", "gdpr", {"north": b"?"}, request_id=request_id
        ),
    )
    erasure = site.erasure()
    yield "erasure", lambda: north.report_erasure(erasure)
    yield "revoke a principal", lambda: officer.revoke_principal(desk.name)
    yield "revoke a site", lambda: officer.revoke_site("north", reason="test")


def test_every_write_is_all_or_nothing(service: RunningService, tmp_path: Path) -> None:
    for name, write in every_write(service, tmp_path):
        before = service.tables()
        for fault in ("append", "commit"):
            setattr(service.faults, fault, True)
            with pytest.raises(Unreachable, match="audit entry"):
                write()
            setattr(service.faults, fault, False)
            assert service.tables() == before, f"{name}: {fault} failed and left a trace"

        service.faults.after_commit = True
        with pytest.raises(Unreachable):
            write()
        service.faults.after_commit = False
        after = service.tables()
        added = len(after["log_entries"]) - len(before["log_entries"])
        assert added == 1, f"{name}: {added} entries"
        write()
        assert service.tables() == after, f"{name}: the repeat changed something"

    report = verify_log(service.folder.path / "compliance.sqlite", service.trust.log_key)
    assert report.ok, report


def test_a_new_principal_is_made_once_or_not_at_all(service: RunningService) -> None:
    officer = service.as_("officer")
    before = service.tables()
    for fault in ("append", "commit"):
        setattr(service.faults, fault, True)
        with pytest.raises(Unreachable):
            officer.add_principal("desk", ["consumer"])
        setattr(service.faults, fault, False)
        assert service.tables() == before
    service.faults.after_commit = True
    with pytest.raises(Unreachable):
        officer.add_principal("desk", ["consumer"])
    service.faults.after_commit = False
    with pytest.raises(Conflict, match="is, or was, a principal"):
        officer.add_principal("desk", ["consumer"])


def test_no_download_without_its_entry(
    service: RunningService, coordinator: Coordinator, north: Site, tmp_path: Path
) -> None:
    plan_id = coordinator.approved_plan()
    coordinator.run(plan_id, north)
    release = coordinator.release(plan_id)
    coordinator.api.submit_release(release.manifest, sealed_key=release.sealed_key)
    coordinator.api.upload_release(release.release_id, release.file(tmp_path))
    officer, desk = service.as_("officer"), Consumer(service)
    officer.approve_release(release.release_id)
    officer.grant(
        release.release_id,
        desk.name,
        public_key=desk.public_key,
        purpose="triage",
        expires_at=format_time(service.clock() + timedelta(days=1)),
    )
    before = service.tables()
    service.faults.append = True
    with pytest.raises(Unreachable):
        desk.api.download_release(release.release_id, tmp_path / "fetched")
    with pytest.raises(Unreachable):
        desk.api.release_key(release.release_id)
    service.faults.append = False
    assert not (tmp_path / "fetched").exists()
    assert service.tables() == before
    desk.api.download_release(release.release_id, tmp_path / "fetched")
    desk.api.release_key(release.release_id)
    assert [entry[:2] for entry in service.entries()[-2:]] == [
        (desk.name, "release.downloaded"),
        (desk.name, "key.fetched"),
    ]


def test_a_refusal_that_cannot_be_recorded_is_answered_503(service: RunningService) -> None:
    service.faults.append = True
    answer = service.http("not-a-token-of-anybody").get("/v1/plans")
    assert answer.status_code == 503
    assert answer.json()["type"] == "urn:fiduciary:problem:unavailable"
    service.faults.append = False
    assert service.last_entry()[1] == "principal.added"


def test_a_change_that_records_nothing_is_not_committed(service: RunningService) -> None:
    before = service.tables()
    with (
        pytest.raises(ServiceUnavailable, match="without an audit entry"),
        service.registry.writing(None) as transaction,
    ):
        transaction.session.add(
            PrincipalRow(
                name="ghost",
                roles="officer",
                token_sha256="0" * 64,
                created_by="nobody",
                created_at=transaction.time,
            )
        )
    assert service.tables() == before


def test_a_writer_whose_token_was_revoked_meanwhile_changes_nothing(
    service: RunningService,
) -> None:
    officer = service.as_("officer")
    officer.add_principal("second", ["officer"])
    officer.revoke_principal("second")
    before = service.tables()
    stale = Bearer("second", frozenset({"officer"}))
    with (
        pytest.raises(Exception, match="token is not valid"),
        service.registry.writing(stale) as transaction,
    ):
        transaction.record("never", "thing:1", {})
    assert service.tables() == before


def test_unexpected_failures_inside_a_transaction_leave_no_trace(service: RunningService) -> None:
    before = service.tables()

    def fail(failure: Exception) -> None:
        with service.registry.writing(None) as transaction:
            transaction.record("thing.done", "thing:1", {})
            raise failure

    with pytest.raises(ServiceUnavailable):
        fail(InjectedFault())
    with pytest.raises(ZeroDivisionError):
        fail(ZeroDivisionError())
    assert service.tables() == before


def test_concurrent_writers_lose_no_position(service: RunningService) -> None:
    writers, each = 8, 6
    failures: list[BaseException] = []

    def write(number: int) -> None:
        officer = service.as_("officer")
        try:
            for index in range(each):
                officer.add_principal(f"writer-{number}-{index}", ["consumer"])
        except BaseException as error:  # noqa: BLE001  reported by the main thread
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    entries = service.entries()
    added = [name for _, action, name, _ in entries if action == "principal.added"]
    assert len(added) == len(set(added)) == 3 + writers * each
    report = verify_log(service.folder.path / "compliance.sqlite", service.trust.log_key)
    assert report.ok
    assert report.entries == len(entries)


def test_two_processes_over_one_database_queue_and_do_not_fail(
    tmp_path: Path, clock: Clock
) -> None:
    """Two registries share nothing but the file, as two processes would."""
    folder = create_folder(
        tmp_path / "compliance", NewService("127.0.0.1", 1, "127.0.0.1", "x/log"), clock
    )
    registries = [open_registry(folder, clock) for _ in range(2)]
    failures: list[BaseException] = []

    def write(registry: Registry) -> None:
        try:
            for index in range(15):
                with registry.writing(None) as transaction:
                    transaction.session.scalars(select(PrincipalRow)).all()
                    transaction.record("thing.done", f"thing:{index}", {})
        except BaseException as error:  # noqa: BLE001  reported by the main thread
            failures.append(error)

    threads = [threading.Thread(target=write, args=(registry,)) for registry in registries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for registry in registries:
        registry.close()
    assert failures == []
    report = verify_log(folder.path / "compliance.sqlite", registries[0].log.key)
    assert report.ok, report
    assert report.entries == 4 + 2 * 15
