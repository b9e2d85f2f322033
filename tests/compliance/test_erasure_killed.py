"""The service is killed at every step from an erasure to its models: each is there whole, or not.

Between a receipt and its cases, and between a decision, the recall, its notices and what subjects
are told, there is no moment to die at: each is one commit.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from audit.verifier import verify_log
from compliance import session
from compliance.service.folder import NewService, create_folder
from tests.compliance.erasing import ATTACK, MEASURED, Ground
from tests.compliance.federation import Coordinator
from tests.compliance.killable import killable, now
from tests.compliance.running import RunningService
from tests.compliance.test_release_killed import survives

FOUND = {"subject.erased": 1, "erasure.opened": 2, "erasure.told": 1}


def test_it_is_killed_at_every_step(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The client would repeat by itself; a caller that is killed, too, starts anew with another key.
    monkeypatch.setattr(session, "ANSWER_ATTEMPTS", 1)
    folder = create_folder(
        memory / "compliance", NewService("127.0.0.1", 1, "127.0.0.1", "x/log"), now
    )
    with killable(folder) as service:
        running = cast(RunningService, service)  # what the other parties use of it is there
        coordinator = Coordinator(running)
        coordinator.register()
        ground = Ground(running, coordinator, coordinator.welcome("north"), memory)
        plan = ground.plan()
        first, second = ground.release(plan), ground.release(plan)
        ground.grant(first)
        north, erasures = ground.north.client(running), ground.officer.erasures
        statement = ground.north.erasure(plans=[plan])
        survives(service, lambda: north.report_erasure(statement), FOUND)
        again = ground.plan()
        case = ground.case(first).case_id
        survives(
            service,
            lambda: erasures.decide(case, "retrain", reason="left", retraining_plan=again),
            {"erasure.decided": 1, "notice.issued": 1, "erasure.told": 1},
        )
        retrained = ground.release(again).release_id
        recalled = {"release.recalled": 1, "notice.issued": 1, "erasure.told": 1}
        survives(
            service,
            lambda: erasures.conclude(case, retrained),
            {"erasure.concluded": 1, **recalled},
        )
        other = ground.case(second).case_id
        survives(
            service,
            lambda: erasures.decide(other, "rely", reason="left", evidence=(MEASURED, ATTACK)),
            {"erasure.decided": 1, "erasure.told": 1},
        )
        late = ground.north.erasure("ef" * 32, plans=[plan])
        survives(
            service,
            lambda: north.report_erasure(late),
            {"subject.erased": 1, "erasure.opened": 1, "erasure.told": 1},
        )
        last = ground.case(second).case_id
        survives(
            service,
            lambda: erasures.decide(last, "withdraw", reason="left"),
            {"erasure.decided": 1, "release.recalled": 1, "erasure.told": 2},
        )
        key = service.trust.log_key
    report = verify_log(folder.path / "compliance.sqlite", key)
    assert report.ok, report
