"""Rounds over the real wire in every form of transport: what travels, and how much of it."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any, cast

import numpy as np
import pytest

from client.arrays import pack_arrays
from client.deflated import deflate
from client.fleet_content import content_with
from client.fleet_tasks import IncomingTask
from client.flower import FleetConnection
from client.learning.plan_model import HISTOGRAM, State
from compliance.statements import Phase, Transport
from server.runs import RunFolder
from server.training import Training
from tests.server.conftest import Service
from tests.server.ground import SITES, Ground, ground
from tests.server.scripted import Script, ScriptedSite

INITIAL: State = {
    "encoder.weight": np.linspace(-1, 1, 10_000, dtype=np.float32).reshape(100, 100),
    "head.bias": np.zeros(3, np.float32),
    "head.weight": np.zeros((3, 100), np.float32),
    HISTOGRAM: np.zeros(3, np.float32),
}
HEAD = ("head.bias", "head.weight")
MOVE = 0.01


@pytest.fixture(scope="module")
def pair(shared_service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with ground(shared_service, tmp_path_factory.mktemp("lean")) as made:
        yield made


def phases() -> tuple[Phase, ...]:
    one = Phase(
        kind="probe",
        rounds=1,
        steps_per_round=1,
        sampling_rate=Decimal(1),
        learning_rate=Decimal(1),
        max_grad_norm=Decimal(1),
        noise_multiplier=Decimal(1),
    )
    return tuple(one.model_copy(update={"kind": kind}) for kind in ("histogram", "probe", "full"))


def moved(state: Any) -> dict[str, Any]:
    """Numbers that int8 has to round, each site the same."""
    return {
        name: np.linspace(-MOVE, MOVE, max(1, array.size), dtype=np.float32).reshape(array.shape)
        for name, array in state.items()
    }


def run(
    field: Ground, name: str, transport: Transport, *, rogue: ScriptedSite | None = None
) -> tuple[Any, list[ScriptedSite], State]:
    plan_id, plan = field.approved(
        name=name, phases=phases(), transport=transport, class_weights="histogram", quorum=1
    )
    sites = [
        ScriptedSite(field.sites[site], plan, Script(update=moved), initial=INITIAL)
        for site in SITES
    ]
    if rogue is not None:
        rogue.plan = plan
        sites[1] = rogue
    training = Training(
        plan_id,
        plan,
        RunFolder.of(field.federation.runs, plan_id),
        dict(INITIAL),
        signer=field.federation.identity,
        wire=field.link,
        sites=field.registrar,
        compliance=field.compliance,
        reporter=field.notes,
        stop=field.stop,
    )
    run_id = field.link.open_run()
    try:
        with sites[0], sites[1]:
            state = training.run(run_id)
    finally:
        field.link.close_run(run_id, completed=False)
    model = field.folder(plan_id).model(state)
    assert model is not None
    return state, sites, model.average


def test_a_phase_sends_what_it_moved_and_gets_what_was_moved(pair: Ground) -> None:
    state, sites, average = run(pair, "lean", Transport())
    assert state.stage == "completed", state.reason
    tasks, answers = (
        {asked: size for asked, size in each.items() if asked[0] == "train"}
        for each in (sites[0].bytes_received, sites[0].bytes_sent)
    )
    counted = {HISTOGRAM: INITIAL[HISTOGRAM]}
    headed = {**counted, **{name: INITIAL[name] for name in HEAD}}
    everything = {name: array for name, array in INITIAL.items() if name != HISTOGRAM}
    heads = {name: INITIAL[name] for name in HEAD}
    assert [tasks["train", number] for number in range(3)] == [
        len(pack_arrays(part)) for part in ({}, counted, headed)
    ]
    assert [answers["train", number] for number in range(3)] == [
        len(pack_arrays(part)) for part in (counted, heads, everything)
    ]
    measured = [sites[0].bytes_received["evaluate", number] for number in range(3)]
    assert measured == [len(pack_arrays(part)) for part in (counted, headed, INITIAL)]
    # The head was moved twice, the encoder once, from where every party had it.
    for name, times in (("head.weight", 2), ("encoder.weight", 1), (HISTOGRAM, 1)):
        wanted = INITIAL[name] + times * moved({name: INITIAL[name]})[name]
        np.testing.assert_allclose(average[name], wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("precision", "compression", "share"),
    [
        ("float16", "none", 0.52),
        ("int8", "none", 0.27),
        ("float32", "deflate", 0.95),
        ("int8", "deflate", 0.27),
    ],
)
def test_a_round_in_every_form_saves_bytes_and_trains_the_same_model(
    pair: Ground, precision: Any, compression: Any, share: float
) -> None:
    transport = Transport(precision=precision, compression=compression)
    state, sites, average = run(pair, f"{precision}-{compression}", transport)
    assert state.stage == "completed", state.reason
    assert all(set(summary.participants) == set(SITES) for summary in state.history)
    whole = len(pack_arrays({n: a for n, a in INITIAL.items() if n != HISTOGRAM}))
    assert sites[0].bytes_sent["train", 2] < share * whole
    if compression == "deflate":
        # The encoder as it is sent to be measured, a float32 for each number.
        assert sites[0].bytes_received["evaluate", 2] < len(pack_arrays(INITIAL))
    wanted = INITIAL["encoder.weight"] + moved(INITIAL)["encoder.weight"]
    np.testing.assert_allclose(average["encoder.weight"], wanted, atol=1.1 * MOVE / 127)


class Rogue(ScriptedSite):
    """Sends a document of its own making, under the honest report."""

    document = b""

    def _answer(self, connection: FleetConnection, task: IncomingTask) -> None:
        if task.kind != "train":
            super()._answer(connection, task)
            return
        self.state(task)
        report = self.report(task, self.travelling(task))
        fields: dict[str, str | int] = {
            "plan_id": task.plan_id,
            "round": task.round,
            "site": self.files.name,
            "statement": str(report["statement"]),
        }
        content = content_with("report", fields, self.document)
        self.taken.append(connection._send(task.message, content))


@pytest.mark.parametrize(
    ("compression", "document", "said"),
    [
        ("none", deflate(pack_arrays(INITIAL)), "the plan says no"),
        ("deflate", pack_arrays(INITIAL), "not compressed"),
        ("deflate", deflate(bytes(50_000_000)), "bytes that the plan needs"),
    ],
    ids=["compressed", "plain", "bomb"],
)
def test_the_plan_says_how_an_answer_travels(
    pair: Ground, compression: Any, document: bytes, said: str
) -> None:
    rogue = Rogue(pair.sites[SITES[1]], cast(Any, None), Script(update=moved), initial=INITIAL)
    rogue.document = document
    name = f"rogue-{compression}-{len(document)}"
    state, _, _ = run(pair, name, Transport(compression=compression), rogue=rogue)
    assert state.stage == "completed", state.reason
    for summary in state.history:
        assert summary.participants == (SITES[0],)
        assert said in summary.absent[SITES[1]]
