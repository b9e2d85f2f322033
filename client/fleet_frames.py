"""Several Fleet messages in one HTTP body: a task with its objects, an answer with its objects.

Flower carries each object of a message in a call of its own, so that a task and its answer are nine
calls. Here they are two: pull-task gives a task with its objects, and the site has received it with
that; push-answer brings an answer with its objects. What travels are Flower's own messages, each as
in Flower's own streams: its length in four bytes, then itself. A message with arrays beside its
record, or with more than `WHOLE_BYTES`, travels alone, and its objects as Flower carries them.

pull-task: a plain `PullMessagesRequest`. Answered with `PullMessagesResponse`, then, unless the
message is too long, a `PullObjectResponse` for each object in the order of the tree.

push-answer: `PushMessagesRequest`, then, unless the message is too long, a `PushObjectRequest` for
each object. Answered with `PushMessagesResponse`, then, where objects came, one
`PushObjectResponse`: whether the answer was taken.
"""

from __future__ import annotations

import os

# Flower reads these when it is imported: no telemetry, no update check, no banner.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final, Self

from flwr.supercore.protobuf.constants import FRAME_HEADER_SIZE
from flwr.supercore.protobuf.framing import frame_message
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from client.fleet_tasks import MAX_DOCUMENT_BYTES

PUSH_ANSWER: Final = "push-answer"

WHOLE_BYTES: Final = MAX_DOCUMENT_BYTES + 1024 * 1024
"""All objects of a message that travels whole: the longest document of a secure sum, and a little.

Below what the partner listener takes as one body.
"""


class Frames:
    """Fleet messages in one body, where Flower's client expects one protobuf message.

    Attributes:
        framed: Each message with its length before it.
    """

    def __init__(self, messages: Iterable[Any] = ()) -> None:
        self.framed = [bytes(frame_message(message)) for message in messages]

    def __len__(self) -> int:
        return len(self.framed)

    def read(self, index: int, kind: Any) -> Any:
        """A message.

        Args:
            index: From 0.
            kind: Its protobuf class.

        Raises:
            DecodeError: When there is none of that kind.
        """
        if index >= len(self.framed):
            raise DecodeError("a message is missing")
        message = kind()
        message.ParseFromString(self.framed[index][FRAME_HEADER_SIZE:])
        return message

    def SerializeToString(self, *, deterministic: bool = True) -> bytes:  # noqa: ARG002, N802
        """The body."""
        return b"".join(self.framed)

    def ParseFromString(self, body: bytes) -> None:  # noqa: N802
        """Take a body apart.

        Raises:
            DecodeError: When a message is cut off.
        """
        self.framed = list(_framed(body))

    @classmethod
    def of(cls, body: bytes) -> Self:
        """The messages of a body; raises as `ParseFromString`."""
        frames = cls()
        frames.ParseFromString(body)
        return frames

    @classmethod
    def first_of(cls, body: bytes) -> Self:
        """The first message of a body alone: what follows, maybe megabytes, is not looked at."""
        frames = cls()
        frames.framed = list(islice(_framed(body), 1))
        return frames


def _framed(body: bytes) -> Iterator[bytes]:
    first = 0
    while first < len(body):
        start = first + FRAME_HEADER_SIZE
        after = start + int.from_bytes(body[first:start], "big")
        if start > len(body) or after > len(body):
            raise DecodeError("a message is cut off")
        yield body[first:after]
        first = after
