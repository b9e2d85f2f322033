"""The site's end of the Flower Fleet protocol: in this process, and never any shipped code.

What this adapter guarantees:

* It runs nothing that the coordinator sends. A task is a kind, a plan id, a round number and
  arrays; a message that is anything else is answered with a refusal and handed to `on_malformed`.
  Flower's app bundles are never requested.
* The connection is TLS 1.3 in both directions: the server must hold a certificate of the
  federation's CA, and the site proves its node key both to TLS and to Flower (P-384 signatures).
* Arrays travel as one safetensors document in a Flower `ArrayRecord`, so that their digest
  (`arrays_digest`) is well defined and reading them executes nothing.
* A site that waits is idle: the partner listener holds a poll until a task is there, and against a
  server that does not, polls back off from 50 ms to 1 s.

Flower's internals change without notice. On the site's side they are used in this module only.
"""

from __future__ import annotations

import os

# Flower reads these when it is imported: no telemetry, no update check, no banner.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import httpx
import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message import Array
from flwr.app.message.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from audit.errors import FiduciaryError, MalformedInput, Unauthorised, Unreachable
from client.arrays import Arrays, arrays_digest, pack_arrays, unpack_arrays
from client.fleet_tls import ConnectionLost, load_node_key, lost, mutual_tls, refused
from client.polling import MAX_WAIT_SECONDS, WAIT_HEADER

__all__ = ["FleetConnection", "IncomingTask", "arrays_digest"]

logging.getLogger("flwr").setLevel(logging.ERROR)

HEARTBEAT_SECONDS = 5.0
"""How often a site says that it is there, also while it trains."""

HEARTBEAT_PROMISE_SECONDS = 15
"""What it promises; Flower takes it for lost after twice this."""

REQUEST_TIMEOUT_SECONDS = 60.0
RESEND_PAUSES_SECONDS = (0.2, 1.0, 3.0)
FIRST_BACKOFF_SECONDS = 0.05
LAST_BACKOFF_SECONDS = 1.0

ARRAYS_KEY = "safetensors"
"""Name of the only array in the message's `ArrayRecord`: the safetensors document as bytes."""

TaskKind = Literal["train", "evaluate"]


@dataclass(frozen=True)
class IncomingTask:
    """What the coordinator asks for. Nothing in it has been checked against a plan yet.

    Attributes:
        kind: `train` or `evaluate`.
        plan_id: Digest of the signed plan that the coordinator says this belongs to.
        round: Round of the plan, from 0.
        state: Name to array of the global state.
    """

    kind: TaskKind
    plan_id: str
    round: int
    state: dict[str, npt.NDArray[Any]] = field(repr=False)
    message: Message = field(repr=False, compare=False)


class FleetConnection:
    """One site's connection to the coordinator's partner listener; a context manager.

    Args:
        address: `host:port` of the partner listener.
        ca_certificate: PEM file with the federation's CA certificate, from the kit.
        client_certificate: PEM file with the site's certificate, issued at admission.
        node_key: PEM file with the site's unencrypted P-384 private key.
        on_malformed: Called with a code and a reason for each message that is not a task.

    A connection that was lost is taken up again by the next `poll`.

    Raises:
        Unreachable: From every call, when the coordinator does not answer.
        Unauthorised: From every call, when the coordinator does not accept this site.
    """

    def __init__(
        self,
        address: str,
        ca_certificate: Path,
        client_certificate: Path,
        node_key: Path,
        *,
        on_malformed: Callable[[str, str], None] | None = None,
    ) -> None:
        self._address = address
        self._on_malformed = on_malformed
        self._key = load_node_key(node_key)
        self._public_key = public_key_to_bytes(self._key.public_key())
        self._wait = _WaitHeader()
        self._client = FleetHttpClient(
            f"https://{address}",
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(self._key, self._key.public_key()),
                self._wait,
            ],
            verify=mutual_tls(ca_certificate, client_certificate, node_key),
            timeout=REQUEST_TIMEOUT_SECONDS,
        )
        self._node: Node | None = None
        self._stop = threading.Event()
        self._heartbeat = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._backoff_seconds = FIRST_BACKOFF_SECONDS
        self._expect_more = True

    @property
    def node_id(self) -> int:
        """Flower's number for this site; it changes when the coordinator restarts."""
        return self._activated().node_id

    def __enter__(self) -> Self:
        try:
            self._activated()
        except BaseException:
            self._client.close()
            raise
        self._heartbeat.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Say goodbye, so that the coordinator need not wait for this site; then disconnect."""
        self._stop.set()
        if self._heartbeat.is_alive():
            self._heartbeat.join(timeout=2 * HEARTBEAT_SECONDS)
        if self._node is not None:
            request = DeactivateNodeRequest(node_id=self._node.node_id)
            self._node = None
            # When the coordinator is gone or has dropped this site, nothing is left to say.
            with contextlib.suppress(FiduciaryError):
                self._call(self._client.DeactivateNode, request)
        self._client.close()

    def poll(self, wait_seconds: float = 1.0) -> IncomingTask | None:
        """The next task, waiting for one at most `wait_seconds`.

        Args:
            wait_seconds: 0 to `MAX_WAIT_SECONDS`.
        """
        started = time.monotonic()
        node = self._activated()
        # The first poll after a task must not wait: another one may be there already.
        self._wait.seconds = 0.0 if self._expect_more else min(wait_seconds, MAX_WAIT_SECONDS)
        try:
            response = self._call(self._client.PullMessages, PullMessagesRequest(node=node))
        except (Unauthorised, Unreachable):
            self._node = None  # The next poll introduces the site again.
            raise
        finally:
            self._wait.seconds = 0.0
        if not response.messages_list:
            held = time.monotonic() - started >= FIRST_BACKOFF_SECONDS
            if not held and not self._expect_more and wait_seconds > 0:
                self._stop.wait(min(self._backoff_seconds, wait_seconds))
                self._backoff_seconds = min(2 * self._backoff_seconds, LAST_BACKOFF_SECONDS)
            self._expect_more = False
            return None
        self._expect_more = True
        self._backoff_seconds = FIRST_BACKOFF_SECONDS
        message = message_from_proto(response.messages_list[0])
        return self._read(message, response.message_object_trees[0])

    def reply_arrays(self, task: IncomingTask, arrays: Arrays, report: Mapping[str, Any]) -> bool:
        """Answer a task.

        Args:
            task: The task that this answers.
            arrays: For `train` the update = local state - global state, float32, the state's names
                and shapes; for `evaluate` the counts of `Evaluation.to_arrays`.
            report: `site`: the site's name; `statement`: its signed `SiteReport`, as the JSON
                object of `SignedStatement.to_json()` or its text.

        Returns:
            Whether the coordinator took it: False when the round is over.
        """
        content = {"arrays": _array_record(arrays), "report": _report_record(task, report)}
        return self._send(task.message, RecordDict(content))

    def reply_refusal(
        self, task: IncomingTask, code: str, reason: str, statement: Mapping[str, Any] | str
    ) -> bool:
        """Say no to a task.

        Args:
            task: The task that this answers.
            code: Stable kebab-case reason.
            reason: One sentence, without text or identifiers of anybody.
            statement: The site's signed `Refusal`.

        Returns:
            Whether the coordinator took it.
        """
        return self._send(task.message, _refusal(code, reason, statement))

    # --- the protocol --------------------------------------------------------------------------

    def _activated(self) -> Node:
        if self._node is None:
            request = ActivateNodeRequest(
                public_key=self._public_key, heartbeat_interval=HEARTBEAT_PROMISE_SECONDS
            )
            self._node = Node(node_id=self._call(self._client.ActivateNode, request).node_id)
            self._expect_more = True
        return self._node

    def _read(self, message: Message, tree: Any) -> IncomingTask | None:
        node, run_id = self._activated(), message.metadata.run_id
        contents: dict[str, bytes] = {}
        for part in iterate_object_tree(tree):
            response = self._call(
                self._client.PullObject,
                PullObjectRequest(node=node, run_id=run_id, object_id=part.object_id),
            )
            if not response.object_available:
                self._malformed(message, "the coordinator did not send all of its message")
                return None
            contents[part.object_id] = response.object_content
        self._call(
            self._client.ConfirmMessageReceived,
            ConfirmMessageReceivedRequest(
                node=node, run_id=run_id, message_object_id=tree.object_id
            ),
        )
        try:
            whole = inflate_object_from_contents(tree.object_id, contents)
            return _task_of(message, whole)
        except MalformedInput as error:
            self._malformed(message, str(error))
        except Exception as error:  # noqa: BLE001 - Flower's readers raise anything on hostile bytes
            self._malformed(message, f"unreadable message ({type(error).__name__})")
        return None

    def _malformed(self, message: Message, reason: str) -> None:
        if self._on_malformed is not None:
            self._on_malformed("malformed-task", reason)
        self._send(message, _refusal("malformed-task", reason, ""))

    def _send(self, message: Message, content: RecordDict) -> bool:
        reply = Message(content, reply_to=message)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        for pause_seconds in RESEND_PAUSES_SECONDS:
            try:
                return self._push(reply)
            except ConnectionLost:
                # What was trained is spent: it is worth another try. Flower takes the same message
                # again and asks for what it does not have yet.
                self._stop.wait(pause_seconds)
        return self._push(reply)

    def _push(self, reply: Message) -> bool:
        node = self._activated()
        with no_object_id_recompute():
            tree, objects = get_object_tree(reply), get_all_nested_objects(reply)
            answer = self._call(
                self._client.PushMessages,
                PushMessagesRequest(
                    node=node,
                    messages_list=[message_to_proto(remove_content_from_message(reply))],
                    message_object_trees=[tree],
                    clientapp_runtime_list=[0.0],
                ),
            )
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
                    taken = self._call(self._client.PushObject, request).stored and taken
        return bool(taken)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            node = self._node
            if node is None:
                continue
            request = SendNodeHeartbeatRequest(
                node=node, heartbeat_interval=HEARTBEAT_PROMISE_SECONDS
            )
            try:
                self._call(self._client.SendNodeHeartbeat, request)
            except FiduciaryError:
                continue  # The next poll meets the same trouble and reports it.

    def _call(self, method: Callable[[Any], Any], request: Any) -> Any:
        try:
            return method(request)
        except httpx.HTTPStatusError as error:
            raise refused(self._address, error.response) from error
        except httpx.TransportError as error:
            raise lost(self._address, error) from error


class _WaitHeader:
    """Adds `WAIT_HEADER` to polls (a `ProtobufClientInterceptor`)."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def intercept(self, context: Any, call_next: Callable[[Any], httpx.Response]) -> httpx.Response:
        if self.seconds > 0 and context.rpc_method.endswith("/PullMessages"):
            context.request.headers[WAIT_HEADER] = f"{self.seconds:g}"
        return call_next(context)


def _array_record(arrays: Arrays) -> ArrayRecord:
    document = np.frombuffer(pack_arrays(arrays), dtype=np.uint8)
    return ArrayRecord({ARRAYS_KEY: Array(document)})


def _report_record(task: IncomingTask, report: Mapping[str, Any]) -> ConfigRecord:
    return ConfigRecord(
        {
            "plan_id": task.plan_id,
            "round": task.round,
            "site": str(report["site"]),
            "statement": _json_text(report["statement"]),
        }
    )


def _refusal(code: str, reason: str, statement: Mapping[str, Any] | str) -> RecordDict:
    return RecordDict(
        {
            "refusal": ConfigRecord(
                {"code": code, "reason": reason, "statement": _json_text(statement)}
            )
        }
    )


def _json_text(statement: Mapping[str, Any] | str) -> str:
    return statement if isinstance(statement, str) else json.dumps(statement)


def _task_of(message: Message, whole: Any) -> IncomingTask:
    kind = message.metadata.message_type
    if kind not in ("train", "evaluate"):
        raise MalformedInput(f"unknown task {kind!r}: a site trains and evaluates, nothing else")
    content = whole.content
    task, arrays = content.config_records.get("task"), content.array_records.get("arrays")
    if task is None or arrays is None or set(content) != {"task", "arrays"}:
        raise MalformedInput("expected a task and its arrays, and nothing else")
    plan_id, round_index = task.get("plan_id"), task.get("round")
    if not isinstance(plan_id, str) or not isinstance(round_index, int) or round_index < 0:
        raise MalformedInput("expected a plan id and a round number")
    if set(arrays) != {ARRAYS_KEY}:
        raise MalformedInput("expected arrays as one safetensors document")
    state = unpack_arrays(arrays[ARRAYS_KEY].numpy().tobytes())
    return IncomingTask(kind, plan_id, round_index, state, message)
