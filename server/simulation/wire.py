"""A coordinator's wire over Flower's Grid, on a clock of its own: seconds as a federation has them.

* Every site has its own machine and its own link, whatever the simulation has: an answer arrives
  when the site was sent its task, has computed, and has sent its answer. A site computes as fast as
  a worker process of the simulation does.
* The clock only moves when every site that was asked has computed. So deadlines of a plan mean the
  same on a slow machine, and nobody waits for simulated seconds.
* A site is unavailable for a whole round, with the stated chance, by the seed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, Protocol

from flwr.app import RecordDict

from audit.errors import FiduciaryError
from client.simulation.bundle import seed_of
from server.rounds import plain
from server.superlink import Answer, Lost, TaskKind
from server.superlink.messages import TYPE_OF, answer_of, task_content, task_for

POLL_SECONDS: Final = 0.02
"""Of real time, between looks at the Grid."""

UNAVAILABLE: Final = "unavailable in this round, as simulated"

SIMULATION: Final = "simulation"
"""Name of what a simulated site says beside its answer (`client.simulation.site`)."""


class Grid(Protocol):
    """The part of Flower's Grid that a simulation needs."""

    def get_node_ids(self) -> Iterable[int]:
        """Nodes of the run."""

    def push_messages(self, messages: Iterable[Any]) -> Iterable[str]:
        """Send messages; gives the ids of those that were taken."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Any]:
        """Answers that are there."""


@dataclass(frozen=True)
class Conditions:
    """What the simulated federation is like.

    Attributes:
        bandwidth_mbit: Of each site's link, in either direction, in 10**6 bits a second.
        dropout: Chance that a site is unavailable in a round, in [0, 1).
        seed: Decides which sites are.
    """

    bandwidth_mbit: float = 50.0
    dropout: float = 0.0
    seed: int = 0

    def is_available(self, site: str, round_index: int) -> bool:
        """Whether a site takes part in a round."""
        drawn = seed_of("dropout", self.seed, site, round_index) / 2**63
        return drawn >= self.dropout

    def seconds_for(self, size_bytes: int) -> float:
        """How long a link is busy with so many bytes."""
        return 8 * size_bytes / (1e6 * self.bandwidth_mbit)


@dataclass
class Traffic:
    """What all sites together were sent and sent, in bytes; and how long each one computed.

    Attributes:
        to_sites: Tasks with the global weights.
        from_sites: Updates, counts and signed reports.
        seconds: Of computing, an entry for each answer.
    """

    to_sites: int = 0
    from_sites: int = 0
    asked: int = 0
    seconds: list[float] = field(default_factory=list)


@dataclass
class _Asked:
    site: str
    kind: TaskKind
    sent_at: float
    sent_bytes: int


class SimulatedWire:
    """Implements `server.rounds.Wire`.

    Args:
        grid: Flower's.
        sites: The simulated sites.
        conditions: What the federation is like.
        sleep: Waits in real time while sites compute.
    """

    def __init__(
        self,
        grid: Grid,
        sites: Collection[str],
        conditions: Conditions,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._grid = grid
        self._sites = sorted(sites)
        self._conditions = conditions
        self._sleep = sleep
        self._node_of: dict[str, int] = {}
        self._now = 0.0
        self._lost = count()
        self._computing: dict[str, _Asked] = {}
        self._arriving: dict[str, tuple[float, Answer | Lost]] = {}
        self.traffic = Traffic()
        self.counts: dict[str, Answer] = {}
        """Of each site, its answer when it was asked last to count."""

    def clock(self) -> float:
        """Simulated seconds since the wire was made."""
        return self._now

    def online(self) -> set[str]:
        """Sites that have a node by now: Flower makes them one after another."""
        if len(self._node_of) < len(self._sites):
            free = sorted(set(self._grid.get_node_ids()) - set(self._node_of.values()))
            waiting = [site for site in self._sites if site not in self._node_of]
            self._node_of.update(zip(waiting, free, strict=False))
        return set(self._node_of)

    def send(
        self,
        run_id: int,
        kind: TaskKind,
        tasks: Mapping[str, dict[str, str | int]],
        arrays: bytes,
        *,
        reply_bytes: int,
    ) -> dict[str, str]:
        """Ask sites; gives site to message id."""
        del reply_bytes  # simulated sites are honest
        sent: dict[str, str] = {}
        messages: dict[str, Any] = {}
        for site, task in sorted(tasks.items()):
            if not self._conditions.is_available(site, int(task["round"])):
                sent[site] = f"unavailable-{next(self._lost)}"
                self._arriving[sent[site]] = (self._now, Lost(UNAVAILABLE))
                continue
            # One Flower node is as good as another: the task says for which site it answers.
            content = task_content({**task, "site": site}, arrays)
            messages[site] = task_for(run_id, self._node_of[site], TYPE_OF[kind], content)
        taken = set(self._grid.push_messages(messages.values()))
        for site, message in messages.items():
            message_id = str(message.metadata.message_id)
            if message_id in taken:
                sent[site] = message_id
                self._computing[message_id] = _Asked(site, kind, self._now, len(arrays))
                self.traffic.to_sites += len(arrays)
                self.traffic.asked += 1
        return sent

    def collect(self, run_id: int, waiting: dict[str, str]) -> dict[str, Answer | Lost]:
        """What has arrived by the simulated clock."""
        del run_id
        self._pull()
        settled: dict[str, Answer | Lost] = {}
        for site, message_id in waiting.items():
            arrival = self._arriving.get(message_id)
            if arrival is not None and arrival[0] <= self._now:
                del self._arriving[message_id]
                settled[site] = arrival[1]
        return settled

    def discard(self, message_ids: Collection[str]) -> None:
        """Stop waiting."""
        for message_id in message_ids:
            self._computing.pop(message_id, None)
            self._arriving.pop(message_id, None)

    def wait_for_arrival(self, seconds: float) -> None:
        """Let sites compute; when all have, let simulated time pass until something arrives."""
        self._pull()
        if self._computing:
            self._sleep(POLL_SECONDS)
            return
        first = min((due for due, _ in self._arriving.values()), default=self._now + seconds)
        self._now = min(self._now + seconds, max(self._now, first))

    def _pull(self) -> None:
        if not self._computing:
            return
        for reply in self._grid.pull_messages(list(self._computing)):
            message_id = str(reply.metadata.reply_to_message_id)
            asked = self._computing.pop(message_id, None)
            if asked is None:
                continue
            seconds, size, outcome = self._read(reply, asked)
            taken = self._conditions.seconds_for(asked.sent_bytes + size) + seconds
            self._arriving[message_id] = (asked.sent_at + taken, outcome)

    def _read(self, reply: Any, asked: _Asked) -> tuple[float, int, Answer | Lost]:
        """How long an answer took to compute, its bytes on the way, and what it says."""
        if reply.has_error():
            return 0.0, 0, Lost(plain(f"it failed: {reply.error.reason}"))
        told = reply.content.config_records.get(SIMULATION)
        seconds = 0.0 if told is None else float(told["seconds"])
        said = {name: part for name, part in reply.content.items() if name != SIMULATION}
        try:
            answer = answer_of(RecordDict(said))
        except FiduciaryError as error:
            return seconds, 0, Lost(f"its reply cannot be read: {error}")
        arrays = sum(array.nbytes for array in answer.arrays.values())
        size = arrays + len(answer.deflated)
        size += sum(len(str(value)) for value in answer.report.values())
        self.traffic.from_sites += size
        if told is not None:
            self.traffic.seconds.append(seconds)
        if asked.kind == "evaluate" and not answer.refused:
            self.counts[asked.site] = answer
        return seconds, size, answer
