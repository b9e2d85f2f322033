"""Tasks and answers as Flower messages. Reading an answer executes nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message import Array
from flwr.app.metadata import Metadata
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.proto.fleet_pb2 import PushMessagesRequest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from client.arrays import unpack_arrays
from client.flower import ARRAYS_KEY
from server.errors import MalformedReply
from server.gate import Problem

MESSAGE_LIFETIME_SECONDS = 30 * 86_400.0
"""Longer than any deadline: rounds end when the coordinator says so, not when a message expires."""

MAX_REPORT_BYTES = 64 * 1024

TaskKind = Literal["train", "evaluate"]

_GONE = (ErrorCode.NODE_UNAVAILABLE, ErrorCode.MESSAGE_UNAVAILABLE)


@dataclass(frozen=True)
class Answer:
    """What a site sent back. Its arrays and report are unchecked.

    Attributes:
        arrays: The update, or evaluation counts; empty for a refusal.
        report: `plan_id`, `round`, `site` and `statement`; for a refusal `code`, `reason`,
            `statement`.
        refused: Whether the site said no.
    """

    arrays: dict[str, npt.NDArray[Any]] = field(repr=False)
    report: dict[str, str | int]
    refused: bool


@dataclass(frozen=True)
class Lost:
    """There will be no answer, and why."""

    reason: str


def task_content(task: dict[str, str | int], arrays: bytes) -> RecordDict:
    """The content of a task for any site.

    Args:
        task: `plan_id` and `round`.
        arrays: `client.arrays.pack_arrays` of the global state.
    """
    document = np.frombuffer(arrays, dtype=np.uint8)
    record = ArrayRecord({ARRAYS_KEY: Array(document)})
    return RecordDict({"task": ConfigRecord(task), "arrays": record})


def task_for(run_id: int, node_id: int, kind: TaskKind, content: RecordDict) -> Message:
    """A task for one node."""
    metadata = Metadata(
        run_id=run_id,
        message_id="",
        src_node_id=SUPERLINK_NODE_ID,
        dst_node_id=node_id,
        reply_to_message_id="",
        group_id="",
        created_at=time.time(),
        ttl=MESSAGE_LIFETIME_SECONDS,
        message_type=kind,
    )
    metadata.delivered_at = ""
    message = Message(content=content, metadata=metadata)
    metadata.__dict__["_message_id"] = message.object_id
    return message


def without_content(message: Message) -> Message:
    """The message as Flower's state holds it: its content lies in the object store."""
    return Message(content=RecordDict(), metadata=message.metadata)


def loss_of(error: Any) -> Lost:
    """What an error that Flower or a site gave instead of an answer means."""
    gone = error.code in _GONE
    return Lost("it lost its connection" if gone else "it reported an error")


def answer_of(content: RecordDict) -> Answer:
    """Read an answer.

    Raises:
        MalformedInput: When it is none.
    """
    refusal = content.config_records.get("refusal")
    if refusal is not None:
        return Answer({}, _report_of(refusal), refused=True)
    records, report = list(content.array_records.values()), content.config_records.get("report")
    if len(records) != 1 or report is None or set(records[0]) != {ARRAYS_KEY}:
        raise MalformedReply("expected arrays and a report, or a refusal")
    document = records[0][ARRAYS_KEY].numpy()
    if document.dtype != np.uint8 or document.ndim != 1:
        raise MalformedReply("expected arrays as one safetensors document")
    return Answer(unpack_arrays(document.tobytes()), _report_of(report), refused=False)


def check_sender(node_id: int, body: bytes) -> None:
    """Refuse a pushed message that names another sender than the node that pushes it.

    Raises:
        Problem: 400 for what is no push of one message, 403 for another's name.
    """
    request = PushMessagesRequest()
    try:
        request.ParseFromString(body)
    except DecodeError as error:
        raise Problem(400, "malformed-message", "the body is no Fleet message") from error
    if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
        raise Problem(400, "malformed-message", "a push holds one message and its objects")
    metadata = request.messages_list[0].metadata
    if metadata.src_node_id != node_id or request.node.node_id != node_id:
        raise Problem(403, "foreign-sender", "the message names another site as its sender")


def _report_of(record: ConfigRecord) -> dict[str, str | int]:
    report: dict[str, str | int] = {}
    for name, value in record.items():
        if not isinstance(value, str | int) or len(str(value)) > MAX_REPORT_BYTES:
            raise MalformedReply("expected a report of short texts and numbers")
        report[str(name)] = value
    return report
