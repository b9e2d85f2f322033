"""The embedded SuperLink: sites, runs and messages (`server.superlink` says what it guarantees)."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass

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
    no_object_id_recompute,
)

from audit.errors import MalformedInput
from client.fleet_frames import PUSH_ANSWER
from client.fleet_tasks import TaskKind
from server.asgi import Application, Problem
from server.gate import FLEET
from server.mailboxes import Mailboxes
from server.superlink.application import COORDINATOR, FleetApplication, create_application
from server.superlink.messages import (
    TYPE_OF,
    Answer,
    Lost,
    check_sender,
    loss_of,
    task_content,
    task_for,
    without_content,
)
from server.superlink.stored import StoredReplies, register_trees_atomically
from server.turns import Turns

HEARTBEAT_INTERVAL_SECONDS = 15.0
"""Until a node says otherwise; Flower takes it for lost after twice this."""

REPLY_ALLOWANCE_FACTOR = 4
REPLY_ALLOWANCE_BYTES = 8 * 1024 * 1024
"""A reply may hold this much plus `REPLY_ALLOWANCE_FACTOR` times what an honest one takes."""

PUSH_OBJECT = "push-object"
_ARRIVALS = frozenset({FLEET + PUSH_ANSWER, FLEET + PUSH_OBJECT})


@dataclass
class _Node:
    site: str
    node_id: int
    public_key: bytes
    allowance_bytes: int | None = None
    """What it may still send; None until it is asked something."""


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
        self.fleet: Application = FleetApplication(self._state)
        """Fleet calls alone, for the partner gate."""
        self.mailboxes = Mailboxes()
        self.turns = Turns()
        self._lock = threading.Lock()
        self._nodes: dict[str, _Node] = {}
        self._site_of: dict[bytes, str] = {}
        self._arrived = threading.Condition()
        self._arrivals = 0
        self._arriving: dict[str, str] = {}  # message id to the id of its reply
        self._interrupted: set[str] = set()  # taken by a process that has ended since
        self._replies = StoredReplies(self._state)
        register_trees_atomically(self._state.object_store)

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
                409 for an answer of a site that was asked nothing, 413 when a site sends more than
                its task can need.
        """
        node = self._nodes.get(self.site_of(node_key))
        if node is None:  # let out this very moment
            raise Problem(401, "unknown-site", "this site is not admitted to the federation")
        call = path.removeprefix(FLEET)
        if call == "activate-node":
            self._take_over(node)
        elif call == PUSH_ANSWER:
            check_sender(node.node_id, body)
        if call in (PUSH_ANSWER, PUSH_OBJECT):
            self._check_allowance(node, body)

    def answered(self, path: str, node_key: bytes) -> None:
        """Wake the coordinator when a site has sent something; nobody collects what comes late."""
        if path in _ARRIVALS:
            self._announce()
            if not self._is_asked(node_key):
                self.turns.give(node_key)

    def _is_asked(self, node_key: bytes) -> bool:
        node = self._nodes.get(self._site_of.get(node_key, ""))
        if node is None:
            return False
        with self._state.lock:
            messages = list(self._state.message_ins_store.values())
        return any(message.metadata.dst_node_id == node.node_id for message in messages)

    def _announce(self) -> None:
        with self._arrived:
            self._arrivals += 1
            self._arrived.notify_all()

    def _take_over(self, node: _Node) -> None:
        """A site that was cut off or killed comes back before Flower takes it for lost.

        A long task that was handed to the lost connection and never confirmed is handed out again.
        One that came whole or was confirmed has no taker any more, unless its whole answer is here:
        `collect` says that it is lost, and the round asks again.
        """
        self._state.deactivate_node(node.node_id)
        with self._state.lock:
            for message_id, message in self._state.message_ins_store.items():
                if message.metadata.dst_node_id != node.node_id:
                    continue
                if message_id in self._state.object_store:
                    message.metadata.delivered_at = ""
                else:
                    self._interrupted.add(message_id)
        self.mailboxes.notify(node.public_key)  # so that its first poll is not held

    def _check_allowance(self, node: _Node, body: bytes) -> None:
        with self._lock:
            if node.allowance_bytes is None:
                raise Problem(409, "no-task", "the coordinator waits for no answer of this site")
            node.allowance_bytes -= len(body)
            if node.allowance_bytes < 0:
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
        kind: TaskKind,
        tasks: Mapping[str, dict[str, str | int]],
        arrays: bytes,
        *,
        reply_bytes: int,
    ) -> dict[str, str]:
        """Put a task into each site's mailbox.

        Args:
            run_id: From `open_run`.
            kind: What is asked.
            tasks: For each site, which is registered: `plan_id`, `round`, and the `document` of a
                secure sum.
            arrays: The packed document of what travels of the global state, for every site; none:
                empty.
            reply_bytes: About what an honest answer takes.

        Returns:
            Site to message id, for the sites that Flower took it for.
        """
        # What is the same for several sites is made once.
        contents: dict[tuple[tuple[str, str | int], ...], RecordDict] = {}
        sent: dict[str, str] = {}
        with no_object_id_recompute():
            for site, task in sorted(tasks.items()):
                node = self._nodes.get(site)
                if node is None:
                    continue
                key = tuple(sorted(task.items()))
                content = contents.get(key) or task_content(task, arrays)
                contents[key] = content
                message_id = self._put(run_id, node, TYPE_OF[kind], content)
                if message_id is None:
                    continue
                sent[site] = message_id
                with self._lock:
                    node.allowance_bytes = (
                        REPLY_ALLOWANCE_BYTES + REPLY_ALLOWANCE_FACTOR * reply_bytes
                    )
                self.mailboxes.notify(node.public_key)
        return sent

    def _put(self, run_id: int, node: _Node, message_type: str, content: RecordDict) -> str | None:
        message = task_for(run_id, node.node_id, message_type, content)
        tree, objects = get_object_tree(message), get_all_nested_objects(message)
        session = self._state.start_session(run_id)  # ends with its last object
        # Under the lock no poll finds the message before all of its objects are there.
        with self._state.lock:
            stored, missing = self._state.store_message_and_object_tree(
                without_content(message), tree, session
            )
            if not stored:
                return None
            for object_id in missing:
                self._state.store_object(run_id, session, object_id, objects[object_id].deflate())
        return str(message.metadata.message_id)

    def collect(self, run_id: int, waiting: dict[str, str]) -> dict[str, Answer | Lost]:
        """Take what has arrived; of whole answers one at a time, since each is as large as a model.

        Another one that is there already ends the next `wait_for_arrival` at once.

        Args:
            run_id: From `open_run`.
            waiting: Site to message id, for the sites that have not been settled.

        Returns:
            Site to answer, for the sites that are settled now.
        """
        settled: dict[str, Answer | Lost] = {}
        asked = {message_id: site for site, message_id in waiting.items()}
        for reply in self._replies.replies_to(run_id, set(asked) - set(self._arriving)):
            message_id, reply_id = reply.metadata.reply_to_message_id, reply.metadata.message_id
            if message_id not in asked:
                continue
            if reply.has_error():
                settled[asked[message_id]] = loss_of(reply.error)
                self._forget(message_id, reply_id)
            else:
                self._arriving[message_id] = reply_id
        for message_id in set(asked) & set(self._arriving):
            outcome = self._replies.whole(run_id, self._arriving[message_id])
            if outcome is not None:
                site = asked[message_id]
                settled[site] = outcome
                self._forget(message_id, self._arriving.pop(message_id))
                node = self._nodes.get(site)
                if node is not None:
                    self.turns.give(node.public_key)
            if isinstance(outcome, Answer):
                self._announce()
                break
        for message_id in set(asked) & self._interrupted:
            if asked[message_id] not in settled:
                settled[asked[message_id]] = Lost("it was restarted before it answered", again=True)
                self._forget(message_id, self._arriving.pop(message_id, None))
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
        """Let go of every held call."""
        self.mailboxes.close()
        self.turns.close()

    def _forget(self, message_id: str, reply_id: str | None) -> None:
        self._interrupted.discard(message_id)
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
