"""The site's end of the Flower Fleet protocol: in this process, and never any shipped code.

What this adapter guarantees:

* It runs nothing that the coordinator sends. A task is a kind, a plan id, a round number, a JSON
  document and arrays; a message that is anything else is answered with a refusal and handed to
  `on_malformed`.
* Flower's app bundles are never requested. The first message of a run makes it ask once what the
  run is; a task of a run that names a bundle, or that names one itself, says so
  (`IncomingTask.names_bundle`), and the worker refuses it.
* The connection is TLS 1.3 in both directions: the server must hold a certificate of the
  federation's CA, and the site proves its node key both to TLS and to Flower (P-384 signatures).
* Arrays travel as one safetensors document (`client.fleet_content`), so that their digest
  (`arrays_digest`) is well defined and reading them executes nothing.
* A site that waits is idle: the partner listener holds a poll until a task is there, and against a
  server that does not, polls back off from 50 ms to 1 s.

Flower's internals change without notice. On the site's side they are used in this module and
in the modules `client.fleet_*` only.
"""

from __future__ import annotations

import os

# Flower reads these when it is imported: no telemetry, no update check, no banner.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flwr.app import Message, RecordDict
from flwr.common.serde import message_from_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.inflatable.inflatable_object import (
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from audit.errors import FiduciaryError, MalformedInput, Unauthorised, Unreachable
from client.arrays import Arrays
from client.fleet_client import FleetClient, WaitHeader
from client.fleet_frames import Frames
from client.fleet_signature import NodeSignature
from client.fleet_tasks import (
    BUNDLE_PREFIX,
    IncomingTask,
    answer_content,
    document_content,
    refusal_content,
    task_of,
)
from client.fleet_tls import ConnectionLost, load_node_key, mutual_tls
from client.fleet_transfer import Transfer
from client.polling import MAX_WAIT_SECONDS

logging.getLogger("flwr").setLevel(logging.ERROR)

HEARTBEAT_SECONDS = 5.0
"""How often a site says that it is there, also while it trains."""

HEARTBEAT_PROMISE_SECONDS = 15
"""What it promises; Flower takes it for lost after twice this."""

REQUEST_TIMEOUT_SECONDS = 60.0
RESEND_PAUSES_SECONDS = (0.2, 1.0, 3.0)
FIRST_BACKOFF_SECONDS = 0.05
LAST_BACKOFF_SECONDS = 1.0

MAX_RUNS_REMEMBERED = 1000
"""A coordinator that opens runs without end must not fill this site's memory; it is asked again."""


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
        self._on_malformed = on_malformed
        self._key = load_node_key(node_key)
        self._public_key = public_key_to_bytes(self._key.public_key())
        self._wait = WaitHeader()
        self._client = FleetClient(
            f"https://{address}",
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeSignature(self._key),
                self._wait,
            ],
            verify=mutual_tls(ca_certificate, client_certificate, node_key),
            timeout=REQUEST_TIMEOUT_SECONDS,
        )
        self._transfer = Transfer(self._client, address)
        self._node: Node | None = None
        self._stop = threading.Event()
        self._heartbeat = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._backoff_seconds = FIRST_BACKOFF_SECONDS
        self._expect_more = True
        self._bundled_runs: dict[int, bool] = {}

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
                self._transfer.call(self._client.DeactivateNode, request)
        self._client.close()

    def poll(self, wait_seconds: float = 1.0) -> IncomingTask | None:
        """The next task, waiting for one at most `wait_seconds`.

        Args:
            wait_seconds: 0 to `MAX_WAIT_SECONDS`.
        """
        started = time.monotonic()
        node = self._activated()
        self._wait.seconds = min(wait_seconds, MAX_WAIT_SECONDS)
        try:
            frames = self._transfer.call(self._client.pull_task, PullMessagesRequest(node=node))
            response = self._transfer.read_frame(frames, 0, PullMessagesResponse)
        except (Unauthorised, Unreachable):
            self._node = None  # The next poll introduces the site again.
            raise
        finally:
            self._wait.seconds = 0.0
        if not response.messages_list:
            held = time.monotonic() - started >= FIRST_BACKOFF_SECONDS
            # After a task another one may be there already: that poll is no reason to slow down.
            if not held and not self._expect_more and wait_seconds > 0:
                self._stop.wait(min(self._backoff_seconds, wait_seconds))
                self._backoff_seconds = min(2 * self._backoff_seconds, LAST_BACKOFF_SECONDS)
            self._expect_more = False
            return None
        self._expect_more = True
        self._backoff_seconds = FIRST_BACKOFF_SECONDS
        message = message_from_proto(response.messages_list[0])
        return self._read(message, response.message_object_trees[0], frames)

    def reply_arrays(self, task: IncomingTask, arrays: Arrays, report: Mapping[str, Any]) -> bool:
        """Answer a task.

        Args:
            task: The task that this answers.
            arrays: For `train` the update = local state - global state of what the phase trains, as
                `client.transport` encodes it; for `evaluate` the counts of `Evaluation.to_arrays`.
            report: `site`: the site's name; `statement`: its signed `SiteReport`, as the JSON
                object of `SignedStatement.to_json()` or its text.

        Returns:
            Whether the coordinator took it: False when the round is over.
        """
        return self._send(task.message, answer_content(task, arrays, report))

    def reply_document(self, task: IncomingTask, document: str) -> bool:
        """Answer a step of a secure sum.

        Args:
            task: The task that this answers.
            document: JSON, at most `MAX_DOCUMENT_BYTES`.

        Returns:
            Whether the coordinator took it.
        """
        return self._send(task.message, document_content(document))

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
        return self._send(task.message, refusal_content(code, reason, statement))

    # --- the protocol --------------------------------------------------------------------------

    def _activated(self) -> Node:
        if self._node is None:
            request = ActivateNodeRequest(
                public_key=self._public_key, heartbeat_interval=HEARTBEAT_PROMISE_SECONDS
            )
            self._node = Node(
                node_id=self._transfer.call(self._client.ActivateNode, request).node_id
            )
            self._expect_more = True
        return self._node

    def _read(self, message: Message, tree: Any, frames: Frames) -> IncomingTask | None:
        bundled = self._names_bundle(message.metadata.run_id)
        object_ids = [part.object_id for part in iterate_object_tree(tree)]
        contents = (
            self._transfer.objects_of(object_ids, frames)
            if len(frames) > 1
            else self._transfer.pull_objects(self._activated(), message.metadata.run_id, object_ids)
        )
        if contents is None:
            self._malformed(message, "the coordinator did not send all of its message")
            return None
        try:
            whole = inflate_object_from_contents(tree.object_id, contents)
            return task_of(message, whole, bundled=bundled)
        except MalformedInput as error:
            self._malformed(message, str(error))
        except Exception as error:  # noqa: BLE001 - Flower's readers raise anything on hostile bytes
            self._malformed(message, f"unreadable message ({type(error).__name__})")
        return None

    def _names_bundle(self, run_id: int) -> bool:
        """Whether a run names an app bundle; the coordinator is asked once a run.

        What it answers about another run, or about none, counts as a bundle: it does not say that
        there is none.
        """
        known = self._bundled_runs.get(run_id)
        if known is not None:
            return known
        request = GetRunRequest(node=self._activated(), run_id=run_id)
        response = self._transfer.call(self._client.GetRun, request)
        run = response.run
        plain = response.HasField("run") and run.run_id == run_id
        named = not plain or any(name.startswith(BUNDLE_PREFIX) for name in _stated(run))
        if len(self._bundled_runs) >= MAX_RUNS_REMEMBERED:
            self._bundled_runs.clear()
        self._bundled_runs[run_id] = named
        return named

    def _malformed(self, message: Message, reason: str) -> None:
        if self._on_malformed is not None:
            self._on_malformed("malformed-task", reason)
        self._send(message, refusal_content("malformed-task", reason, ""))

    def _send(self, message: Message, content: RecordDict) -> bool:
        with no_object_id_recompute():  # each id is a digest of the whole content
            reply = Message(content, reply_to=message)
            reply.metadata.__dict__["_message_id"] = reply.object_id
            for pause_seconds in RESEND_PAUSES_SECONDS:
                try:
                    return self._transfer.push(self._activated(), reply)
                except ConnectionLost:
                    # What was trained is spent: it is worth another try. Flower takes the same
                    # message again and asks for what it does not have yet.
                    self._stop.wait(pause_seconds)
            return self._transfer.push(self._activated(), reply)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            node = self._node
            if node is None:
                continue
            request = SendNodeHeartbeatRequest(
                node=node, heartbeat_interval=HEARTBEAT_PROMISE_SECONDS
            )
            try:
                self._transfer.call(self._client.SendNodeHeartbeat, request)
            except FiduciaryError:
                continue  # The next poll meets the same trouble and reports it.


def _stated(document: Any) -> list[str]:
    """Names of the fields that a protobuf message states."""
    return [descriptor.name for descriptor, _ in document.ListFields()]
