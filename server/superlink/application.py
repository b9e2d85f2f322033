"""Flower's own application with our lock on it, and the short way to its Fleet handlers."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import secrets
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI, HTTPException
from flwr.common.constant import NOOP_FLWR_AID
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2, run_pb2
from flwr.supercore.auth.typing import AccountInfo
from flwr.supercore.error import FlowerError
from flwr.supercore.error.catalog import API_ERROR_MAP
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app
from flwr.superlink.routers.fleet.node_auth import authenticate_node
from flwr.superlink.servicer.fleet import fleet_handlers
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from server.gate import FLEET, Problem, Receive, Scope, Send, send_problem

logging.getLogger("flwr").setLevel(logging.CRITICAL)

COORDINATOR = "coordinator"
OBJECTS_IN_MEMORY = ":flwr-in-memory:"

SMALL_BODY_BYTES = 256 * 1024
"""Larger ones are hashed and stored in a thread, so that other sites' calls are not held up."""

Handler = Callable[[Any, Any], Any]


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
    """Answers Fleet calls with Flower's handlers and Flower's node authentication.

    Flower's application passes each call through ten layers of middleware that cost a hundred times
    what the handler does, and a round is some thirty calls a site. Registration and app bundles are
    not served at all: keys are registered by the coordinator, and no code is shipped.

    Args:
        flower: Flower's application, for its state.
        state: Flower's state.
    """

    def __init__(self, flower: FastAPI, state: Any) -> None:
        self._flower = flower
        self._state = state

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
            "pull-messages": (
                fleet_pb2.PullMessagesRequest,
                with_store(fleet_handlers.pull_messages),
            ),
            "push-messages": (fleet_pb2.PushMessagesRequest, plain(fleet_handlers.push_messages)),
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
                status, media_type, content = await asyncio.to_thread(self._answer, scope, body)
            else:
                status, media_type, content = self._answer(scope, body)
        except Problem as problem:
            await send_problem(send, problem)
            return
        headers = [
            (b"content-type", media_type.encode("ascii")),
            (b"content-length", str(len(content)).encode("ascii")),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def _answer(self, scope: Scope, body: bytes) -> tuple[int, str, bytes]:
        known = self._calls.get(str(scope["path"]).removeprefix(FLEET))
        if known is None:
            raise Problem(404, "not-found", "there is nothing here")
        request_type, handler = known
        request = request_type()
        try:
            request.ParseFromString(body)
        except DecodeError as error:
            raise Problem(400, "malformed-message", "the body is no Fleet message") from error
        try:
            authenticate_node(_as_flower_sees(scope, request, self._flower))
            return 200, PROTOBUF_MEDIA_TYPE, handler(request, self._state).SerializeToString()
        except HTTPException as error:
            raise Problem(error.status_code, "node-unknown", str(error.detail)) from error
        except FlowerError as error:
            known_error = API_ERROR_MAP[error.code]
            content = json.dumps(error.to_json(known_error.public_message)).encode("utf-8")
            return int(known_error.http_status_code), "application/json", content
        except (ValueError, KeyError, TypeError, IndexError) as error:
            # Flower's handlers take some hostile input for granted.
            raise Problem(400, "malformed-message", "the message cannot be handled") from error


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


def _as_flower_sees(scope: Scope, message: Any, flower: FastAPI) -> Any:
    """The three things that Flower's node authentication reads of a request."""
    headers = {
        key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]
    }
    return SimpleNamespace(
        headers=headers, state=SimpleNamespace(protobuf_request=message), app=flower
    )
