"""What a site is asked and what it answers, as the content of Flower messages.

Reading a task executes nothing: it is a kind, a plan id, a round number, a JSON document and
arrays, or it is refused as malformed.
"""

from __future__ import annotations

import os

# Flower reads these when it is imported: no telemetry, no update check, no banner.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy.typing as npt
from flwr.app import ConfigRecord, Message, RecordDict

from audit.errors import MalformedInput
from client.arrays import Arrays, pack_arrays, unpack_arrays
from client.deflated import deflate, is_deflated
from client.fleet_content import content_with, read_content

BUNDLE_PREFIX = "fab"
"""What Flower calls an app bundle; fields that begin so name one."""

SumStep = Literal["deal", "mask", "attest", "reveal"]
"""What a secure sum asks after its keys (`client.secure_aggregation`)."""

TaskKind = Literal["train", "evaluate"] | SumStep

MESSAGE_TYPES: Final[Mapping[str, TaskKind]] = {
    "train": "train",
    "evaluate": "evaluate",
    "query.deal": "deal",
    "query.mask": "mask",
    "query.attest": "attest",
    "query.reveal": "reveal",
}
"""Flower's message types, and what they ask."""

MAX_DOCUMENT_BYTES = 16 * 1024 * 1024
"""Longest JSON document of a task or an answer: the keys or boxes of a thousand sites."""


@dataclass(frozen=True)
class IncomingTask:
    """What the coordinator asks for. Nothing in it has been checked against a plan yet.

    Attributes:
        kind: What is asked.
        plan_id: Digest of the signed plan that the coordinator says this belongs to.
        round: Round of the plan, from 0.
        state: Name to array of the global state, as far as it travels
            (`client.learning.travelling`); none in a step of a secure sum.
        document: JSON of a secure sum; empty where there is none.
        names_bundle: Whether the task, or the run that it belongs to, names an app bundle: code
            that this site would be expected to run, and never does.
        deflated: The document of the state where it came compressed, unread: how large it may
            become is known when the plan is (`client.deflated`). `state` is empty then, and the
            answer is compressed, too.
    """

    kind: TaskKind
    plan_id: str
    round: int
    state: dict[str, npt.NDArray[Any]] = field(repr=False)
    message: Message = field(repr=False, compare=False)
    document: str = field(default="", repr=False)
    names_bundle: bool = False
    deflated: bytes = field(default=b"", repr=False)


def answer_content(task: IncomingTask, arrays: Arrays, report: Mapping[str, Any]) -> RecordDict:
    """The answer to a task, as it travels; see `FleetConnection.reply_arrays`."""
    fields: dict[str, str | int] = {
        "plan_id": task.plan_id,
        "round": task.round,
        "site": str(report["site"]),
        "statement": _json_text(report["statement"]),
    }
    document = pack_arrays(arrays)
    return content_with("report", fields, deflate(document) if task.deflated else document)


def document_content(document: str) -> RecordDict:
    """The answer to a step of a secure sum, as it travels."""
    return RecordDict({"document": ConfigRecord({"json": document})})


def refusal_content(code: str, reason: str, statement: Mapping[str, Any] | str) -> RecordDict:
    """A no to a task, as it travels."""
    return RecordDict(
        {
            "refusal": ConfigRecord(
                {"code": code, "reason": reason, "statement": _json_text(statement)}
            )
        }
    )


def _json_text(statement: Mapping[str, Any] | str) -> str:
    return statement if isinstance(statement, str) else json.dumps(statement)


def task_of(message: Message, whole: Any, *, bundled: bool = False) -> IncomingTask:
    """Read a task.

    Args:
        message: The message as it was announced.
        whole: The same with its content.
        bundled: Whether its run names an app bundle.

    Raises:
        MalformedInput: When it is none.
    """
    kind = MESSAGE_TYPES.get(message.metadata.message_type)
    if kind is None:
        raise MalformedInput(
            f"unknown task {message.metadata.message_type!r}: a site trains, evaluates and sums, "
            "nothing else"
        )
    fields, packed = read_content("task", whole.content)
    if bool(packed) != (kind in ("train", "evaluate")):
        raise MalformedInput("expected a task with its arrays, or a step without")
    plan_id, round_index = fields.get("plan_id"), fields.get("round")
    if not isinstance(plan_id, str) or not isinstance(round_index, int) or round_index < 0:
        raise MalformedInput("expected a plan id and a round number")
    document = fields.get("document", "")
    if not isinstance(document, str) or len(document) > MAX_DOCUMENT_BYTES:
        raise MalformedInput("expected a document of text")
    deflated = packed if is_deflated(packed) else b""
    state = unpack_arrays(packed) if packed and not deflated else {}
    bundled = bundled or any(str(name).startswith(BUNDLE_PREFIX) for name in fields)
    return IncomingTask(kind, plan_id, round_index, state, message, document, bundled, deflated)
