"""How calls, messages and their objects travel between a site and the coordinator's Fleet port.

* A message that is short travels whole, in one body with its objects (`client.fleet_frames`); the
  objects of a longer one travel one by one, as Flower's own do.
* Every failure becomes one of `audit.errors` with what to do next (`client.fleet_tls`).
"""

from __future__ import annotations

import os

# Flower reads these when it is imported: no telemetry, no update check, no banner.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

from collections.abc import Callable
from typing import Any

import httpx
from flwr.app import Message
from flwr.app.message.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from audit.errors import Unreachable
from client.fleet_client import FleetClient
from client.fleet_content import is_inline
from client.fleet_frames import Frames
from client.fleet_tls import lost, refused


class Transfer:
    """Calls of one client to one coordinator.

    Args:
        client: Makes them.
        address: `host:port` of the partner listener, for what an operator is told.

    Raises:
        Unreachable: From every method, when the coordinator does not answer.
        Unauthorised: From every method, when the coordinator does not accept this site.
    """

    def __init__(self, client: FleetClient, address: str) -> None:
        self._client = client
        self._address = address

    def call(self, method: Callable[[Any], Any], request: Any) -> Any:
        """Make one of the client's calls."""
        try:
            return method(request)
        except httpx.HTTPStatusError as error:
            raise refused(self._address, error.response) from error
        except httpx.TransportError as error:
            raise lost(self._address, error) from error
        except ValueError as error:  # Flower's client for a body that cannot be read
            raise self._garbled() from error

    def read_frame(self, frames: Frames, index: int, kind: Any) -> Any:
        """One message of an answer."""
        try:
            return frames.read(index, kind)
        except DecodeError as error:
            raise self._garbled() from error

    def objects_of(self, object_ids: list[str], frames: Frames) -> dict[str, bytes] | None:
        """The objects that came with the message."""
        if len(frames) != 1 + len(object_ids):
            return None
        responses = [
            self.read_frame(frames, index, PullObjectResponse) for index in range(1, len(frames))
        ]
        if not all(response.object_available for response in responses):
            return None
        return {
            object_id: response.object_content
            for object_id, response in zip(object_ids, responses, strict=True)
        }

    def pull_objects(
        self, node: Node, run_id: int, object_ids: list[str]
    ) -> dict[str, bytes] | None:
        """The objects of a message that is too long to come whole; then the coordinator's go."""
        contents: dict[str, bytes] = {}
        for object_id in object_ids:
            response = self.call(
                self._client.PullObject,
                PullObjectRequest(node=node, run_id=run_id, object_id=object_id),
            )
            if not response.object_available:
                return None
            contents[object_id] = response.object_content
        self.call(
            self._client.ConfirmMessageReceived,
            ConfirmMessageReceivedRequest(
                node=node, run_id=run_id, message_object_id=object_ids[-1]
            ),
        )
        return contents

    def push(self, node: Node, reply: Message) -> bool:
        """Send an answer with its objects; whether the coordinator took it."""
        whole = is_inline(reply.content)
        head = PushMessagesRequest(
            node=node,
            messages_list=[message_to_proto(remove_content_from_message(reply))],
            message_object_trees=[get_object_tree(reply)],
            clientapp_runtime_list=[0.0],
        )
        objects = get_all_nested_objects(reply)
        parts = [
            PushObjectRequest(object_id=object_id, object_content=part.deflate())
            for object_id, part in (objects.items() if whole else ())
        ]
        frames = self.call(self._client.push_answer, Frames([head, *parts]))
        if whole:
            return bool(self.read_frame(frames, 1, PushObjectResponse).stored)
        answer = self.read_frame(frames, 0, PushMessagesResponse)
        # Flower says nothing of a reply that comes too late; it asks for none of its objects.
        taken = reply.object_id in answer.objects_to_push
        for object_id, part in objects.items():
            if object_id in answer.objects_to_push:
                request = PushObjectRequest(
                    node=node,
                    run_id=reply.metadata.run_id,
                    object_id=object_id,
                    object_content=part.deflate(),
                    session_id=answer.session_id,
                )
                taken = self.call(self._client.PushObject, request).stored and taken
        return bool(taken)

    def _garbled(self) -> Unreachable:
        return Unreachable(
            f"the coordinator at {self._address} answered with what is no Fleet message",
            fix="compare the versions: client --version here, server --version there",
        )
