"""The service is killed at every step of a release: nothing is lost, nothing is done twice.

| killed                      | afterwards                                                        |
|-----------------------------|-------------------------------------------------------------------|
| before a commit             | nothing of the step is there; the repeat does it                  |
| after a commit, no answer   | all of the step is there; the repeat answers and adds nothing     |
| content came, has no name   | no file is left of it; the repeat keeps it                        |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest
from sqlalchemy import create_engine, text

from audit.errors import Unreachable
from audit.verifier import verify_log
from compliance import session
from compliance.service.folder import NewService, create_folder
from compliance.statements import format_time
from tests.compliance.federation import Consumer, Coordinator
from tests.compliance.killable import KillableService, Moment, killable, now
from tests.compliance.running import RunningService

Step = tuple[str, Callable[[], object], dict[str, int]]


def actions(service: KillableService) -> Counter[str]:
    """How often each action was recorded, read from the database itself."""
    engine = create_engine(f"sqlite:///{service.folder.path / 'compliance.sqlite'}")
    with engine.connect() as connection:
        found = connection.execute(text("SELECT action, COUNT(*) FROM log_index GROUP BY action"))
        counted = Counter({str(action): int(count) for action, count in found})
    engine.dispose()
    return counted


def survives(service: KillableService, write: Callable[[], object], added: dict[str, int]) -> None:
    """Kill it before and after the commit; the step is done once."""
    before = actions(service)
    moments: tuple[Moment, ...] = ("before", "after")
    for moment in moments:
        service.die_at(moment)
        with pytest.raises(Unreachable):
            write()
        assert service.has_died()
        service.client().health()
        expected = before if moment == "before" else before + Counter(added)
        assert actions(service) == expected, moment
    write()
    assert actions(service) == before + Counter(added)


def steps(service: KillableService, folder: Path) -> list[Step]:
    """Every step of a release, from its announcement to the end of its last grant."""
    running = cast(RunningService, service)  # what the other parties use of it is there
    coordinator = Coordinator(running)
    coordinator.register()
    site = coordinator.welcome("north")
    plan_id = coordinator.approved_plan()
    coordinator.run(plan_id, site)
    release = coordinator.release(plan_id)
    desk = Consumer(running)
    officer = service.as_("officer")
    second = service.client(officer.add_principal("second", ["officer"]).token)
    until = format_time(now() + timedelta(days=2))
    content = release.file(folder)

    def acknowledge() -> object:
        (notice,) = desk.api.recalls.notices()
        return desk.api.recalls.acknowledge(notice.notice_id)

    return [
        (
            "announce",
            lambda: coordinator.api.submit_release(release.manifest, sealed_key=release.sealed_key),
            {"release.announced": 1},
        ),
        (
            "upload",
            lambda: coordinator.api.upload_release(release.release_id, content),
            {"release.uploaded": 1},
        ),
        (
            "approve",
            lambda: officer.approve_release(release.release_id),
            {"release.approved": 1},
        ),
        (
            "grant",
            lambda: officer.grant(
                release.release_id,
                desk.name,
                public_key=desk.public_key,
                purpose="triage",
                expires_at=until,
                max_downloads=3,
            ),
            {"release.granted": 1},
        ),
        (
            "alias",
            lambda: second.aliases.set("production", release.release_id),
            {"alias.moved": 1},
        ),
        (
            "recall",
            lambda: officer.recalls.recall(release.release_id, reason="a subject was erased"),
            {"release.recalled": 1, "notice.issued": 1},
        ),
        ("acknowledge", acknowledge, {"notice.acknowledged": 1}),
    ]


def test_a_release_survives_a_kill_at_every_step(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The client would repeat by itself; a caller that is killed, too, starts anew with another key.
    monkeypatch.setattr(session, "ANSWER_ATTEMPTS", 1)
    folder = create_folder(
        memory / "compliance", NewService("127.0.0.1", 1, "127.0.0.1", "x/log"), now
    )
    with killable(folder) as service:
        for name, write, added in steps(service, memory):
            if name == "upload":
                service.die_at("keep")
                with pytest.raises(Unreachable):
                    write()
                assert service.has_died()
                service.client().health()
                assert list(folder.releases.iterdir()) == []
            survives(service, write, added)
        (kept,) = folder.releases.iterdir()
        (view,) = service.as_("officer").releases()
        assert kept.read_bytes() == (memory / "content.sealed").read_bytes()
        assert (view.state, len(view.grants)) == ("recalled", 1)
        assert view.grants[0].revoked_at is not None
        key = service.trust.log_key
    report = verify_log(folder.path / "compliance.sqlite", key)
    assert report.ok, report
