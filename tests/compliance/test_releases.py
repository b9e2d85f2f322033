"""Releases: gates, content, keys."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from audit.errors import Conflict, FiduciaryError, MalformedInput, NotFound, Refused
from compliance.statements import format_time
from tests.compliance.federation import DIGEST, Consumer, Coordinator, Release, Site, grant_as_once
from tests.compliance.running import RunningService


@pytest.fixture
def completed(coordinator: Coordinator, north: Site) -> str:
    plan_id = coordinator.approved_plan()
    coordinator.run(plan_id, north)
    return plan_id


def submit(coordinator: Coordinator, release: Release) -> str:
    return coordinator.api.submit_release(
        release.manifest, sealed_key=release.sealed_key
    ).release_id


GATES: list[tuple[type[FiduciaryError], dict[str, Any], str]] = [
    (Refused, {"epsilon_by_site": {"north": "8.01"}}, "more than the plan's epsilon"),
    (MalformedInput, {"epsilon_by_site": {"north": "1.4"}}, "states less"),
    (MalformedInput, {"epsilon_by_site": {}}, "states less"),
    (MalformedInput, {"epsilon_by_site": {"north": "2", "south": "1"}}, "outside the plan"),
    (MalformedInput, {"delta": "0.1"}, "delta"),
    (MalformedInput, {"base_model": {"name": "other", "digest": DIGEST}}, "base model"),
    (Refused, {"files": {"weights.PT": DIGEST}}, "can run code"),
    (Refused, {"files": {"a.pickle": DIGEST, "b.safetensors": DIGEST}}, "can run code"),
    (MalformedInput, {"ciphertext_bytes": 0}, "ciphertext_bytes"),
    (MalformedInput, {"ciphertext_bytes": 2**28 + 1}, "ciphertext_bytes"),
]


def test_a_release_must_keep_what_its_plan_promised(
    service: RunningService, coordinator: Coordinator, completed: str
) -> None:
    for kind, changes, reason in GATES:
        with pytest.raises(kind, match=reason):
            submit(coordinator, coordinator.release(completed, **changes))
        assert service.last_entry()[1] == "request.refused"
    assert coordinator.api.releases() == ()


def test_only_a_completed_run_makes_a_release(coordinator: Coordinator, north: Site) -> None:
    plan_id = coordinator.approved_plan()
    with pytest.raises(Conflict, match="only a completed run"):
        submit(coordinator, coordinator.release(plan_id))
    with pytest.raises(NotFound, match="no such plan"):
        submit(coordinator, coordinator.release(DIGEST))


def test_a_data_key_that_does_not_open_is_found_at_once(
    coordinator: Coordinator, completed: str
) -> None:
    one, other = (coordinator.release(completed, name=name) for name in ("one", "other"))
    with pytest.raises(MalformedInput, match="does not open"):
        coordinator.api.submit_release(one.manifest, sealed_key=other.sealed_key)
    with pytest.raises(MalformedInput, match="does not open"):
        coordinator.api.submit_release(one.manifest, sealed_key=b"x" * 80)


def test_content_is_what_the_manifest_names_or_nothing(
    service: RunningService, coordinator: Coordinator, completed: str, tmp_path: Path
) -> None:
    release = coordinator.release(completed)
    release_id = submit(coordinator, release)
    officer = service.as_("officer")
    with pytest.raises(Conflict, match="not been uploaded"):
        officer.approve_release(release_id)
    altered = bytearray(release.ciphertext)
    altered[7] ^= 1
    for content, reason in (
        (bytes(altered), "expected sha256"),
        (release.ciphertext[:-1], "expected .* bytes, got"),
        (release.ciphertext + b"x", "expected .* bytes, got"),
        (b"", "expected .* bytes, got 0"),
    ):
        path = tmp_path / "altered"
        path.write_bytes(content)
        with pytest.raises(MalformedInput, match=reason):
            coordinator.api.upload_release(release_id, path)
        assert list(service.folder.releases.iterdir()) == []
    coordinator.api.upload_release(release_id, release.file(tmp_path))
    kept = list(service.folder.releases.iterdir())
    assert [path.read_bytes() for path in kept] == [release.ciphertext]
    tables = service.tables()
    coordinator.api.upload_release(release_id, release.file(tmp_path))  # the same again
    assert service.tables() == tables
    with pytest.raises(MalformedInput):
        coordinator.api.upload_release(release_id, tmp_path / "altered")
    assert kept[0].read_bytes() == release.ciphertext


def test_only_who_announced_a_release_uploads_it(
    service: RunningService, coordinator: Coordinator, completed: str, tmp_path: Path
) -> None:
    release = coordinator.release(completed)
    release_id = submit(coordinator, release)
    other = service.client(service.as_("officer").add_principal("other", ["coordinator"]).token)
    with pytest.raises(FiduciaryError, match="another principal submitted"):
        other.upload_release(release_id, release.file(tmp_path))
    with pytest.raises(NotFound):
        other.upload_release(DIGEST, release.file(tmp_path))


def test_a_rejected_release_cannot_be_granted(
    service: RunningService, coordinator: Coordinator, completed: str, tmp_path: Path
) -> None:
    release = coordinator.release(completed)
    release_id = submit(coordinator, release)
    coordinator.api.upload_release(release_id, release.file(tmp_path))
    officer, desk = service.as_("officer"), Consumer(service)
    until = format_time(service.clock() + timedelta(days=1))

    def grant(**changes: Any) -> Any:
        fields: dict[str, Any] = {
            "public_key": desk.public_key,
            "purpose": "triage",
            "expires_at": until,
            **changes,
        }
        return officer.grant(release_id, fields.pop("principal", desk.name), **fields)

    with pytest.raises(Conflict, match="candidate, not approved"):
        grant()
    officer.reject_release(release_id, reason="accuracy too low")
    with pytest.raises(Conflict, match="rejected, not approved"):
        grant()
    view = officer.release(release_id)
    assert view.approval is None
    assert view.rejection is not None


def test_a_grant_is_to_somebody_for_a_while_with_a_real_key(
    service: RunningService, coordinator: Coordinator, completed: str, tmp_path: Path
) -> None:
    release = coordinator.release(completed)
    release_id = submit(coordinator, release)
    coordinator.api.upload_release(release_id, release.file(tmp_path))
    officer, desk = service.as_("officer"), Consumer(service)
    officer.approve_release(release_id)
    now = service.clock()

    def grant(days: float = 1, principal: str = desk.name, key: bytes = desk.public_key) -> Any:
        return officer.grant(
            release_id,
            principal,
            public_key=key,
            purpose="triage",
            expires_at=format_time(now + timedelta(days=days)),
        )

    with pytest.raises(MalformedInput, match="no such principal"):
        grant(principal="nobody")
    with pytest.raises(MalformedInput, match="past"):
        grant(days=0)
    with pytest.raises(MalformedInput, match="at most"):
        grant(days=1200)
    with pytest.raises(MalformedInput, match="usable X25519"):
        grant(key=bytes(32))
    with pytest.raises(MalformedInput, match="32 bytes"):
        grant(key=b"short")
    first = grant()
    tables = service.tables()
    assert grant() == first
    assert service.tables() == tables
    assert grant(days=2).expires_at > first.expires_at
    officer.revoke_grant(release_id, desk.name)
    with pytest.raises(Refused, match="revoked"):
        desk.api.release_key(release_id)
    grant(days=3)
    assert desk.api.release_key(release_id).principal == desk.name
    officer.revoke_principal(desk.name)
    with pytest.raises(MalformedInput, match="has ended"):
        grant(days=4)
    with pytest.raises(NotFound):
        officer.revoke_grant(release_id, "nobody")


def test_a_grant_is_for_the_purpose_of_the_plan(
    service: RunningService, coordinator: Coordinator, completed: str, tmp_path: Path
) -> None:
    release = coordinator.release(completed)
    release_id = submit(coordinator, release)
    coordinator.api.upload_release(release_id, release.file(tmp_path))
    officer, desk, old = service.as_("officer"), Consumer(service), Consumer(service, "old-desk")
    officer.approve_release(release_id)
    until = format_time(service.clock() + timedelta(days=1))
    key = desk.public_key
    for purpose in ("research", "triage-2", "tria"):
        with pytest.raises(Refused, match=f"trained for triage, not for {purpose}") as refused:
            officer.grant(release_id, desk.name, public_key=key, purpose=purpose, expires_at=until)
        assert "grant it for triage" in refused.value.fix
        assert service.last_entry()[1] == "request.refused"
    assert officer.release(release_id).grants == ()
    officer.grant(release_id, desk.name, public_key=key, purpose="triage", expires_at=until)
    # What an earlier version granted is shown, and lasts as long as was said then.
    grant_as_once(service, release, old, "research")
    shown = {grant.principal: grant.purpose for grant in officer.release(release_id).grants}
    assert shown == {"triage-desk": "triage", "old-desk": "research"}
    old.api.download_release(release_id, tmp_path / "old")
    later = format_time(service.clock() + timedelta(days=60))
    with pytest.raises(Refused, match="not for research"):
        officer.grant(
            release_id, old.name, public_key=old.public_key, purpose="research", expires_at=later
        )


def test_a_grant_may_limit_how_often_somebody_downloads(
    service: RunningService, coordinator: Coordinator, completed: str, tmp_path: Path
) -> None:
    release = coordinator.release(completed)
    release_id = submit(coordinator, release)
    coordinator.api.upload_release(release_id, release.file(tmp_path))
    officer, desk = service.as_("officer"), Consumer(service)
    officer.approve_release(release_id)

    def grant(max_downloads: int | None, days: int = 1) -> Any:
        return officer.grant(
            release_id,
            desk.name,
            public_key=desk.public_key,
            purpose="triage",
            expires_at=format_time(service.clock() + timedelta(days=days)),
            max_downloads=max_downloads,
        )

    for wrong in (0, -1, 100_001):
        with pytest.raises(MalformedInput, match="max_downloads"):
            grant(wrong)
    first = grant(2)
    assert (first.max_downloads, first.downloads_left) == (2, 2)
    desk.api.download_release(release_id, tmp_path / "one")
    tables = service.tables()
    assert grant(2).downloads_left == 1  # the same grant again is no new one
    assert service.tables() == tables
    desk.api.download_release(release_id, tmp_path / "two")
    for _ in range(2):
        with pytest.raises(Refused, match="downloads are used up"):
            desk.api.download_release(release_id, tmp_path / "three")
        assert service.last_entry()[3]["reason"] == "downloads-used"
    assert not (tmp_path / "three").exists()
    assert desk.api.release_key(release_id).principal == desk.name  # opens what they have
    (view,) = officer.release(release_id).grants
    assert (view.downloads, view.downloads_left) == (2, 0)
    anew = grant(1, days=2)
    assert (anew.downloads, anew.downloads_left) == (2, 1)
    desk.api.download_release(release_id, tmp_path / "three")
    with pytest.raises(Refused, match="used up"):
        desk.api.download_release(release_id, tmp_path / "four")
    assert grant(None, days=2).downloads_left is None
    desk.api.download_release(release_id, tmp_path / "four")
    assert officer.revoke_grant(release_id, desk.name).downloads == 4
    service.clock.advance(days=3)
    grant(None)
    service.clock.advance(days=2)
    with pytest.raises(Refused, match="expired"):
        desk.api.download_release(release_id, tmp_path / "five")
