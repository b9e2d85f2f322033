"""Flower's own application with our lock on it, and the short way to its Fleet handlers."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from fastapi import FastAPI
from flwr.common.constant import NOOP_FLWR_AID, TIMESTAMP_HEADER
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2, run_pb2
from flwr.supercore.auth.typing import AccountInfo
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.error import FlowerError
from flwr.supercore.error.catalog import API_ERROR_MAP
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app
from flwr.superlink.servicer.fleet import fleet_handlers
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from client.fleet_frames import PUSH_ANSWER, WHOLE_BYTES, Frames
from client.polling import PULL_TASK
from server.asgi import Problem, Receive, Scope, Send, send_problem
from server.gate import FLEET

logging.getLogger("flwr").setLevel(logging.CRITICAL)

COORDINATOR = "coordinator"
OBJECTS_IN_MEMORY = ":flwr-in-memory:"

SMALL_BODY_BYTES = 256 * 1024
"""Larger ones are hashed and stored in a thread, so that other sites' calls are not held up."""

PIECE_BYTES = 256 * 1024
"""An answer is sent in such pieces, so that a slow site's connection buffers one, not a model."""

SIGNATURES_REMEMBERED = 1024
"""A site signs the time once a minute (`client.fleet_signature`); a check costs a millisecond."""

Handler = Callable[[Any, Any], Any]
Answered = tuple[int, str, list[bytes]]
"""Status, media type, and the body in parts."""


def create_application(control_token: str, host: str, port: int) -> FastAPI:
    """Flower's application, with everything that needs a secret closed."""
    application: FastAPI = create_app(
        SuperLinkLifespanConfig(
            control_address=f"{host}:{port}",
            health_server_address=None,
            host=host,
            port=port,
            insecure=False,
            certificates=None,
            # Nobody knows this secret, so nobody acquires a task over the Runtime interface.
            superexec_auth_secret=secrets.token_bytes(32),
            authn_plugin=_BearerAuthentication(control_token),
            event_log_plugin=None,
            fleet_event_log_plugin=None,
            enable_event_log=False,
            artifact_provider=None,
            enable_supernode_auth=True,
            fleet_api_type="grpc-rere",
            fleet_api_address=None,
            simulation=False,
            ssl_ca_certfile=None,
            ssl_certfile=None,
            ssl_keyfile=None,
            database=OBJECTS_IN_MEMORY,
            isolation="process",
            runtime_dependency_install=False,
        ),
        SuperLinkLifespan,
    )
    return application


class FleetApplication:
    """Answers Fleet calls with Flower's handlers, for nodes whose key signed the call.

    Flower's application passes each call through ten layers of middleware that cost a hundred times
    what the handler does. A message and its objects are one call where Flower makes four or five
    (`client.fleet_frames`). Registration and app bundles are not served at all: keys are registered
    by the coordinator, and no code is shipped.

    Args:
        state: Flower's state.
    """

    def __init__(self, state: Any) -> None:
        self._state = state
        self._last_large = b""

        def with_store(handler: Callable[..., Any]) -> Handler:
            return lambda request, state: handler(
                request=request, state=state, store=state.object_store
            )

        def plain(handler: Callable[..., Any]) -> Handler:
            return lambda request, state: handler(request=request, state=state)

        self._calls: dict[str, tuple[Any, Handler]] = {
            "activate-node": (fleet_pb2.ActivateNodeRequest, plain(fleet_handlers.activate_node)),
            "deactivate-node": (
                fleet_pb2.DeactivateNodeRequest,
                plain(fleet_handlers.deactivate_node),
            ),
            "send-node-heartbeat": (
                heartbeat_pb2.SendNodeHeartbeatRequest,
                plain(fleet_handlers.send_node_heartbeat),
            ),
            "get-run": (run_pb2.GetRunRequest, plain(fleet_handlers.get_run)),
            "push-object": (message_pb2.PushObjectRequest, plain(fleet_handlers.push_object)),
            "pull-object": (message_pb2.PullObjectRequest, plain(fleet_handlers.pull_object)),
            "confirm-message-received": (
                message_pb2.ConfirmMessageReceivedRequest,
                with_store(fleet_handlers.confirm_message_received),
            ),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call; the gate gives the whole body at once."""
        try:
            body = bytes((await receive()).get("body", b""))
            if len(body) > SMALL_BODY_BYTES:
                status, media_type, parts = await asyncio.to_thread(self._answer, scope, body)
            else:
                status, media_type, parts = self._answer(scope, body)
        except Problem as problem:
            await send_problem(send, problem)
            return
        headers = [
            (b"content-type", media_type.encode("ascii")),
            (b"content-length", str(sum(map(len, parts))).encode("ascii")),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for piece in _pieces(parts):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _shared(self, content: bytes) -> bytes:
        """The same bytes once: all sites of a round pull the same model, many at a time."""
        if len(content) > SMALL_BODY_BYTES:
            if content == self._last_large:
                return self._last_large
            self._last_large = content
        return content

    def _answer(self, scope: Scope, body: bytes) -> Answered:
        try:
            parts = self._content(scope, str(scope["path"]).removeprefix(FLEET), body)
            return 200, PROTOBUF_MEDIA_TYPE, [self._shared(part) for part in parts]
        except FlowerError as error:
            known_error = API_ERROR_MAP[error.code]
            content = json.dumps(error.to_json(known_error.public_message)).encode("utf-8")
            return int(known_error.http_status_code), "application/json", [content]
        except DecodeError as error:
            raise Problem(400, "malformed-message", "the body is no Fleet message") from error
        except (ValueError, KeyError, TypeError, IndexError) as error:
            # Flower's handlers take some hostile input for granted.
            raise Problem(400, "malformed-message", "the message cannot be handled") from error

    def _content(self, scope: Scope, call: str, body: bytes) -> list[bytes]:
        """The body of an answer, in parts."""
        if call == PUSH_ANSWER:
            frames = Frames.of(body)
            answer = frames.read(0, fleet_pb2.PushMessagesRequest)
            _authenticate(scope, answer, self._state)
            return self._push_answer(answer, frames).framed
        if call == PULL_TASK:
            poll = fleet_pb2.PullMessagesRequest()
            poll.ParseFromString(body)
            _authenticate(scope, poll, self._state)
            return self._pull_task(poll).framed
        known = self._calls.get(call)
        if known is None:
            raise Problem(404, "not-found", "there is nothing here")
        request_type, handler = known
        request = request_type()
        request.ParseFromString(body)
        _authenticate(scope, request, self._state)
        return [handler(request, self._state).SerializeToString()]

    def _pull_task(self, request: Any) -> Frames:
        """The next task; with its objects, and received, unless it is too long for one body."""
        state = self._state
        response = fleet_handlers.pull_messages(
            request=request, state=state, store=state.object_store
        )
        if not response.messages_list:
            return Frames([response])
        run_id = response.messages_list[0].metadata.run_id
        tree = response.message_object_trees[0]
        object_ids = [part.object_id for part in iterate_object_tree(tree)]
        held = [state.get_object(run_id, object_id) or b"" for object_id in object_ids]
        if not all(held) or sum(map(len, held)) > WHOLE_BYTES:
            return Frames([response])
        objects = [
            fleet_handlers.pull_object(
                request=message_pb2.PullObjectRequest(
                    node=request.node, run_id=run_id, object_id=object_id
                ),
                state=state,
            )
            for object_id in object_ids
        ]
        fleet_handlers.confirm_message_received(
            request=message_pb2.ConfirmMessageReceivedRequest(
                node=request.node, run_id=run_id, message_object_id=tree.object_id
            ),
            state=state,
            store=state.object_store,
        )
        return Frames([response, *objects])

    def _push_answer(self, request: Any, frames: Frames) -> Frames:
        """Take an answer; with its objects, and say whether it is here, when they came with it."""
        state = self._state
        response = fleet_handlers.push_messages(request=request, state=state)
        if len(frames) == 1:
            return Frames([response])
        metadata, missing = request.messages_list[0].metadata, set(response.objects_to_push)
        # The same answer again, since what was said of it was lost on the way, is here already.
        taken = bool(missing) or metadata.message_id in state.object_store
        for index in range(1, len(frames)):
            part = frames.read(index, message_pb2.PushObjectRequest)
            if part.object_id in missing:
                part.node.CopyFrom(request.node)
                part.run_id, part.session_id = metadata.run_id, response.session_id
                taken = fleet_handlers.push_object(request=part, state=state).stored and taken
                missing.discard(part.object_id)
        return Frames([response, message_pb2.PushObjectResponse(stored=taken and not missing)])


def _pieces(parts: Sequence[bytes]) -> Iterator[bytes]:
    """The parts, the small ones together, none longer than `PIECE_BYTES`."""
    small = b""
    for part in parts:
        if len(small) + len(part) <= PIECE_BYTES:
            small += part
            continue
        if small:
            yield small
        small = b""
        for first in range(0, len(part), PIECE_BYTES):
            yield part[first : first + PIECE_BYTES]
    if small:
        yield small


class _BearerAuthentication(NoOpControlAuthnPlugin):  # type: ignore[misc]
    """Control calls carry the coordinator's token; there is no log-in and no refresh.

    The control gate has checked the token already: this is the second lock on the same door.
    """

    def __init__(self, token: str) -> None:
        super().__init__()
        self._token = token.encode("utf-8")

    def get_login_details(self) -> None:
        """No way to log in."""

    def validate_tokens_in_metadata(
        self, metadata: Sequence[tuple[str, str | bytes]]
    ) -> tuple[bool, AccountInfo | None]:
        """Compare the bearer token in constant time."""
        given = next((value for _, value in metadata), "")
        token = given.encode("utf-8") if isinstance(given, str) else given
        if not hmac.compare_digest(token, self._token):
            return False, None
        return True, AccountInfo(flwr_aid=NOOP_FLWR_AID, account_name=COORDINATOR)

    def refresh_tokens(
        self,
        metadata: Sequence[tuple[str, str | bytes]],  # noqa: ARG002 - the interface's name
    ) -> tuple[None, None]:
        """No token is ever handed out."""
        return None, None


@lru_cache(maxsize=SIGNATURES_REMEMBERED)
def _is_genuine(public_key: bytes, signed: bytes, signature: bytes) -> bool:
    """Whether the key made the signature: true for ever or for never, so it is found out once.

    Whose key it is, and whether that site is still let in, is asked at every call.
    """
    return bool(verify_signature(bytes_to_public_key(public_key), signed, signature))


def _authenticate(scope: Scope, message: Any, state: Any) -> None:
    """Refuse a call that the key of the node it names did not sign.

    As Flower's `authenticate_node`, but for the signature's age: the gate has matched the key to
    the certificate of this very TLS connection, which cannot be replayed, and a site whose clock
    jumped is still that site.

    Raises:
        Problem: 401 for any other call.
    """
    headers = {
        key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]
    }
    try:
        public_key = base64.b64decode(headers[FLEET_HTTP_PUBLIC_KEY_HEADER.lower()], validate=True)
        signature = base64.b64decode(headers[FLEET_HTTP_SIGNATURE_HEADER.lower()], validate=True)
        signed = headers[TIMESTAMP_HEADER.lower()].encode("ascii")
        genuine = _is_genuine(public_key, signed, signature)
        if isinstance(message, fleet_pb2.ActivateNodeRequest):
            named = message.public_key == public_key
        else:
            node = message.node if hasattr(message, "node") else message
            named = state.get_node_id_by_public_key(public_key) == node.node_id
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise Problem(401, "node-unknown", "the call carries no signature of a node") from error
    if not (genuine and named):
        raise Problem(401, "node-unknown", "the call is not signed by the node that it names")
