"""The process of one of several devices (`client.learning.parallel`).

It knows a model, its own subjects' records and what to clip to. It has no keystream, so it cannot
make noise, and no way to hand out a sum but to the main process.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from client.learning.clipped_sums import ClippedSums
from client.learning.device_failures import (
    DeviceLost,
    OutOfMemory,
    device_failures_named,
    is_out_of_memory,
)
from client.learning.passes import Passes, Settings
from client.learning.plan_model import EncodedRecord, State
from client.learning.subject_optimizer import SubjectOptimizer
from client.learning.tasks import build_model
from compliance.statements import TrainingPlan

LOOPBACK: Final = "127.0.0.1"

PEER_LOST: Final = 64
"""Exit status of a rank that cannot go on because another one is gone."""

LONGEST_STEP: Final = timedelta(hours=6)
"""So long one rank waits for others in a step. That one ended is noticed at once all the same: this
bounds how long a device may hang."""


@dataclass(frozen=True)
class Job:
    """What a rank is told once.

    Attributes:
        plan: What the model is built from.
        base_path: Folder of the base model.
        seed: As in `build_model`.
        records: Of the rank's subjects.
        settings: Of the rank's one device.
        threads: How many of the CPU's it may use.
    """

    plan: TrainingPlan
    base_path: Path
    seed: int | None
    records: list[EncodedRecord]
    settings: Settings
    threads: int


@dataclass(frozen=True)
class Round:
    """Begin a round: the kind of its phase, the clipping norm, the state it starts from."""

    kind: str
    max_grad_norm: float
    state: State


@dataclass(frozen=True)
class Step:
    """Sum the clipped gradients of subjects, given by their records' places in `Job.records`."""

    chosen: list[list[int]]


Command = Job | Round | Step


@dataclass(frozen=True)
class Done:
    """What was told is done. The rest is for the operator alone (`client.learning.observations`).

    Attributes:
        unusable_subjects: Of a step, how many of the rank's subjects counted as zero.
        shrunken_limit: As `ClippedSums.shrunken_limit`.
    """

    unusable_subjects: int = 0
    shrunken_limit: int | None = None


Reply = Done | str
"""What was done, or the name of what went wrong, which is the end of the rank."""

Shared = tuple[Tensor, Tensor]
"""New weights and sums, float32: memory of the main process."""


class _PeerLost(Exception):
    """Another rank is gone; the main process will say which."""


def run(rank: int, ranks: int, port: int, pipe: Connection, shared: Shared | None) -> None:
    """Do what the main process says until it ends.

    Each command is answered with a `Reply`.

    Args:
        rank: From 0.
        ranks: How many there are.
        port: Where they meet.
        pipe: To the main process, which sends `Job` first.
        shared: For rank 0.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process gets it too, and decides
    threading.Thread(target=_end_with_the_main_process, daemon=True).start()
    try:
        with device_failures_named():
            _serve(rank, ranks, port, pipe, shared)
    except EOFError:
        status = 0
    except _PeerLost:
        status = PEER_LOST
    except OutOfMemory as error:
        _reply(pipe, error.code)
        status = 1
    except DeviceLost as error:
        _reply(pipe, type(error.__cause__).__name__)
        status = 1
    except BaseException as error:
        _reply(pipe, type(error).__name__)
        raise  # which writes a traceback
    os._exit(status)  # process groups and devices may wait for others when they are taken down


def _serve(rank: int, ranks: int, port: int, pipe: Connection, shared: Shared | None) -> None:
    job = _received(pipe)
    if not isinstance(job, Job):
        raise TypeError("expected a job first")
    torch.set_num_threads(job.threads)
    model = build_model(job.plan, job.base_path, job.seed)
    device = job.settings.first_device
    if device.type != "cpu":
        torch.accelerator.set_device_index(device)
    model.to(device)
    passes = Passes(model, (), job.settings, job.records)
    _meet(rank, ranks, port, device)
    _reply(pipe, Done())
    sums: ClippedSums | None = None
    while True:
        command = _received(pipe)
        if isinstance(command, Round):
            if sums is not None:
                sums.close()
            model.set_state(command.state)
            sums = ClippedSums(model, command.kind, passes, job.settings)
            optimizer = SubjectOptimizer(
                torch.optim.SGD(sums.weights, lr=0.0),
                noise_multiplier=1.0,
                max_grad_norm=command.max_grad_norm,
                public_divisor=1.0,
                keystream=None,
            )
            count = sum(weight.numel() for weight in sums.weights)
            new_weights = torch.zeros(count, device=device)
            total = torch.zeros(count, device=device)
            _reply(pipe, Done())
        elif isinstance(command, Step) and sums is not None:
            if shared is not None:
                new_weights.copy_(shared[0][:count])
            with _together():
                dist.broadcast(new_weights, src=0)
            with torch.no_grad():
                for weight, new in zip(sums.weights, views(new_weights, sums.weights), strict=True):
                    weight.copy_(new)
            optimizer.zero_grad()
            optimizer.take_sums(views(total.zero_(), sums.weights))
            unusable = optimizer.unusable_subjects
            sums.add(command.chosen, optimizer)
            unusable = optimizer.unusable_subjects - unusable
            with _together():
                dist.reduce(total, dst=0)
                if shared is not None:
                    shared[1][:count].copy_(total)
            _reply(pipe, Done(unusable, sums.shrunken_limit))
        else:
            raise TypeError(f"did not expect {type(command).__name__}")


def views(buffer: Tensor, weights: Sequence[nn.Parameter]) -> list[Tensor]:
    """The parts of a flat buffer that belong to each weight, in their shapes."""
    sizes = [weight.numel() for weight in weights]
    parts = torch.split(buffer[: sum(sizes)], sizes)
    return [part.view(weight.shape) for part, weight in zip(parts, weights, strict=True)]


def _received(pipe: Connection) -> Command:
    command: Command = pickle.loads(pipe.recv_bytes())  # noqa: S301  from our own main process
    return command


def _reply(pipe: Connection, reply: Reply) -> None:
    pipe.send_bytes(pickle.dumps(reply))


def _meet(rank: int, ranks: int, port: int, device: torch.device) -> None:
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = loopback
    with _together():
        store = TCPStore(LOOPBACK, port, is_master=False)
        dist.init_process_group(
            dist.get_default_backend_for_device(device),
            store=store,
            rank=rank,
            world_size=ranks,
            timeout=LONGEST_STEP,
            device_id=None if device.type == "cpu" else device,
        )


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """What all ranks do at once, and none can do when one is gone."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise _PeerLost from error


def _end_with_the_main_process() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
    os._exit(1)
