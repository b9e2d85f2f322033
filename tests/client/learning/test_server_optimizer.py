"""The coordinator's step: as Flower's FedAvgM and FedAdam, resumable to the bit, anew by phase."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.app.message import Array
from flwr.app.metadata import Metadata
from flwr.serverapp.strategy import FedAdam, FedAvgM

from audit.errors import MalformedInput
from client.arrays import arrays_digest, pack_arrays, unpack_arrays
from client.learning.aggregation import Iterate, advance, begin, state_to_send
from client.learning.plan_model import State
from client.learning.server_optimizer import Moments
from compliance.statements import Aggregation, TrainingPlan
from tests.client.learning.conftest import MakePlan, phase

ROUNDS: Final = 6
OPTIMIZERS: Final[dict[str, dict[str, Any]]] = {
    "momentum": {"server": "momentum", "learning_rate": "0.3", "momentum": "0.8"},
    "adam": {"server": "adam", "learning_rate": "0.05", "momentum": "0.9", "adaptivity": "0.01"},
}
START: Final[State] = {
    "a": np.array([[0.5, -1.0], [2.0, 0.0]], np.float32),
    "b": np.array([3.0], np.float32),
}


def updates_of(round_index: int, sites: int = 2) -> list[State]:
    random = np.random.default_rng(round_index)
    return [
        {name: random.normal(size=array.shape).astype(np.float32) for name, array in START.items()}
        for _ in range(sites)
    ]


def run(plan: TrainingPlan, iterate: Iterate | None = None, *, restart: bool = False) -> Iterate:
    iterate = iterate or begin(START)
    while iterate.round < plan.rounds:
        iterate = advance(iterate, plan, updates_of(iterate.round))
        if restart:  # as `server.runs` keeps it
            arrays = unpack_arrays(pack_arrays(iterate.to_arrays()))
            iterate = Iterate.from_arrays(iterate.round, arrays)
    return iterate


def replies(state: Mapping[str, npt.NDArray[Any]], updates: Iterable[State]) -> list[Message]:
    """Flower's sites send whole models."""
    contents = (
        RecordDict(
            {
                "arrays": ArrayRecord({n: _array(state[n] + update[n]) for n in state}),
                "metrics": MetricRecord({"num-examples": 1}),
            }
        )
        for update in updates
    )
    return [
        Message(content=content, metadata=_metadata(number))
        for number, content in enumerate(contents, start=1)
    ]


def _array(numbers: npt.NDArray[Any]) -> Array:
    return Array(np.asarray(numbers, dtype=np.float64))


def _metadata(number: int) -> Metadata:
    return Metadata(
        run_id=1,
        message_id=f"reply-{number}",
        src_node_id=number,
        dst_node_id=0,
        reply_to_message_id=f"task-{number}",
        group_id="",
        created_at=0.0,
        ttl=1.0,
        message_type="train",
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_flower_takes_the_same_steps(name: str, make_plan: MakePlan) -> None:
    settings = Aggregation.model_validate(OPTIMIZERS[name])
    plan = make_plan(phase(rounds=ROUNDS), aggregation=settings)
    if name == "momentum":
        flower: Any = FedAvgM(
            server_learning_rate=float(settings.learning_rate),
            server_momentum=float(settings.momentum),
        )
        flower.current_arrays = ArrayRecord({n: _array(a) for n, a in START.items()})
    else:
        flower = FedAdam(
            eta=float(settings.learning_rate),
            beta_1=float(settings.momentum),
            beta_2=float(settings.second_momentum),
            tau=float(settings.adaptivity),
        )
    iterate, theirs = begin(START), {n: a.astype(np.float64) for n, a in START.items()}
    for number in range(ROUNDS):
        if name == "adam":
            flower.current_arrays = theirs
        # Flower's rounds begin at 1 and its correction is a step ahead: at round 0 it is Adam's.
        answer, _ = flower.aggregate_train(number, replies(theirs, updates_of(number)))
        theirs = {n: array.numpy() for n, array in answer.items()}
        iterate = advance(iterate, plan, updates_of(number))
        for key, array in theirs.items():
            np.testing.assert_allclose(iterate.current[key], array, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_run_equals_an_undisturbed_one_to_the_last_bit(
    name: str, make_plan: MakePlan
) -> None:
    plan = make_plan(phase(rounds=3), phase("adapter", rounds=3), aggregation=OPTIMIZERS[name])
    straight, resumed = run(plan), run(plan, restart=True)
    assert arrays_digest(straight.to_arrays()) == arrays_digest(resumed.to_arrays())
    forgetful = begin(START)
    while forgetful.round < plan.rounds:
        forgetful = advance(forgetful, plan, updates_of(forgetful.round))
        forgetful = Iterate(forgetful.round, forgetful.current, forgetful.average)
    assert arrays_digest(forgetful.current) != arrays_digest(straight.current)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_new_phase_remembers_nothing(name: str, make_plan: MakePlan) -> None:
    plan = make_plan(phase(rounds=3), phase("adapter", rounds=3), aggregation=OPTIMIZERS[name])
    iterate = begin(START)
    for number in range(3):
        iterate = advance(iterate, plan, updates_of(number))
    after = advance(iterate, plan, updates_of(3))
    fresh = advance(Iterate(3, state_to_send(iterate, plan), iterate.average), plan, updates_of(3))
    assert arrays_digest(after.to_arrays()) == arrays_digest(fresh.to_arrays())
    assert (after.moments.phase, after.moments.steps) == (1, 1)


def test_momentum_goes_on_where_updates_stop_and_adam_moves_by_about_its_rate(
    make_plan: MakePlan,
) -> None:
    one, nothing = {"a": np.ones(1, np.float32)}, {"a": np.zeros(1, np.float32)}
    plan = make_plan(phase(rounds=9), aggregation=OPTIMIZERS["momentum"])
    iterate = advance(begin(nothing), plan, [one])
    assert iterate.current["a"].tolist() == pytest.approx([0.3])
    iterate = advance(iterate, plan, [nothing])
    assert iterate.current["a"].tolist() == pytest.approx([0.3 + 0.3 * 0.8])
    plan = make_plan(phase(rounds=9), aggregation=OPTIMIZERS["adam"])
    for size in (1.0, 1000.0):
        iterate = advance(begin(nothing), plan, [{"a": np.full(1, size, np.float32)}])
        assert iterate.current["a"].tolist() == pytest.approx([0.05], rel=0.1)


@pytest.mark.parametrize("settings", [{}, *OPTIMIZERS.values()])
def test_what_nobody_moves_stays_the_same_to_the_last_bit(
    settings: dict[str, Any], make_plan: MakePlan
) -> None:
    plan = make_plan(phase(rounds=3), aggregation=settings)
    iterate = begin(START)
    for number in range(3):
        update = {**updates_of(number)[0], "b": np.zeros(1, np.float32)}
        iterate = advance(iterate, plan, [update])
    assert iterate.current["b"].tobytes() == START["b"].tobytes()
    assert iterate.average["b"].tobytes() == START["b"].tobytes()


@pytest.mark.parametrize("settings", OPTIMIZERS.values())
def test_a_histogram_is_counted_whatever_the_optimizer(
    settings: dict[str, Any], make_plan: MakePlan
) -> None:
    plan = make_plan(
        phase("histogram"), phase(rounds=2), class_weights="histogram", aggregation=settings
    )
    counted = {"label_histogram": np.array([0.5, 0.25], np.float32)}
    zero = {"label_histogram": np.zeros(2, np.float32)}
    iterate = advance(begin(zero), plan, [counted])
    assert iterate.current["label_histogram"].tolist() == [0.5, 0.25]
    assert not iterate.moments.steps


def test_an_average_at_another_rate_is_that_much_shorter(make_plan: MakePlan) -> None:
    plan = make_plan(phase(), aggregation={"learning_rate": Decimal("0.5")})
    iterate = advance(begin(START), plan, [{n: np.ones_like(a) for n, a in START.items()}])
    assert iterate.current["b"].tolist() == [3.5]


def test_plans_as_before_give_the_same_bytes_as_before(make_plan: MakePlan) -> None:
    """The digest is that of the version before rules and optimisers."""
    plan = make_plan(phase(rounds=3), phase("adapter", rounds=4), format="fiduciary.plan/2")
    random = np.random.default_rng(7)
    iterate = begin(
        {
            "a": random.normal(size=(3, 5)).astype(np.float32),
            "b": random.normal(size=4).astype(np.float32),
        }
    )
    for number in range(plan.rounds):
        updates = [
            {
                name: (random.normal(size=array.shape) * 10.0 ** (number - 4)).astype(np.float32)
                for name, array in iterate.current.items()
            }
            for _ in range(3)
        ]
        iterate = advance(iterate, plan, updates)
    digest = "5ea0cd2664e070420183bc680391bd4f3c544b4325648e8c1f4a41b4535da02f"
    assert arrays_digest(iterate.to_arrays()) == f"sha256:{digest}"
    assert set(iterate.to_arrays()) == {
        f"{part}/{n}" for part in ("current", "average") for n in "ab"
    }


def test_a_checkpoint_of_a_version_without_optimizers_loads(make_plan: MakePlan) -> None:
    old = {
        f"{part}/{name}": array for part in ("current", "average") for name, array in START.items()
    }
    iterate = Iterate.from_arrays(1, old)
    assert iterate.moments == Moments()
    plan = make_plan(phase(rounds=3), aggregation=OPTIMIZERS["adam"])
    assert advance(iterate, plan, updates_of(1)).moments.steps == 1


@pytest.mark.parametrize(
    "change",
    [
        {"server/clock": None},
        {"server/clock": np.array([0], np.float32)},
        {"server/clock": np.array([0, 0], np.float32)},
        {"server/clock": np.array([0, np.nan], np.float32)},
        {"server/first/a": None},
        {"server/first/a": np.zeros(3, np.float32)},
        {"server/second/b": np.array([-1], np.float32)},
        {"server/second/b": np.array([np.inf], np.float32)},
        {"server/third/b": np.array([0], np.float32)},
        {"server/first/c": np.array([0], np.float32)},
        {"server/first/a": None, "server/first/b": None},
    ],
)
def test_a_broken_optimizer_s_state_is_refused(change: dict[str, Any], make_plan: MakePlan) -> None:
    plan = make_plan(phase(rounds=2), aggregation=OPTIMIZERS["adam"])
    arrays = advance(begin(START), plan, updates_of(0)).to_arrays()
    Iterate.from_arrays(1, arrays)
    changed = {name: array for name, array in {**arrays, **change}.items() if array is not None}
    with pytest.raises(MalformedInput, match="malformed checkpoint: the optimiser's state"):
        Iterate.from_arrays(1, changed)
