"""Serving the application over TLS until told to stop.

* TLS 1.3 only, with the folder's pinned certificate.
* Ctrl-C and SIGTERM let requests in flight finish, for a few seconds, and then end the process
  cleanly: state is in the database, so nothing is lost either way.
* While it serves, retention runs by itself (`compliance.service.retention`).
* The web server's own request log is off: paths hold identifiers.
"""

from __future__ import annotations

import errno
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import uvicorn

from audit.errors import Conflict, FiduciaryError
from compliance.service.app import create_app
from compliance.service.folder import Folder
from compliance.service.registry import Registry
from compliance.service.retention import retention_timer

SHUTDOWN_SECONDS: Final = 3
"""How long requests in flight may take once the service was told to stop."""

KEEP_ALIVE_SECONDS: Final = 30
"""How long an idle connection is kept: clients make several calls in a row."""

MAX_HEADER_BYTES: Final = 32 * 1024

_BACKLOG: Final = 128


def open_socket(host: str, port: int) -> socket.socket:
    """Begin to listen.

    Raises:
        Conflict: When the port is in use.
        FiduciaryError: When the address is not this machine's, or not allowed.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                f"port {port} of {host} is in use",
                fix="stop the other process (is the service running already?), or make a folder"
                " with another --port",
            ) from error
        raise FiduciaryError(
            f"cannot listen on {host} port {port}: {error.strerror}",
            fix="check host and port in compliance.toml",
        ) from error
    return listener


class Listener(uvicorn.Server):
    """The web server. It stops when told to and does not raise the signal again."""

    def __init__(self, registry: Registry, folder: Folder) -> None:
        config = uvicorn.Config(
            create_app(registry),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            ssl_keyfile=folder.tls_key,
            ssl_certfile=folder.certificate,
        )
        config.load()
        if config.ssl is not None:
            config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
        super().__init__(config)
        self.stopped_by: signal.Signals | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Turn SIGINT and SIGTERM into a clean stop while serving."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread gets signals; another one is stopped by `should_exit`
            return
        before = {
            number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self.force_exit = self.stopped_by is not None  # asked twice: wait for nobody
        self.stopped_by = signal.Signals(number)
        self.should_exit = True


def serve(
    registry: Registry, folder: Folder, host: str, port: int, ready: Callable[[], None]
) -> signal.Signals | None:
    """Serve until a signal comes.

    Args:
        registry: What to serve.
        folder: Where the TLS key and certificate are.
        host: Address to listen on.
        port: Port to listen on.
        ready: Called once connections are accepted by the operating system.

    Returns:
        The signal that ended it.

    Raises:
        Conflict: When the port is in use.
    """
    listener = open_socket(host, port)
    server = Listener(registry, folder)
    ready()
    with retention_timer(registry):
        server.run(sockets=[listener])
    return server.stopped_by
