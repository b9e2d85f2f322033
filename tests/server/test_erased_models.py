"""The coordinator removes kept models that hold erased subjects, and only what is recorded."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from audit.errors import Conflict, NotFound, Unreachable
from audit.keyring import Keyring
from audit.keys import SigningKey
from audit.statement import SignedStatement, verify_statement
from client.arrays import arrays_digest
from compliance.resources import Recorded
from compliance.rules.kept_models import KeptModels
from compliance.statements import KeptModelRemoval
from server.checkpoints import Checkpoints
from server.coordinator import Coordinator
from server.erased_models import remove_erased
from tests.server.conftest import plan_of
from tests.server.ground import Notes

HELD, CLEAN, UNKNOWN = (f"sha256:{digit * 64}" for digit in "abc")
NOW = datetime(2026, 11, 2, 9, tzinfo=UTC)
MODEL = {"head.weight": np.arange(6, dtype=np.float32)}
KEY = SigningKey.generate("hospitals/coordinator")


class FakeService:
    """Knows of two plans, records removals, and can fail instead."""

    def __init__(self) -> None:
        self.known = {
            HELD: KeptModels(plan_id=HELD, holds_from=1, undecided=False, needed=(3,)),
            CLEAN: KeptModels(plan_id=CLEAN, holds_from=None, undecided=False, needed=()),
        }
        self.recorded: list[tuple[str, KeptModelRemoval]] = []
        self.fail: Exception | None = None

    def kept_models(self, plan_id: str) -> KeptModels:
        if plan_id not in self.known:
            raise NotFound("there is no such plan")
        return self.known[plan_id]

    def report_removal(self, plan_id: str, removal: SignedStatement) -> Recorded:
        if self.fail is not None:
            raise self.fail
        body = verify_statement(removal, KEY.public)
        self.recorded.append((plan_id, KeptModelRemoval.from_body(body)))
        return Recorded(position=len(self.recorded))


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    made = Checkpoints(tmp_path / "checkpoints")
    for plan_id, name in ((HELD, "held"), (CLEAN, "clean"), (UNKNOWN, "unknown")):
        for rounds in (1, 2, 3) if plan_id == HELD else (2,):
            made.keep(plan_id, plan_of(name=name), rounds, MODEL, NOW)
    return made


def there(checkpoints: Checkpoints) -> list[tuple[str, int]]:
    return [(each.plan_name, each.rounds) for each in checkpoints.kept(NOW)]


def test_what_holds_them_and_is_not_needed_goes_once_it_is_recorded(
    checkpoints: Checkpoints, tmp_path: Path
) -> None:
    service = FakeService()
    assert remove_erased(checkpoints, service, KEY, NOW) == 1
    ((plan_id, removal),) = service.recorded
    assert plan_id == removal.plan_id == HELD
    assert [(each.rounds, each.model) for each in removal.models] == [(2, arrays_digest(MODEL))]
    assert there(checkpoints) == [("clean", 2), ("held", 1), ("held", 3), ("unknown", 2)]
    with Keyring.open(tmp_path / "checkpoints/keyring") as keyring:
        assert len(list(keyring.names())) == 4, "the key of what went is destroyed"
    assert remove_erased(checkpoints, service, KEY, NOW) == 0
    assert len(service.recorded) == 1


@pytest.mark.parametrize("failure", [Unreachable("away"), Conflict("models stay")])
def test_without_an_entry_nothing_is_removed(checkpoints: Checkpoints, failure: Exception) -> None:
    service, before = FakeService(), there(checkpoints)
    service.fail = failure
    with pytest.raises(type(failure)):
        remove_erased(checkpoints, service, KEY, NOW)
    assert there(checkpoints) == before
    checkpoints.open(HELD, 2, arrays_digest(MODEL), NOW)


def test_nothing_goes_before_it_is_decided(checkpoints: Checkpoints) -> None:
    service = FakeService()
    service.known[HELD] = service.known[HELD].model_copy(update={"undecided": True})
    assert remove_erased(checkpoints, service, KEY, NOW) == 0
    assert service.recorded == []


class Compliance:
    """What a coordinator without plans asks; it stops the coordinator at its second look."""

    def __init__(self, erasures: FakeService, stop: threading.Event) -> None:
        self.erasures = erasures
        self._stop = stop
        self.looks = 0

    def plans(self, state: str) -> tuple[()]:
        self.looks += 1
        if self.looks == 2:
            self._stop.set()
        return ()


def work(checkpoints: Checkpoints, service: FakeService, tmp_path: Path) -> Coordinator:
    """A coordinator that worked until its service was asked for plans twice."""
    stop = threading.Event()
    compliance = Compliance(service, stop)
    federation = SimpleNamespace(
        settings=SimpleNamespace(poll_seconds=0.0, kept_checkpoints=9),
        checkpoints=checkpoints,
        identity=KEY,
        runs=tmp_path / "runs",
        compliance=lambda: nullcontext(compliance),
    )
    link = SimpleNamespace(online=tuple, registered=tuple)
    registrar = SimpleNamespace(trouble=())
    coordinator = Coordinator(
        cast(Any, federation), cast(Any, link), cast(Any, registrar), Notes(), stop
    )
    coordinator.run()
    return coordinator


def test_a_removal_is_tried_again_as_soon_as_the_service_is_there(
    checkpoints: Checkpoints, tmp_path: Path
) -> None:
    class AwayOnce(FakeService):
        def kept_models(self, plan_id: str) -> KeptModels:
            self.fail, failed = None, self.fail
            if failed is not None:
                raise failed
            return super().kept_models(plan_id)

    service = AwayOnce()
    service.fail = Unreachable("away")
    coordinator = work(checkpoints, service, tmp_path)
    assert [plan_id for plan_id, _ in service.recorded] == [HELD]
    assert ("held", 2) not in there(checkpoints)
    assert coordinator.status()["compliance"] == "reachable"


def test_a_removal_that_is_refused_is_told_and_stands_in_nobodys_way(
    checkpoints: Checkpoints, tmp_path: Path
) -> None:
    class Refusing(FakeService):
        asked = 0

        def report_removal(self, plan_id: str, removal: SignedStatement) -> Recorded:
            self.asked += 1
            raise Conflict("models stay")

    service, before = Refusing(), there(checkpoints)
    coordinator = work(checkpoints, service, tmp_path)
    assert service.asked == 1, "each refusal is an entry of the log"
    assert coordinator.status()["errors"] == ["kept models were not looked through: models stay"]
    assert there(checkpoints) == before
