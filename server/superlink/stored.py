"""Replies as Flower's state stores them: which are here, whole or lost."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from flwr.app import Message
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.object_store import NoObjectInStoreError

from audit.errors import FiduciaryError
from server.superlink.messages import Answer, Lost, answer_of


class StoredReplies:
    """Reads replies of sites.

    Args:
        state: Flower's state of messages and objects.
    """

    def __init__(self, state: Any) -> None:
        self._state = state

    def replies_to(self, run_id: int, message_ids: set[str]) -> list[Message]:
        """What came to messages, or why nothing will; nothing while both are open.

        Flower takes a message for lost when its site has gone, also when the whole answer is here.
        """
        state, here = self._state, []
        with state.lock:
            for message_id in message_ids:
                reply_id = state.message_ins_id_to_message_res_id.get(message_id)
                reply = state.message_res_store.get(reply_id)
                if reply is not None and not reply.has_error() and self._is_here(reply_id):
                    here.append(reply)
        open_ids = message_ids - {reply.metadata.reply_to_message_id for reply in here}
        if open_ids:
            here += state.get_message_res(message_ids=open_ids, run_id=run_id)
        return here

    def _is_here(self, reply_id: str) -> bool:
        store = self._state.object_store
        try:
            tree = store.get_object_tree(reply_id)
        except NoObjectInStoreError:
            return False
        return all(store.get(part.object_id) for part in iterate_object_tree(tree))

    def whole(self, run_id: int, reply_id: str) -> Answer | Lost | None:
        """A reply, or why there will be none; None while not all of it is here."""
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


def register_trees_atomically(store: Any) -> None:
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
