"""Tasks and answers as Flower messages. Reading an answer executes nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
from flwr.app import Message, RecordDict
from flwr.app.metadata import Metadata
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.proto.fleet_pb2 import PushMessagesRequest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from client.arrays import unpack_arrays
from client.deflated import is_deflated
from client.fleet_content import content_with, read_content
from client.fleet_frames import Frames
from client.fleet_tasks import MAX_DOCUMENT_BYTES, MESSAGE_TYPES
from server.asgi import Problem
from server.errors import MalformedReply

MESSAGE_LIFETIME_SECONDS = 30 * 86_400.0
"""Longer than any deadline: rounds end when the coordinator says so, not when a message expires."""

MAX_REPORT_BYTES = 64 * 1024

TYPE_OF = {kind: message_type for message_type, kind in MESSAGE_TYPES.items()}

_GONE = (ErrorCode.NODE_UNAVAILABLE, ErrorCode.MESSAGE_UNAVAILABLE)


@dataclass(frozen=True)
class Answer:
    """What a site sent back. Its arrays and report are unchecked.

    Attributes:
        arrays: The update as it travelled, evaluation counts, or a masked vector; empty for what
            has none.
        report: `plan_id`, `round`, `site` and `statement`; for a refusal `code`, `reason`,
            `statement`.
        refused: Whether the site said no.
        document: JSON of a step of a secure sum.
        deflated: The document of the arrays where it came compressed, unread: how large it may
            become, the plan says (`client.deflated`). `arrays` is empty then.
    """

    arrays: dict[str, npt.NDArray[Any]] = field(repr=False)
    report: dict[str, str | int]
    refused: bool
    document: str = field(default="", repr=False)
    deflated: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Lost:
    """There will be no answer, and why.

    Attributes:
        reason: For the round's report.
        again: Whether the site may be asked again when it is back: its connection or process
            ended, and it keeps what it answered (`client.kept_answers`).
    """

    reason: str
    again: bool = False


def task_content(task: dict[str, str | int], arrays: bytes) -> RecordDict:
    """The content of a task.

    Args:
        task: `plan_id`, `round`, and the `document` of a secure sum.
        arrays: `client.arrays.pack_arrays` of what travels of the global state, compressed or not;
            empty in a step of a secure sum.
    """
    return content_with("task", task, arrays)


def task_for(run_id: int, node_id: int, message_type: str, content: RecordDict) -> Message:
    """A task for one node, of one of `TYPE_OF`'s types."""
    metadata = Metadata(
        run_id=run_id,
        message_id="",
        src_node_id=SUPERLINK_NODE_ID,
        dst_node_id=node_id,
        reply_to_message_id="",
        group_id="",
        created_at=time.time(),
        ttl=MESSAGE_LIFETIME_SECONDS,
        message_type=message_type,
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
    return Lost("it lost its connection" if gone else "it reported an error", again=gone)


def answer_of(content: RecordDict) -> Answer:
    """Read an answer.

    Raises:
        MalformedInput: When it is none.
    """
    refusal = content.config_records.get("refusal")
    if refusal is not None:
        return Answer({}, _report_of(refusal), refused=True)
    said = content.config_records.get("document")
    if said is not None:
        document = said.get("json")
        if not isinstance(document, str) or len(document) > MAX_DOCUMENT_BYTES:
            raise MalformedReply("expected a document of text")
        return Answer({}, {}, refused=False, document=document)
    fields, packed = read_content("report", content)
    report = _report_of(fields)
    if is_deflated(packed):
        return Answer({}, report, refused=False, deflated=packed)
    return Answer(unpack_arrays(packed), report, refused=False)


def check_sender(node_id: int, body: bytes) -> None:
    """Refuse a pushed message that names another sender than the node that pushes it.

    Raises:
        Problem: 400 for what is no push of one message, 403 for another's name.
    """
    try:
        request = Frames.first_of(body).read(0, PushMessagesRequest)
    except DecodeError as error:
        raise Problem(400, "malformed-message", "the body is no Fleet message") from error
    if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
        raise Problem(400, "malformed-message", "a push holds one message and its objects")
    metadata = request.messages_list[0].metadata
    if metadata.src_node_id != node_id or request.node.node_id != node_id:
        raise Problem(403, "foreign-sender", "the message names another site as its sender")


def _report_of(record: Mapping[str, object]) -> dict[str, str | int]:
    report: dict[str, str | int] = {}
    for name, value in record.items():
        if not isinstance(value, str | int) or len(str(value)) > MAX_REPORT_BYTES:
            raise MalformedReply("expected a report of short texts and numbers")
        report[str(name)] = value
    return report
