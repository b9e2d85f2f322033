"""The coordinator's end of the Fleet protocol: `FakeFleet` implements `client.counterparts.Fleet`.

Tasks wait in a list, answers are kept. `lose_next_reply` raises instead of taking the next answer;
`accepts = False` takes it too late, as the real coordinator does after a deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy.typing as npt

from audit.errors import FiduciaryError
from audit.statement import SignedStatement
from client.arrays import Arrays
from client.fleet_tasks import IncomingTask, TaskKind
from client.stopping import Stopped


@dataclass
class Reply:
    """What a site answered."""

    task: IncomingTask
    arrays: dict[str, npt.NDArray[Any]] | None
    statement: SignedStatement
    code: str = ""
    reason: str = ""


def make_task(
    kind: TaskKind,
    plan_id: str,
    round_index: int,
    state: Mapping[str, npt.NDArray[Any]],
    document: str = "",
) -> IncomingTask:
    """A task as `client.flower` hands it over; its Flower message is of no concern here."""
    return IncomingTask(kind, plan_id, round_index, dict(state), message=None, document=document)


class FakeFleet:
    """The coordinator's end of the Fleet protocol.

    `tasks` are handed out in order; a callable among them is called instead (to stop the worker, to
    raise, to change the world between two tasks). When none is left the worker is stopped.
    """

    def __init__(self) -> None:
        self.tasks: list[IncomingTask | Callable[[], IncomingTask | None]] = []
        self.replies: list[Reply] = []
        self.documents: list[tuple[IncomingTask, str]] = []
        self.lose_next_reply: FiduciaryError | None = None
        self.accepts = True
        self.connections = 0
        self.refuse_connections: list[FiduciaryError] = []
        self.on_malformed: Callable[[str, str], None] = lambda _code, _reason: None

    def connect(self, on_malformed: Callable[[str, str], None]) -> Self:
        self.on_malformed = on_malformed
        if self.refuse_connections:
            raise self.refuse_connections.pop(0)
        return self

    def __enter__(self) -> Self:
        self.connections += 1
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def poll(self, wait_seconds: float = 1.0) -> IncomingTask | None:
        if not self.tasks:
            raise Stopped
        task = self.tasks.pop(0)
        return task if isinstance(task, IncomingTask) else task()

    def reply_arrays(self, task: IncomingTask, arrays: Arrays, report: dict[str, Any]) -> bool:
        self._arrive()
        signed = SignedStatement.from_json(report["statement"])
        self.replies.append(Reply(task, dict(arrays), signed))
        return self.accepts

    def reply_document(self, task: IncomingTask, document: str) -> bool:
        self._arrive()
        self.documents.append((task, document))
        return self.accepts

    def reply_refusal(
        self, task: IncomingTask, code: str, reason: str, statement: dict[str, Any]
    ) -> bool:
        self._arrive()
        signed = SignedStatement.from_json(statement)
        self.replies.append(Reply(task, None, signed, code, reason))
        return self.accepts

    def _arrive(self) -> None:
        if self.lose_next_reply is not None:
            error, self.lose_next_reply = self.lose_next_reply, None
            raise error
