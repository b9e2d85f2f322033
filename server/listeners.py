"""The coordinator's two listening ports, served from one thread beside the rounds.

* Both speak TLS 1.3 with the federation's server certificate.
* The partner port asks for a client certificate of the federation's CA. A certificate of anybody
  else fails the handshake; a caller without one is let through to `PartnerGate`, which answers with
  a reason instead of a broken connection.
* Ports are bound before anything else starts, so a port in use is one clear error.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from audit.errors import FiduciaryError, Unreachable
from server.asgi import Application
from server.errors import PortInUse
from server.gate import CLIENT_KEY_STATE

START_SECONDS = 30.0
STOP_SECONDS = 2.0
KEEP_ALIVE_SECONDS = 75
"""Longer than a site's client keeps an idle connection, so that the client closes it first."""

MAX_CONNECTIONS = 2048


@dataclass(frozen=True)
class ServerTls:
    """Where the federation's TLS files are."""

    certificate: Path
    key: Path
    client_ca: Path


class PromptProtocol(HttpToolsProtocol):
    """HTTP/1.1 that does not wait for idle callers to say goodbye when the server stops."""

    def shutdown(self) -> None:
        """Drop an idle connection; let a call in progress end."""
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete:
            self.transport.abort()
        else:
            cycle.keep_alive = False


class CertifiedProtocol(PromptProtocol):
    """HTTP/1.1 that tells the application whose certificate the caller proved."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Put the public key of the caller's certificate into the ASGI state."""
        super().connection_made(transport)
        connection = transport.get_extra_info("ssl_object")
        der = connection.getpeercert(binary_form=True) if connection is not None else None
        key = _public_key(der) if der else None
        self.app_state = {**self.app_state, CLIENT_KEY_STATE: key}


class Listeners:
    """The control and partner listeners; a context manager.

    Args:
        control: Application of the control port, whose ASGI lifespan is run.
        partner: Application of the partner port.
        control_socket: From `bind`.
        partner_socket: From `bind`.
        tls: The federation's TLS files.
        release: Called before stopping, to let go of held calls.
    """

    def __init__(
        self,
        control: Application,
        partner: Application,
        *,
        control_socket: socket.socket,
        partner_socket: socket.socket,
        tls: ServerTls,
        release: Callable[[], None],
    ) -> None:
        self._sockets = (control_socket, partner_socket)
        self._release = release
        self._servers = (
            uvicorn.Server(_configuration(control, tls, clients=False)),
            uvicorn.Server(_configuration(partner, tls, clients=True)),
        )
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="listeners", daemon=True)

    def __enter__(self) -> Listeners:
        self._thread.start()
        for _ in range(int(START_SECONDS / 0.02)):
            if all(server.started for server in self._servers):
                return self
            self._thread.join(0.02)
            if not self._thread.is_alive():
                break
        self.stop()
        raise FiduciaryError(
            f"the listeners did not start: {self._failure or 'no reason given'}",
            fix="run again with FIDUCIARY_DEBUG=1 and report what it prints",
        )

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        """Whether both ports are being served."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop serving; calls in progress get a moment to end."""
        for server in self._servers:
            server.should_exit = True
        self._release()
        if self._thread.is_alive():
            self._thread.join(2 * STOP_SECONDS)
        for listening in self._sockets:
            listening.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except (OSError, RuntimeError, SystemExit) as error:
            self._failure = error

    async def _serve(self) -> None:
        await asyncio.gather(
            *(
                server.serve(sockets=[listening])
                for server, listening in zip(self._servers, self._sockets, strict=True)
            )
        )


def bind(host: str, port: int, purpose: str) -> socket.socket:
    """Take a port.

    Args:
        host: Address to listen on.
        port: 0 for any free port.
        purpose: `fleet` or `control`, for the error message.

    Raises:
        PortInUse: When somebody else has it.
        Unreachable: When this machine has no such address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the protocol is named: 40 ms a call otherwise.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise PortInUse(
                f"the {purpose} port {host}:{port} is taken: {error.strerror}",
                fix=f"stop the other process, or set {purpose}_port in federation.toml",
            ) from error
        raise Unreachable(
            f"cannot listen on {host}:{port}: {error}",
            fix="set an address of this machine in federation.toml",
        ) from error
    return listening


def _configuration(application: Application, tls: ServerTls, *, clients: bool) -> uvicorn.Config:
    def context(_: uvicorn.Config, __: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.minimum_version = ssl.TLSVersion.TLSv1_3
        made.load_cert_chain(tls.certificate, tls.key)
        if clients:
            made.load_verify_locations(cafile=tls.client_ca)
            made.verify_mode = ssl.CERT_OPTIONAL
        return made

    return uvicorn.Config(
        application,
        http=CertifiedProtocol if clients else PromptProtocol,
        ws="none",
        lifespan="off" if clients else "on",
        interface="asgi3",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        ssl_context_factory=context,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(STOP_SECONDS),
    )


def _public_key(certificate: bytes) -> bytes | None:
    try:
        key: Any = x509.load_der_x509_certificate(certificate).public_key()
    except ValueError:
        return None
    return bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
