"""Several devices for one site: each sums the clipped gradients of its own subjects.

Every device has a process, a *rank*, that is kept between rounds. The main process samples, adds
the noise and takes the step, as with one device; ranks give it sums.

    main: sample ──▶ ranks: forward, backward, clip ──▶ reduce ──▶ main: noise, once; step
      ▲                                                                             │
      └────────────────────────── weights, broadcast ◀──────────────────────────────┘

* **Subjects are divided once**, by how much they have to compute: a subject with all its records is
  on exactly one rank, so it is clipped once, and what a frozen layer makes of its records is
  computed and kept there alone. A step's share of a rank may be empty.
* **The sum is that of one device** up to the rounding of float32, in which it is made and reduced:
  sensitivity and noise do not know how many devices there are. Sampling and noise come of the main
  process's keystream in the same order; under one seed the updates agree.
* **Noise is added once**, to the whole sum, on its grid (`client.learning.noise`). Ranks have no
  key, no noise and no plan, and cannot step.
* **Ranks get** the model, their own subjects' encoded records through a pipe, and weights through
  anonymous shared memory; they talk to each other over the loopback interface. Nothing is a file.
* **A rank that fails** (killed, out of memory, its device lost) ends the round: no update is made,
  all ranks are killed, and the next round starts others. They also end with the main process,
  however that ends.

Of torch we take process groups with `reduce` and `broadcast` (NCCL on GPUs, gloo on CPUs) and its
shared memory; not `DistributedDataParallel`, whose hooks average the gradients that autograd makes,
which are not clipped. Opacus' `DifferentiallyPrivateDistributedDataParallel` therefore does nothing
but broadcast the weights at the start. Its `DistributedDPOptimizer` adds noise on rank 0 *before*
the reduction: the sum would leave the grid of the noise, and a rank would have the key.
"""

from __future__ import annotations

import contextlib
import heapq
import pickle
import signal
import socket
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import ClassVar, Final, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from audit.errors import FiduciaryError, MalformedInput
from client.learning.child_processes import starting_processes
from client.learning.clipped_sums import ENGINES
from client.learning.device_failures import OutOfMemory
from client.learning.passes import Passes, Settings
from client.learning.plan_model import EncodedRecord, PlanModel
from client.learning.rank import (
    LOOPBACK,
    PEER_LOST,
    Command,
    Done,
    Job,
    Reply,
    Round,
    Step,
    run,
    views,
)
from client.learning.subject_optimizer import SubjectOptimizer

_SETTLE_SECONDS: Final = 5.0
"""How long ranks have to end of themselves after one did, so that the first cause can be told."""


class RankLost(FiduciaryError):
    """The process of one of several devices failed."""

    code: ClassVar[str] = "rank-lost"

    def __init__(self, device: str, reason: str) -> None:
        super().__init__(
            f"the process of device {device} ended ({reason}); no update was made",
            fix="if the system killed it for want of memory, free some or name fewer devices;"
            " see that the device is there (`nvidia-smi`); the next round starts it anew",
        )


class Ranks:
    """The processes of several devices.

    Args:
        model: Of the main process, made by `build_model`: its weights are what trains.
        passes: All records of the site.
        records_of: Of each subject, its records.
        settings: Name the devices, at least two.

    Raises:
        MalformedInput: When the devices are of different kinds, or one GPU is named twice.
        ValueError: When nobody knows how the model was built.
        RankLost: When a rank does not start.
        OutOfMemory: When a device has no memory for the model.
    """

    def __init__(
        self,
        model: PlanModel,
        passes: Passes,
        records_of: Sequence[npt.NDArray[np.int64]],
        settings: Settings,
    ) -> None:
        check_devices(settings.devices)
        self._model = model
        self._settings = settings
        largest = _largest_phase(model)
        self._new_weights = _shared(largest)
        self._sums = _shared(largest)
        self._weights: list[nn.Parameter] = []
        self._shrunken_limit: int | None = None
        self._pipes: list[Connection] = []
        self._processes: list[SpawnProcess] = []
        self._end = weakref.finalize(self, _kill, self._processes)
        shares = divide(
            [_work(model, passes, records) for records in records_of], len(settings.devices)
        )
        self._places: dict[int, tuple[int, int]] = {}
        jobs = []
        for rank, subjects in enumerate(shares):
            own = [int(record) for subject in subjects for record in records_of[subject]]
            self._places.update({record: (rank, place) for place, record in enumerate(own)})
            jobs.append(self._job(rank, [passes.records[record] for record in own]))
        with self._ending():
            self._start(jobs)

    @property
    def weights(self) -> list[nn.Parameter]:
        """What trains, of the main process's model."""
        return self._weights

    @property
    def pids(self) -> list[int]:
        """Of the processes that there are, in the order of the devices."""
        return [process.pid for process in self._processes if process.pid is not None]

    def begin(self, kind: str, max_grad_norm: float) -> None:
        """Start a round from the present state of the model.

        Args:
            kind: Of the phase.
            max_grad_norm: The norm to which subjects are clipped.

        Raises:
            NotImplementedError: When what trains cannot be clipped.
            MalformedInput: As `PlanModel.set_trainable` does.
            RankLost, OutOfMemory: When a rank fails.
        """
        engine = ENGINES[self._settings.engine](self._model.set_trainable(kind))
        self._weights = engine.weights
        engine.close()
        state = self._model.get_state()
        self._shrunken_limit = None
        self._tell([Round(kind, max_grad_norm, state)] * len(self._processes))

    def add(self, chosen: Sequence[Sequence[int]], optimizer: SubjectOptimizer) -> None:
        """Let subjects' clipped gradients under the present weights be the optimiser's sum.

        Args:
            chosen: The records that the step uses of each subject, at least one.
            optimizer: Of `weights`; it has nothing in its sum yet.

        Raises:
            RankLost, OutOfMemory: When a rank fails.
        """
        shares: list[list[list[int]]] = [[] for _ in self._processes]
        for records in chosen:
            places = [self._places[record] for record in records]
            shares[places[0][0]].append([place for _, place in places])
        with torch.no_grad():
            parts = views(self._new_weights, self._weights)
            for part, weight in zip(parts, self._weights, strict=True):
                part.copy_(weight)
        done = self._tell([Step(share) for share in shares])
        optimizer.take_sums(views(self._sums, self._weights))
        optimizer.unusable_subjects += sum(each.unusable_subjects for each in done)
        limits = [each.shrunken_limit for each in done if each.shrunken_limit is not None]
        self._shrunken_limit = min(limits, default=None)

    @property
    def shrunken_limit(self) -> int | None:
        """As `ClippedSums.shrunken_limit`, of the rank that had to shrink most."""
        return self._shrunken_limit

    def close(self) -> None:
        """End the processes, and with them what they hold."""
        self._end()
        for pipe in self._pipes:
            pipe.close()
        self._pipes.clear()

    def _job(self, rank: int, records: list[EncodedRecord]) -> Job:
        model, settings = self._model, self._settings
        if model.built_from is None:
            raise ValueError("ranks build the model for themselves: make it with `build_model`")
        base_path, seed = model.built_from
        count = len(settings.devices)
        return Job(
            plan=model.plan,
            base_path=base_path,
            seed=seed,
            records=records,
            settings=replace(
                settings,
                device=settings.devices[rank],
                devices=(),
                cache_bytes=settings.cache_bytes // count,
            ),
            threads=max(1, torch.get_num_threads() // count),
        )

    def _start(self, jobs: Sequence[Job]) -> None:
        # Where the ranks meet listens on the loopback interface alone; left to torch, on all.
        with socket.create_server((LOOPBACK, 0)) as server:
            port = server.getsockname()[1]
            self._meeting_point = TCPStore(
                LOOPBACK,
                port,
                is_master=True,
                wait_for_workers=False,
                master_listen_fd=server.detach(),
            )
        context = torch.multiprocessing.get_context("spawn")
        for rank in range(len(jobs)):
            here, there = context.Pipe()
            self._pipes.append(here)
            shared = (self._new_weights, self._sums) if rank == 0 else None
            process = context.Process(
                target=run, args=(rank, len(jobs), port, there, shared), daemon=True
            )
            with starting_processes():
                process.start()
            self._processes.append(process)
            there.close()
        self._tell(jobs)

    def _tell(self, commands: Sequence[Command]) -> list[Done]:
        """Tell each rank what to do, and wait until all have; fails as soon as one does."""
        done = []
        waiting = list(self._pipes)
        sentinels = [process.sentinel for process in self._processes]
        try:
            for pipe, command in zip(self._pipes, commands, strict=True):
                # Not `send`: torch would put each tensor of a record into shared memory.
                pipe.send_bytes(pickle.dumps(command))
            while waiting:
                ready = wait([*waiting, *sentinels])
                for pipe in [pipe for pipe in waiting if pipe in ready]:
                    reply: Reply = pickle.loads(pipe.recv_bytes())  # noqa: S301  of our own rank
                    if isinstance(reply, str):
                        self._fail(self._pipes.index(pipe), reply)
                    done.append(reply)
                    waiting.remove(pipe)
                if waiting and any(sentinel in ready for sentinel in sentinels):
                    self._fail_without_a_word()
        except (EOFError, OSError):
            self._fail_without_a_word()
        return done

    def _fail(self, rank: int, failure: str) -> NoReturn:
        self._processes[rank].join(_SETTLE_SECONDS)  # it may have more to say on its own terminal
        self.close()
        if failure == OutOfMemory.code:
            raise OutOfMemory
        raise RankLost(self._settings.devices[rank], failure)

    def _fail_without_a_word(self) -> NoReturn:
        """One ended. Others may have ended of that: find the first cause."""
        rank, status = 0, PEER_LOST
        deadline = time.monotonic() + _SETTLE_SECONDS
        while status == PEER_LOST and time.monotonic() < deadline:
            living = [process.sentinel for process in self._processes if process.is_alive()]
            wait(living, 0.05)
            for number, process in enumerate(self._processes):
                if process.exitcode not in (None, PEER_LOST):
                    rank, status = number, process.exitcode
        self.close()
        is_signal = status < 0
        reason = signal.Signals(-status).name if is_signal else f"exit status {status}"
        raise RankLost(self._settings.devices[rank], reason)

    @contextlib.contextmanager
    def _ending(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise


def check_devices(devices: Sequence[str]) -> None:
    """Refuse devices that cannot share out a step.

    Raises:
        MalformedInput: When they are of different kinds, or a device other than the CPU is named
            twice.
    """
    named = [torch.device(device) for device in devices]
    if len({device.type for device in named}) > 1:
        raise MalformedInput(
            f"devices {', '.join(devices)}: they are of different kinds",
            fix="name devices of one kind, such as cuda:0 and cuda:1",
        )
    if named[0].type != "cpu" and len(set(named)) < len(named):
        raise MalformedInput(
            f"devices {', '.join(devices)}: one is named twice", fix="name each device once"
        )


def divide(work: Sequence[float], ranks: int) -> list[list[int]]:
    """Subjects of each rank: the largest first, each to the rank that has least so far.

    Args:
        work: Of each subject, how much a step has to compute if it is sampled.
        ranks: How many.

    >>> divide([3.0, 1.0, 2.0, 2.0], 2)
    [[0, 1], [2, 3]]
    """
    loads = [(0.0, rank) for rank in range(ranks)]
    shares: list[list[int]] = [[] for _ in range(ranks)]
    for subject in sorted(range(len(work)), key=lambda subject: -work[subject]):
        load, rank = heapq.heappop(loads)
        shares[rank].append(subject)
        heapq.heappush(loads, (load + work[subject], rank))
    return shares


def _work(model: PlanModel, passes: Passes, records: npt.NDArray[np.int64]) -> float:
    sizes = [passes.size(int(record)) for record in records]
    used = min(len(sizes), model.plan.privacy.max_records_per_subject)
    return sum(sizes) / len(sizes) * used


def _largest_phase(model: PlanModel) -> int:
    """How many numbers train at once at most."""
    kinds = {phase.kind for phase in model.plan.phases} - {"histogram"}
    return max(
        model.histogram.counts.weight.numel(),
        *(sum(weight.numel() for weight in model.weights(kind).values()) for kind in kinds),
    )


def _shared(count: int) -> Tensor:
    memory: Tensor = torch.zeros(count).share_memory_()  # type: ignore[no-untyped-call]
    return memory


def _kill(processes: list[SpawnProcess]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    processes.clear()
