"""The embedded SuperLink: sites, runs and messages (`server.superlink` says what it guarantees)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import wraps
from typing import Any

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from flwr.app import RecordDict
from flwr.common.constant import NOOP_FLWR_AID, SubStatus
from flwr.supercore.constant import NOOP_FEDERATION_ID, NodeStatus, TaskType
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.object_store import NoObjectInStoreError

from audit.errors import FiduciaryError, MalformedInput
from server.gate import FLEET, Application, Mailboxes, Problem
from server.superlink.application import COORDINATOR, FleetApplication, create_application
from server.superlink.messages import (
    Answer,
    Lost,
    TaskKind,
    answer_of,
    check_sender,
    loss_of,
    task_content,
    task_for,
    without_content,
)

HEARTBEAT_INTERVAL_SECONDS = 15.0
"""Until a node says otherwise; Flower takes it for lost after twice this."""

REPLY_ALLOWANCE_FACTOR = 4
REPLY_ALLOWANCE_BYTES = 8 * 1024 * 1024
"""A reply may hold this much plus `REPLY_ALLOWANCE_FACTOR` times what the site was sent."""

_ARRIVALS = frozenset({FLEET + "push-messages", FLEET + "push-object"})


@dataclass
class _Node:
    site: str
    node_id: int
    public_key: bytes
    allowance_bytes: int = 0


class SuperLink:
    """The embedded SuperLink: an ASGI application and the messages behind it.

    Args:
        control_token: Bearer token of the Control interface.
        host: Loopback address of the Control listener.
        port: Its port.
    """

    def __init__(self, control_token: str, *, host: str = "127.0.0.1", port: int = 0) -> None:
        flower = create_application(control_token, host, port)
        self._state = flower.state.linkstate_factory.state()
        self.application: Application = flower
        """Flower's whole application, for the control gate."""
        self.fleet: Application = FleetApplication(flower, self._state)
        """Fleet calls alone, for the partner gate."""
        self.mailboxes = Mailboxes()
        self._lock = threading.Lock()
        self._nodes: dict[str, _Node] = {}
        self._site_of: dict[bytes, str] = {}
        self._arrived = threading.Condition()
        self._arrivals = 0
        self._arriving: dict[str, str] = {}  # message id to the id of its reply
        _register_trees_atomically(self._state.object_store)

    # --- sites ---------------------------------------------------------------------------------

    def register(self, site: str, node_key: str) -> None:
        """Let a site's node key in; a site that has another key already is let out first.

        Args:
            site: The site's name.
            node_key: Its P-384 public key, PEM.
        """
        public_key = _normal_form(node_key)
        known = self._nodes.get(site)
        if known is not None:
            if known.public_key == public_key:
                return
            self.unregister(site)
        node_id = self._state.create_node(
            NOOP_FLWR_AID, COORDINATOR, public_key, HEARTBEAT_INTERVAL_SECONDS, name=site
        )
        with self._lock:
            self._nodes[site] = _Node(site, node_id, public_key)
            self._site_of[public_key] = site

    def unregister(self, site: str) -> None:
        """Let a site out at once: its next call is refused."""
        with self._lock:
            node = self._nodes.pop(site, None)
            if node is None:
                return
            self._site_of.pop(node.public_key, None)
        self._state.deactivate_node(node.node_id)
        self._state.delete_node(NOOP_FLWR_AID, node.node_id)
        # Flower remembers the key of a deleted node for ever; the same site may be admitted again.
        with self._state.lock:
            self._state.node_public_key_to_node_id.pop(node.public_key, None)
        self.mailboxes.notify(node.public_key)

    def registered(self) -> set[str]:
        """Sites whose keys are let in."""
        return set(self._nodes)

    def online(self) -> set[str]:
        """Sites that have given a sign of life lately."""
        nodes = self._state.get_node_info(statuses=[NodeStatus.ONLINE])
        online = {node.node_id for node in nodes}
        return {site for site, node in list(self._nodes.items()) if node.node_id in online}

    # --- what the partner gate asks --------------------------------------------------------------

    def site_of(self, node_key: bytes) -> str:
        """The site that a key belongs to.

        Raises:
            Problem: 401 when no site is let in with it.
        """
        site = self._site_of.get(node_key)
        if site is None:
            raise Problem(401, "unknown-site", "this site is not admitted to the federation")
        return site

    def check(self, path: str, node_key: bytes, body: bytes) -> None:
        """Refuse what Flower would accept from an authenticated site and must not.

        Raises:
            Problem: 401 for a key that is not admitted, 403 for a message in another site's name,
                413 when a site sends more than its task can need.
        """
        node = self._nodes.get(self.site_of(node_key))
        if node is None:  # let out this very moment
            raise Problem(401, "unknown-site", "this site is not admitted to the federation")
        match path.removeprefix(FLEET):
            case "activate-node":
                self._take_over(node)
            case "push-messages":
                check_sender(node.node_id, body)
            case "push-object":
                self._check_allowance(node, body)

    def answered(self, path: str) -> None:
        """Wake the coordinator when a site has sent something."""
        if path in _ARRIVALS:
            with self._arrived:
                self._arrivals += 1
                self._arrived.notify_all()

    def _take_over(self, node: _Node) -> None:
        """A site that was cut off or killed comes back before Flower takes it for lost.

        A task that was handed to the lost connection and never confirmed is handed out again.
        """
        self._state.deactivate_node(node.node_id)
        with self._state.lock:
            for message_id, message in self._state.message_ins_store.items():
                unconfirmed = message_id in self._state.object_store
                if message.metadata.dst_node_id == node.node_id and unconfirmed:
                    message.metadata.delivered_at = ""

    def _check_allowance(self, node: _Node, body: bytes) -> None:
        with self._lock:
            node.allowance_bytes -= len(body)
            exhausted = node.allowance_bytes < 0
        if exhausted:
            raise Problem(413, "reply-too-large", "the reply is larger than its task can need")

    # --- runs and messages -----------------------------------------------------------------------

    def open_run(self) -> int:
        """Begin a run and return Flower's number for it."""
        run_id = self._state.create_run(
            None, None, None, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        task_id = self._state.get_run_info(run_ids=[run_id])[0].primary_task_id
        token = self._state.claim_task(task_id)
        self._state.activate_task(task_id)
        # The token lets its holder speak for the run over HTTP, and expires unless renewed.
        with self._state.lock_task_store:
            self._state.task_token_store.pop(task_id, None)
            self._state.task_token_to_task_id.pop(token, None)
        return int(run_id)

    def close_run(self, run_id: int, *, completed: bool) -> None:
        """End a run and forget its messages and objects."""
        task_id = self._state.get_run_info(run_ids=[run_id])[0].primary_task_id
        self._state.finish_task(task_id, SubStatus.COMPLETED if completed else SubStatus.FAILED, "")
        self._state.cleanup_run(run_id)

    def send(
        self,
        run_id: int,
        sites: Collection[str],
        kind: TaskKind,
        task: dict[str, str | int],
        arrays: bytes,
    ) -> dict[str, str]:
        """Put one task into each site's mailbox.

        Args:
            run_id: From `open_run`.
            sites: Registered sites.
            kind: `train` or `evaluate`.
            task: `plan_id` and `round`.
            arrays: `client.arrays.pack_arrays` of the global state.

        Returns:
            Site to message id, for the sites that Flower took it for.
        """
        content = task_content(task, arrays)
        sent: dict[str, str] = {}
        with no_object_id_recompute():
            for site in sorted(sites):
                node = self._nodes.get(site)
                message_id = None if node is None else self._put(run_id, node, kind, content)
                if node is None or message_id is None:
                    continue
                sent[site] = message_id
                with self._lock:
                    node.allowance_bytes = REPLY_ALLOWANCE_BYTES + REPLY_ALLOWANCE_FACTOR * len(
                        arrays
                    )
                self.mailboxes.notify(node.public_key)
        return sent

    def _put(self, run_id: int, node: _Node, kind: TaskKind, content: RecordDict) -> str | None:
        message = task_for(run_id, node.node_id, kind, content)
        objects = get_all_nested_objects(message)
        session = self._state.start_session(run_id)  # ends with its last object
        stored, missing = self._state.store_message_and_object_tree(
            without_content(message), get_object_tree(message), session
        )
        if not stored:
            return None
        for object_id in missing:
            self._state.store_object(run_id, session, object_id, objects[object_id].deflate())
        return str(message.metadata.message_id)

    def collect(self, run_id: int, waiting: dict[str, str]) -> dict[str, Answer | Lost]:
        """Take what has arrived.

        Args:
            run_id: From `open_run`.
            waiting: Site to message id, for the sites that have not been settled.

        Returns:
            Site to answer, for the sites that are settled now.
        """
        settled: dict[str, Answer | Lost] = {}
        asked = {message_id: site for site, message_id in waiting.items()}
        new = set(asked) - set(self._arriving)
        if new:
            for reply in self._state.get_message_res(message_ids=set(new), run_id=run_id):
                metadata = reply.metadata
                if metadata.reply_to_message_id not in asked:
                    continue
                if reply.has_error():
                    site = asked[metadata.reply_to_message_id]
                    settled[site] = loss_of(reply.error)
                    self._forget(metadata.reply_to_message_id, metadata.message_id)
                else:
                    self._arriving[metadata.reply_to_message_id] = metadata.message_id
        for message_id in set(asked) & set(self._arriving):
            outcome = self._whole(run_id, self._arriving[message_id])
            if outcome is not None:
                settled[asked[message_id]] = outcome
                self._forget(message_id, self._arriving.pop(message_id))
        return settled

    def discard(self, message_ids: Collection[str]) -> None:
        """Forget tasks that nobody will wait for any more; a later reply finds no taker."""
        for message_id in message_ids:
            self._forget(message_id, self._arriving.pop(message_id, None))

    def wait_for_arrival(self, seconds: float) -> None:
        """Sleep until a site has sent something, at most `seconds`."""
        with self._arrived:
            if self._arrivals == 0:
                self._arrived.wait(seconds)
            self._arrivals = 0

    def close(self) -> None:
        """Let go of every held poll."""
        self.mailboxes.close()

    def _whole(self, run_id: int, reply_id: str) -> Answer | Lost | None:
        contents: dict[str, bytes] = {}
        try:
            tree = self._state.object_store.get_object_tree(reply_id)
        except NoObjectInStoreError:
            return Lost("its reply was not sent completely")
        for part in iterate_object_tree(tree):
            content = self._state.get_object(run_id, part.object_id)
            if content is None:
                return Lost("its reply was not sent completely")
            if not content:
                return None
            contents[part.object_id] = content
        try:
            return answer_of(inflate_object_from_contents(tree.object_id, contents).content)
        except FiduciaryError as error:
            return Lost(f"its reply cannot be read: {error}")
        except Exception as error:  # noqa: BLE001 - Flower's readers raise anything on hostile bytes
            return Lost(f"its reply cannot be read ({type(error).__name__})")

    def _forget(self, message_id: str, reply_id: str | None) -> None:
        self._state.delete_messages({message_id})
        self._state.object_store.delete(message_id)
        if reply_id is not None:
            self._state.object_store.delete(reply_id)


def _normal_form(node_key: str) -> bytes:
    try:
        key = load_pem_public_key(node_key.encode("utf-8"))
    except ValueError as error:
        raise MalformedInput("malformed node key: not a PEM public key") from error
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _register_trees_atomically(store: Any) -> None:
    """Keep two sites' equal objects from vanishing under each other.

    Flower's in-memory store registers a tree object by object and counts a child only when it comes
    to the parent, so a tree that shares a child with one that is being deleted can lose it.
    """
    register: Callable[[int, Any], list[str]] = store.preregister

    @wraps(register)
    def preregister(run_id: int, object_tree: Any) -> list[str]:
        with store.lock_store:
            return register(run_id, object_tree)

    store.preregister = preregister
