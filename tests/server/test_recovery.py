"""A coordinator that is killed at any write, over real TLS with a real compliance service.

The sites keep their answers as real ones do: the same question gets the same answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from audit.durable import write_durably
from audit.statement import SignedStatement
from client.arrays import Arrays
from client.learning.base_model import base_model_digest, resolve_base_model
from client.learning.task_recipes import LINEAR_MODEL
from client.learning.tasks import build_model
from compliance.api import ComplianceClient
from compliance.statements import BaseModelReference, Feature
from server import gathering, releases, runs
from server.coordinator import Coordinator
from server.recording import Recording
from server.rounds import exchange
from tests.server.conftest import Service
from tests.server.ground import Ground, ground
from tests.server.scripted import counting, kept
from tests.server.test_training import rounds_of, run, simple_phase


@pytest.fixture(scope="module")
def field(shared_service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with ground(shared_service, tmp_path_factory.mktemp("recovery")) as made:
        yield made


# --- rounds ---------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here, as by kill -9: nothing after it runs."""


class Writes:
    """Counts the durable steps of a run, and kills it at one of them, before or after it is done.

    Steps: each file that `server.runs` writes and each statement that the compliance service takes.
    """

    def __init__(self, patch: pytest.MonkeyPatch, at: int, *, done: bool) -> None:
        self.seen = 0
        self._at, self._done = at, done
        patch.setattr(runs, "write_durably", self.around(write_durably))
        patch.setattr(Recording, "until_answered", self.around(Recording.until_answered))

    def around(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def faulty(*arguments: Any, **options: Any) -> Any:
            self.seen += 1
            if self.seen == self._at and not self._done:
                raise Killed
            result = step(*arguments, **options)
            if self.seen == self._at:
                raise Killed
            return result

        return faulty


STEPS_OF_TWO_ROUNDS = 15
"""The state at first; of each round the checkpoint, the state with it, the state with the report,
the recording and the state that counts it; then the state's end, the outcome, its recording, and
that it was recorded: 1 + 2 * 5 + 4. `undisturbed` holds it."""


@pytest.fixture(scope="module")
def undisturbed(field: Ground) -> Arrays:
    """The model of two rounds that nothing disturbed."""
    plan_id, plan = field.approved(name="undisturbed", phases=(simple_phase(2),))
    with (
        field.site("st-elm", plan, counting([])),
        field.site("lakeside", plan, counting([])),
        pytest.MonkeyPatch.context() as patch,
    ):
        writes = Writes(patch, 0, done=False)
        state = run(field, field.training(plan_id, plan))
        assert writes.seen == STEPS_OF_TWO_ROUNDS
    model = field.folder(plan_id).model(state)
    assert model is not None
    return model.to_arrays()


@pytest.mark.parametrize("done", [False, True], ids=["not-done", "done"])
@pytest.mark.parametrize("at", range(1, STEPS_OF_TWO_ROUNDS + 1))
def test_a_kill_at_any_write_loses_nothing_and_counts_nothing_twice(
    field: Ground, undisturbed: Arrays, at: int, done: bool
) -> None:
    plan_id, plan = field.approved(name=f"killed-{at}-{done}".lower(), phases=(simple_phase(2),))
    elm, lake = counting([]), counting([])
    with (
        field.site("st-elm", plan, kept(elm, {})) as first,
        field.site("lakeside", plan, kept(lake, {})),
    ):
        with pytest.MonkeyPatch.context() as patch:
            Writes(patch, at, done=done)
            with pytest.raises(Killed):
                run(field, field.training(plan_id, plan))
        state = run(field, field.training(plan_id, plan))
    assert (state.stage, state.rounds_done, state.outcome_recorded) == ("completed", 2, True)
    assert [report.round for report in rounds_of(field, plan_id)] == [0, 1]
    model = field.folder(plan_id).model(state)
    assert model is not None
    for name, array in model.to_arrays().items():
        np.testing.assert_array_equal(array, undisturbed[name])
    assert len([kind for kind, _ in first.seen if kind == "train"]) <= 3, "one round again at most"
    assert len(list(field.folder(plan_id).path.glob("checkpoint-*"))) == 1
    outcome = field.compliance.plan(plan_id).outcome
    assert outcome is not None
    assert outcome.digest == SignedStatement.from_json(state.outcome or {}).digest


@pytest.mark.parametrize("moment", ["before", "some-answered"])
def test_a_kill_while_sites_are_asked(
    field: Ground, undisturbed: Arrays, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    plan_id, plan = field.approved(name=f"killed-{moment}", phases=(simple_phase(2),))
    elm, lake = counting([]), counting([])

    def killed(*arguments: Any, **options: Any) -> Any:
        if moment == "before":
            raise Killed

        def watch(accepted: Any, absent: Any, waiting: Any) -> None:
            if accepted:
                raise Killed

        return exchange(*arguments, **{**options, "watch": watch})

    with (
        field.site("st-elm", plan, kept(elm, {})),
        field.site("lakeside", plan, kept(lake, {})),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(gathering, "exchange", killed)
            with pytest.raises(Killed):
                run(field, field.training(plan_id, plan))
        state = run(field, field.training(plan_id, plan))
    assert state.stage == "completed"
    assert [report.round for report in rounds_of(field, plan_id)] == [0, 1]
    model = field.folder(plan_id).model(state)
    assert model is not None
    np.testing.assert_array_equal(model.current["head.bias"], undisturbed["current/head.bias"])


def test_a_state_of_the_first_format_goes_on(field: Ground) -> None:
    plan_id, plan = field.approved(name="first-format", phases=(simple_phase(2),))
    with field.site("st-elm", plan), field.site("lakeside", plan):
        with pytest.MonkeyPatch.context() as patch:
            Writes(patch, 7, done=False)
            with pytest.raises(Killed):
                run(field, field.training(plan_id, plan))
        path = field.folder(plan_id).path / "state.json"
        text = path.read_text()
        assert '"format": "fiduciary.run/2"' in text
        path.write_text(
            text.replace("fiduciary.run/2", "fiduciary.run/1").replace('"aggregated": null,', "")
        )
        state = run(field, field.training(plan_id, plan))
    assert (state.stage, state.rounds_done, state.format) == ("completed", 2, "fiduciary.run/2")


# --- a release ------------------------------------------------------------------------------------


STEPS_OF_A_RELEASE = 5
"""Manifest, sealed key, announcement, upload, and the state that names the release."""


@pytest.mark.parametrize("done", [False, True], ids=["not-done", "done"])
@pytest.mark.parametrize("at", range(1, STEPS_OF_A_RELEASE + 1))
def test_a_kill_during_a_release_makes_one_release(
    field: Ground, at: int, done: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = BaseModelReference(
        name=LINEAR_MODEL, digest=base_model_digest(resolve_base_model(LINEAR_MODEL))
    )
    plan_id, plan = field.approved(
        name=f"release-{at}-{done}".lower(),
        base_model=reference,
        task="tabular-classification",
        labels=("healthy", "ill"),
        features=(Feature(name="age", kind="number", low=Decimal(0), high=Decimal(120)),),
        phases=(simple_phase(1).model_copy(update={"kind": "full"}),),
    )
    model = build_model(plan, resolve_base_model(LINEAR_MODEL))
    coordinator = Coordinator(
        field.federation, field.link, field.registrar, field.notes, threading.Event()
    )
    make = coordinator._training(field.compliance, plan_id, plan, field.folder(plan_id))
    initial = model.get_state()
    elm = field.site("st-elm", plan, initial=initial)
    with elm, field.site("lakeside", plan, initial=initial):
        state = run(field, make(model))
    assert state.stage == "completed"
    monkeypatch.setattr("server.coordinator.REPORTS_SECONDS", 0)  # scripted sites report nothing
    with pytest.MonkeyPatch.context() as patch:
        writes = Writes(patch, at, done=done)
        patch.setattr(releases, "write_durably", writes.around(write_durably))
        for name in ("submit_release", "upload_release"):
            patch.setattr(ComplianceClient, name, writes.around(getattr(ComplianceClient, name)))
        with pytest.raises(Killed):
            coordinator._wind_up(field.compliance, field.folder(plan_id), state)
    state = field.folder(plan_id).load()
    assert state is not None
    if state.release_id is None:
        coordinator._wind_up(field.compliance, field.folder(plan_id), state)
    made = [view for view in field.compliance.releases() if view.plan_id == plan_id]
    assert [view.state for view in made] == ["candidate"]
    state = field.folder(plan_id).load()
    assert state is not None
    assert state.release_id == made[0].release_id
