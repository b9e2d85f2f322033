"""Flower's Grid without Flower's engine: simulated sites answer in this process, or by a script."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.error import Error

from client.arrays import Arrays
from client.fleet_tasks import answer_content, task_of
from client.simulation.bundle import Bundle
from client.simulation.site import SimulatedSites

RUN_ID = 7

Answering = Callable[[Message, RecordDict], RecordDict | Error]
"""Content of an answer to a task, given what the node remembers."""


class FakeGrid:
    """Implements `server.simulation.wire.Grid`.

    Args:
        nodes: How many there are.
        answer: What a node answers; it is asked when its answer is pulled.
        appearing: Nodes come one by one, one for each look at them.
        losing: Nodes whose messages are not taken.
    """

    def __init__(
        self,
        nodes: int,
        answer: Answering,
        *,
        appearing: bool = False,
        losing: frozenset[int] = frozenset(),
    ) -> None:
        self._nodes = list(range(101, 101 + nodes))
        self._answer = answer
        self._shown = 0 if appearing else nodes
        self._losing = losing
        self._waiting: dict[str, Message] = {}
        self._remembered: dict[int, RecordDict] = {}
        self.pushed: list[Message] = []

    def get_node_ids(self) -> Iterable[int]:
        self._shown = min(len(self._nodes), self._shown + 1)
        return set(self._nodes[: self._shown])

    def push_messages(self, messages: Iterable[Any]) -> Iterable[str]:
        taken = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"m{len(self.pushed)}"
            self.pushed.append(message)
            if message.metadata.dst_node_id not in self._losing:
                self._waiting[message.metadata.message_id] = message
                taken.append(message.metadata.message_id)
        return taken

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Any]:
        replies = []
        for message_id in message_ids:
            message = self._waiting.pop(message_id, None)
            if message is None:
                continue
            remembered = self._remembered.setdefault(message.metadata.dst_node_id, RecordDict())
            answer = self._answer(message, remembered)
            replies.append(Message(answer, reply_to=message))
        return replies


def in_process(bundle: Bundle) -> Answering:
    """Real simulated sites, without Ray."""
    return SimulatedSites(bundle).answer


def scripted(
    seconds: Callable[[str], float], arrays: Arrays, report: str = "statement"
) -> Answering:
    """Sites that take so many seconds and send these arrays."""

    def answer(message: Message, _: RecordDict) -> RecordDict:
        task = task_of(message, message)
        site = site_of(message)
        content = answer_content(task, arrays, {"site": site, "statement": report})
        content["simulation"] = ConfigRecord({"seconds": seconds(site)})
        return content

    return answer


def site_of(message: Message) -> str:
    """For which site a task is."""
    return str(message.content.config_records["task"]["site"])
