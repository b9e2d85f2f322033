"""Recalls: every grant ends, every holder is told, and all of it or nothing happens."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from audit.errors import Conflict, ExitCode, MalformedInput, NotFound, Refused, Unreachable
from audit.verifier import verify_log
from compliance.statements import format_time
from tests.compliance.federation import Consumer, Coordinator, Release, Site
from tests.compliance.running import RunningService
from tests.compliance.test_cli import Run, officer, run

__all__ = ["officer", "run"]

WHY = "trained on records that had to be erased"


@pytest.fixture
def release(coordinator: Coordinator, north: Site, tmp_path: Path) -> Release:
    """A candidate, uploaded and not decided."""
    plan_id = coordinator.approved_plan()
    coordinator.run(plan_id, north)
    release = coordinator.release(plan_id)
    coordinator.api.submit_release(release.manifest, sealed_key=release.sealed_key)
    coordinator.api.upload_release(release.release_id, release.file(tmp_path))
    return release


def approve(service: RunningService, release: Release) -> None:
    service.as_("officer").approve_release(release.release_id)


def grant(service: RunningService, release: Release, desk: Consumer) -> None:
    service.as_("officer").grant(
        release.release_id,
        desk.name,
        public_key=desk.public_key,
        purpose="triage",
        expires_at=format_time(service.clock() + timedelta(days=9)),
    )


def test_a_recall_ends_every_grant_and_tells_every_holder(
    service: RunningService, release: Release, tmp_path: Path
) -> None:
    approve(service, release)
    officer = service.as_("officer")
    holder, former, stranger = (Consumer(service, name) for name in ("holder", "former", "other"))
    for desk in (holder, former):
        grant(service, release, desk)
    officer.revoke_grant(release.release_id, former.name)
    ended_before = service.clock.now
    holder.api.download_release(release.release_id, tmp_path / "copy")
    service.clock.advance(hours=1)
    entries = len(service.entries())

    view = officer.recalls.recall(release.release_id, reason=WHY)

    assert view.state == "recalled"
    assert view.recall is not None
    assert (view.recall.reason, view.recall.recalled_by) == (WHY, "officer")
    ended = {each.principal: each.revoked_at for each in view.grants}
    assert ended == {"former": format_time(ended_before), "holder": format_time(service.clock())}
    added = service.entries()[entries:]
    about = f"release:{release.release_id}"
    assert [entry[:3] for entry in added] == [
        ("officer", "release.recalled", about),
        ("officer", "notice.issued", about),
        ("officer", "notice.issued", about),
    ]
    assert service.entries()[view.recall.position][3] == {"reason": WHY}
    assert [entry[3]["recipient"] for entry in added[1:]] == ["former", "holder"]

    for ask in (
        lambda: holder.api.release_key(release.release_id),
        lambda: former.api.release_key(release.release_id),
        lambda: holder.api.download_release(release.release_id, tmp_path / "again"),
        lambda: grant(service, release, holder),
        lambda: grant(service, release, stranger),
    ):
        with pytest.raises(Conflict, match=f"recalled on 2026-11-02: {WHY}"):
            ask()
        assert service.last_entry()[3]["reason"] == "release-recalled"
    assert not (tmp_path / "again").exists()
    with pytest.raises(Refused, match="no grant"):
        stranger.api.release_key(release.release_id)
    told = holder.api.release(release.release_id).recall
    assert told == view.recall


def test_a_notice_is_its_recipients_alone(service: RunningService, release: Release) -> None:
    approve(service, release)
    officer = service.as_("officer")
    holder, other = Consumer(service, "holder"), Consumer(service, "other")
    for desk in (holder, other):
        grant(service, release, desk)
    officer.recalls.recall(release.release_id, reason=WHY)
    (notice,) = holder.api.recalls.notices()
    assert (notice.recipient, notice.kind, notice.reason) == ("holder", "release-recalled", WHY)
    assert notice.acknowledged_at is None
    assert [each.recipient for each in officer.recalls.notices()] == ["holder", "other"]
    assert [each.recipient for each in service.as_("auditor").recalls.notices()] == [
        "holder",
        "other",
    ]
    for stranger in (other.api, officer):
        with pytest.raises(NotFound, match="no such notice to you"):
            stranger.recalls.acknowledge(notice.notice_id)
    done = holder.api.recalls.acknowledge(notice.notice_id)
    assert done.acknowledged_at == format_time(service.clock())
    assert service.last_entry()[:2] == ("holder", "notice.acknowledged")
    tables = service.tables()
    service.clock.advance(hours=1)
    assert holder.api.recalls.acknowledge(notice.notice_id) == done
    assert service.tables() == tables


def test_only_what_somebody_could_have_is_recalled(
    service: RunningService, coordinator: Coordinator, release: Release, tmp_path: Path
) -> None:
    officer = service.as_("officer")
    with pytest.raises(Conflict, match="candidate: nobody can have it"):
        officer.recalls.recall(release.release_id, reason=WHY)
    approve(service, release)
    with pytest.raises(MalformedInput, match="reason"):
        officer.recalls.recall(release.release_id, reason="")
    first = officer.recalls.recall(release.release_id, reason=WHY)
    tables = service.tables()
    assert officer.recalls.recall(release.release_id, reason="another") == first
    assert service.tables() == tables
    for decide in (officer.approve_release, officer.reject_release):
        with pytest.raises(Conflict, match="recalled already"):
            decide(release.release_id, reason="back again")
    coordinator.api.upload_release(release.release_id, release.file(tmp_path))  # changes nothing
    assert officer.release(release.release_id) == first
    assert officer.recalls.notices() == ()


def test_a_recall_happens_whole_or_not_at_all(service: RunningService, release: Release) -> None:
    approve(service, release)
    officer = service.as_("officer")
    desks = [Consumer(service, name) for name in ("one", "two")]
    for desk in desks:
        grant(service, release, desk)

    def acknowledge() -> object:
        return desks[0].api.recalls.acknowledge(desks[0].api.recalls.notices()[0].notice_id)

    steps: list[tuple[Callable[[], object], int]] = [
        (lambda: officer.recalls.recall(release.release_id, reason=WHY), 3),
        (acknowledge, 1),
    ]
    for write, entries in steps:
        before = service.tables()
        for fault in ("append", "commit"):
            setattr(service.faults, fault, True)
            with pytest.raises(Unreachable):
                write()
            setattr(service.faults, fault, False)
            assert service.tables() == before, fault
        service.faults.after_commit = True
        with pytest.raises(Unreachable):
            write()
        service.faults.after_commit = False
        after = service.tables()
        assert len(after["log_entries"]) - len(before["log_entries"]) == entries
        write()
        assert service.tables() == after
    report = verify_log(service.folder.path / "compliance.sqlite", service.trust.log_key)
    assert report.ok, report


def test_the_commands(
    officer: Run, service: RunningService, release: Release, tmp_path: Path
) -> None:
    approve(service, release)
    desk = Consumer(service)
    grant(service, release, desk)
    code, _, err = officer("recall", "triage-1", "--reason", WHY, name="auditor")
    assert code == ExitCode.UNAUTHORISED, err
    code, out, err = officer("recall", "triage-1", "--reason", WHY)
    assert code == 0, err
    assert "notices: 1" in out
    code, out, _ = officer("releases", "triage-1")
    assert f"by officer at 2026-11-02T09:00:00.000Z: {WHY}" in out
    code, out, _ = officer("notices", "list", "--json")
    (notice,) = json.loads(out)
    code, _, err = officer("notices", "acknowledge", notice["notice_id"])
    assert code == ExitCode.NOT_FOUND, err
    mine = service.folder.token("desk")
    mine.write_text(desk.token)
    code, out, err = officer("notices", "acknowledge", notice["notice_id"], name="desk")
    assert code == 0, err
    code, out, _ = officer("notices", "list")
    assert "not yet" not in out
    assert "triage-desk" in out
