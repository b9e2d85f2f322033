"""Several devices, as two processes on the CPU: the sum of one device, and one noise.

Starting processes takes seconds, nearly all of them for imports, so the tests share a trainer; it
starts others where a test ended them.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from audit.errors import MalformedInput
from client.learning.clipped_sums import ClippedSums
from client.learning.device_failures import OutOfMemory
from client.learning.parallel import RankLost, Ranks, check_devices, divide
from client.learning.passes import Settings
from client.learning.plan_model import State
from client.learning.private_sgd import SiteTrainer, Sums
from client.learning.subject_optimizer import SubjectOptimizer
from client.learning.tasks import build_model
from client.learning.tasks.text_classification import TextClassifier
from compliance.statements import TrainingPlan
from tests.client.learning.conftest import MakePlan, people, phase

DEVICES = ("cpu", "cpu")
RECORDS = [1, 3, 2, 4, 1, 4, 2]
SILENT, NOISY, NOBODY = 3, 4, 5
PHASES = (
    phase("histogram", noise_multiplier="1"),
    phase("probe", sampling_rate="0.5", noise_multiplier="1", steps_per_round=3),
    phase("adapter", sampling_rate="0.5", noise_multiplier="1", steps_per_round=3),
    phase("adapter", steps_per_round=4, max_grad_norm="1", learning_rate="5"),
    phase("adapter", noise_multiplier="10000", learning_rate="0.001"),
    phase("adapter", sampling_rate="0.00001", noise_multiplier="1"),
)


@dataclass(frozen=True)
class Runs:
    """The same rounds on one device and on two."""

    trainer: SiteTrainer
    start: State
    alone: list[State]
    together: list[State]


@pytest.fixture(scope="module")
def runs(tiny_base: Path, make_plan: MakePlan) -> Iterator[Runs]:
    plan = make_plan(*PHASES, class_weights="histogram")
    alone, together = (make_trainer(tiny_base, plan, devices) for devices in ((), DEVICES))
    state = alone._model.get_state()
    done = Runs(together, state, [], [])
    try:
        for number in range(len(PHASES)):
            done.alone.append(alone.train_round(number, state).update)
            done.together.append(together.train_round(number, state).update)
            state = {name: state[name] + done.alone[-1][name] for name in state}
        yield done
    finally:
        together.close()


def make_trainer(base: Path, plan: TrainingPlan, devices: tuple[str, ...]) -> SiteTrainer:
    settings = Settings(devices=devices, micro_batch_tokens=64)
    return SiteTrainer(build_model(plan, base), plan, people(RECORDS), seed=5, settings=settings)


def flat(update: State) -> np.ndarray:
    return np.concatenate([array.ravel() for array in update.values()]).astype(np.float64)


def is_close(got: np.ndarray, wanted: np.ndarray) -> bool:
    """To 1e-5 of its length, which is not zero."""
    length = float(np.linalg.norm(wanted))
    return length > 0 and float(np.linalg.norm(got - wanted)) <= 1e-5 * length


def ranks_of(trainer: SiteTrainer) -> Ranks:
    assert trainer._ranks is not None
    return trainer._ranks


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


# --- the same as on one device --------------------------------------------------------------------


@pytest.mark.parametrize("number", range(len(PHASES)))
def test_a_round_is_that_of_one_device(runs: Runs, number: int) -> None:
    """The same subjects are sampled, and the same noise is added to the same sum."""
    assert is_close(flat(runs.together[number]), flat(runs.alone[number]))


def test_the_noise_is_neither_doubled_nor_divided(runs: Runs) -> None:
    noise = np.concatenate(
        [array.ravel() for name, array in runs.together[NOISY].items() if "lora" in name]
    )
    # learning rate, multiplier and norm; divided by the 10 nominal subjects
    deviation = 1e-3 * 1e4 * 0.1 / 10
    # Of 256 numbers the deviation is known to 4.4 %: this is five times as much.
    assert noise.size == 256
    assert noise.std() == pytest.approx(deviation, rel=0.22)


def test_a_step_without_subjects_is_noise(runs: Runs) -> None:
    assert float(np.linalg.norm(flat(runs.together[NOBODY]))) > 0


def test_one_rank_may_have_nothing_to_do(runs: Runs) -> None:
    """Sums of subjects that are all on one rank, on the other, and on both."""
    trainer = runs.trainer
    trainer.train_round(SILENT, runs.start)
    ranks = ranks_of(trainer)
    for rank in (0, 1, None):
        chosen = [
            [int(record) for record in records]
            for records in trainer._records_of
            if rank is None or ranks._places[int(records[0])][0] == rank
        ]
        assert chosen
        ranks.begin("adapter", 0.1)
        got = sums_of(ranks, chosen)
        alone = ClippedSums(trainer._model, "adapter", trainer._passes, Settings())
        try:
            assert is_close(got, sums_of(alone, chosen))
        finally:
            alone.close()


def sums_only(weights: list[torch.nn.Parameter]) -> SubjectOptimizer:
    return SubjectOptimizer(
        torch.optim.SGD(weights, lr=1.0),
        noise_multiplier=1.0,
        max_grad_norm=0.1,
        public_divisor=1.0,
        keystream=None,
    )


def sums_of(source: Sums, chosen: list[list[int]]) -> np.ndarray:
    optimizer = sums_only(source.weights)
    optimizer.zero_grad()
    source.add(chosen, optimizer)
    return np.concatenate([p.summed_grad.flatten().numpy() for p in optimizer.params])


def test_without_a_keystream_there_is_no_step() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="no keystream"):
        sums_only([weight]).step()
    assert weight.tolist() == [1, 1]


@given(st.lists(st.floats(1, 1000), max_size=40), st.integers(1, 5))
def test_each_subject_is_on_one_rank_and_loads_are_even(work: list[float], ranks: int) -> None:
    shares = divide(work, ranks)
    assert len(shares) == ranks
    assert sorted(subject for share in shares for subject in share) == list(range(len(work)))
    loads = [sum(work[subject] for subject in share) for share in shares]
    assert max(loads) - min(loads) <= max(work, default=0) + 1e-6


@pytest.mark.parametrize("devices", [("cpu", "cuda:0"), ("cuda:0", "cuda:0")])
def test_devices_that_cannot_share_a_step_are_refused(devices: tuple[str, ...]) -> None:
    with pytest.raises(MalformedInput, match=r"different kinds|named twice"):
        check_devices(devices)


def test_a_model_of_unknown_origin_is_refused(tiny_base: Path, make_plan: MakePlan) -> None:
    model = TextClassifier.build(make_plan(), tiny_base)
    trainer = SiteTrainer(model, make_plan(), people([1]), settings=Settings(devices=DEVICES))
    with pytest.raises(ValueError, match="build_model"):
        trainer.train_round(0, model.get_state())


# --- when a rank fails ----------------------------------------------------------------------------


def test_a_rank_that_is_killed_ends_the_round_and_the_next_one_starts_others(runs: Runs) -> None:
    trainer, state = runs.trainer, runs.start
    wanted = trainer.train_round(SILENT, state).update
    pids = ranks_of(trainer).pids

    def kill(step: int, _steps: int) -> None:
        if step == 2:
            os.kill(pids[1], signal.SIGKILL)

    with pytest.raises(RankLost, match="SIGKILL"):
        trainer.train_round(SILENT, state, kill)
    assert not any(map(exists, pids))
    assert trainer._ranks is None

    assert is_close(flat(trainer.train_round(SILENT, state).update), flat(wanted))
    others = ranks_of(trainer).pids
    assert all(map(exists, others))
    assert not set(others) & set(pids)


def test_what_fails_here_ends_the_ranks_too(runs: Runs) -> None:
    """Else they would wait for the rest of a step."""
    trainer, state = runs.trainer, runs.start
    trainer.train_round(SILENT, state)
    pids = ranks_of(trainer).pids

    def interrupt(_step: int, _steps: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.train_round(SILENT, state, interrupt)
    assert not any(map(exists, pids))


class TooLong(list[int]):
    """Token ids that say they are so many that no memory holds their mask."""

    def __len__(self) -> int:
        return 2**60


def test_a_record_that_no_device_holds_ends_the_round(runs: Runs) -> None:
    trainer, state = runs.trainer, runs.start
    trainer.close()
    record = trainer._passes.records[0]
    trainer._passes.records[0] = replace(record, content=TooLong(record.content))
    started: list[Any] = []
    try:
        with pytest.raises(OutOfMemory):
            trainer.train_round(SILENT, state, lambda *_: started.append(_))
    finally:
        trainer._passes.records[0] = record
    assert started == []
    assert trainer._ranks is None


MAIN_PROCESS = """
import sys
from multiprocessing import get_context
from multiprocessing.connection import Connection

def child(pipe):
    from client.learning.rank import run
    run(0, 1, 1, pipe, None)

if __name__ == "__main__":
    pipe = Connection(int(sys.argv[1]))
    process = get_context("spawn").Process(target=child, args=(pipe,))
    process.start()
    print(process.pid, flush=True)
    process.join()
"""


def test_a_rank_ends_with_the_main_process(tmp_path: Path) -> None:
    """However that ends, and although nobody closed the pipe that the rank reads from."""
    script = tmp_path / "main_process.py"
    script.write_text(MAIN_PROCESS)
    here, there = Pipe()
    with subprocess.Popen(
        [sys.executable, str(script), str(there.fileno())],
        stdout=subprocess.PIPE,
        pass_fds=[there.fileno()],
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    ) as process:
        assert process.stdout is not None
        rank = os.pidfd_open(int(process.stdout.readline()))
        try:
            process.kill()
            ready, _, _ = select.select([rank], [], [], 120)
            assert ready == [rank]
        finally:
            os.close(rank)
    here.close()
    there.close()
