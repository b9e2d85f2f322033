"""The site's pipeline in several processes: each subject's records go to one of them, as a whole.

What comes out does not depend on the number of processes. Text goes to them and comes back through
pipes, never through a file. Each holds the language model, about 400 MB, and some
90 MB more once it meets text without capitals.
"""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from types import TracebackType
from typing import Final, Protocol, Self

from client.deidentification.pipeline import Deidentifier, Outcome, SourceRecord
from client.learning.child_processes import starting_processes
from client.vault import CutOff

WORTH_CHARACTERS: Final = 1_000_000
"""Less text than this is done before a second process has loaded the model."""

MOST_WORKERS: Final = 8
"""By default; memory, not time, is what more of them take."""


class WorkerEnded(CutOff):
    """A process of the pool ended, most likely because memory ran out."""

    code = "worker-ended"


class Pipeline(Protocol):
    """What a process of the pool runs."""

    @property
    def digest(self) -> str:
        """Names the whole pipeline."""
        ...

    def deidentify(self, records: Sequence[SourceRecord]) -> list[Outcome]:
        """One outcome for each record."""
        ...


class DeidentifierPool:
    """A `client.ingest.RecordDeidentifier` of several processes. Use it as a context manager.

    Args:
        secret: 32 bytes of this site; decides the stand-ins.
        workers: How many processes.
        make: Makes the pipeline in each process; importable by name.
    """

    def __init__(
        self, secret: bytes, workers: int, make: Callable[[bytes], Pipeline] = Deidentifier
    ) -> None:
        self._workers = workers
        self._pool = ProcessPoolExecutor(
            workers, mp_context=get_context("spawn"), initializer=_begin, initargs=(make, secret)
        )
        self._digest = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    @property
    def digest(self) -> str:
        """Names the whole pipeline, as each process has it.

        Raises:
            FiduciaryError: As the pipeline's own construction does.
            WorkerEnded: When a process ended.
        """
        if not self._digest:
            try:
                with starting_processes():
                    made = self._pool.submit(_digest)
                self._digest = made.result()
            except BrokenProcessPool as error:
                raise _ended() from error
        return self._digest

    def deidentify(self, records: Sequence[SourceRecord]) -> list[Outcome]:
        """One outcome for each record, in order; see `Deidentifier.deidentify`.

        Raises:
            FiduciaryError: As the pipeline's own construction does.
            WorkerEnded: When a process ended.
        """
        return self.start(records)()

    def start(self, records: Sequence[SourceRecord]) -> Callable[[], list[Outcome]]:
        """Give records to the processes; what is returned waits for them, and is `deidentify`.

        Whoever starts the next records before it waits for these leaves no process idle: shares of
        one length take different times.
        """
        shares = [share for share in dealt(records, self._workers) if share]
        try:
            with starting_processes():
                done = [
                    self._pool.submit(_deidentify, [records[at] for at in share])
                    for share in shares
                ]
        except BrokenProcessPool as error:
            raise _ended() from error

        def outcomes() -> list[Outcome]:
            try:
                of = dict(
                    pair
                    for share, results in zip(shares, done, strict=True)
                    for pair in zip(share, results.result(), strict=True)
                )
            except BrokenProcessPool as error:
                raise _ended() from error
            return [of[at] for at in range(len(records))]

        return outcomes


def dealt(records: Sequence[SourceRecord], workers: int) -> list[list[int]]:
    """Positions of records for each worker: whole subjects, the longest first to who has least."""
    of: defaultdict[str, list[int]] = defaultdict(list)
    for at, record in enumerate(records):
        of[record.subject].append(at)

    def length(positions: Sequence[int]) -> int:
        return sum(len(records[at].text) for at in positions)

    shares: list[list[int]] = [[] for _ in range(workers)]
    loads = [0] * workers
    for positions in sorted(of.values(), key=length, reverse=True):
        least = loads.index(min(loads))
        shares[least] += positions
        loads[least] += length(positions) + 1
    return shares


def usual_workers(characters: int) -> int:
    """How many processes are worth their start for so much text, on this machine."""
    if characters < WORTH_CHARACTERS:
        return 1
    return min(len(os.sched_getaffinity(0)), MOST_WORKERS)


# --- in a process of the pool ---------------------------------------------------------------------

_making: Callable[[], Pipeline] | None = None
_made: Pipeline | None = None


def _begin(make: Callable[[bytes], Pipeline], secret: bytes) -> None:
    """Remember how to make the pipeline; an error in here would break the pool without words."""
    global _making
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    # torch is loaded after this, where a site's own model asks for it. With its usual threads in
    # each process they wait for each other's: several times the processor time.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    _making = lambda: make(secret)  # noqa: E731


def _pipeline() -> Pipeline:
    global _made
    if _made is None:
        if _making is None:
            raise RuntimeError("this is no process of the pool")
        _made = _making()
    return _made


def _digest() -> str:
    return _pipeline().digest


def _deidentify(records: Sequence[SourceRecord]) -> list[Outcome]:
    return _pipeline().deidentify(records)


def _ended() -> WorkerEnded:
    return WorkerEnded(
        "a process that de-identifies ended, most likely because memory ran out",
        fix="run the same command with fewer --workers: it goes on where it stopped",
    )
