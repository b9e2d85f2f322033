"""Serving the application over TLS until told to stop.

* TLS 1.3 only, with the folder's pinned certificate: every caller is a program of this project or a
  browser of after 2018, so what is weaker serves nobody (RFC 9325 §3.1.1 lets a new service refuse
  1.2; its cipher suites and renegotiation are then no question).
* One connection, and one address, get no more than `compliance.service.connections` says.
* Sites show their certificate (`compliance.service.site_certificates`).
* Ctrl-C and SIGTERM let requests in flight finish, for a few seconds, and then end the process
  cleanly: state is in the database, so nothing is lost either way.
* While it serves, retention runs by itself (`compliance.service.retention`), the clocks of breaches
  are looked at (`compliance.service.breaches`), and subjects' requests are chased
  (`compliance.service.subject_chasing`).
* The web server's own request log is off: paths hold identifiers. So are its warnings, of which
  anybody can cause any number.
"""

from __future__ import annotations

import errno
import logging
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import uvicorn

from audit.errors import Conflict, FiduciaryError
from compliance.service.app import create_app
from compliance.service.breaches import breach_watch
from compliance.service.connections import (
    MAX_HEAD_BYTES,
    BoundedProtocol,
    LimitedSocket,
    PatientLoop,
)
from compliance.service.folder import Folder
from compliance.service.last_use import saving
from compliance.service.metrics import ServiceMetrics
from compliance.service.registry import Registry
from compliance.service.retention import retention_timer
from compliance.service.site_certificates import accept_site_certificates
from compliance.service.subject_chasing import chase_timer

SHUTDOWN_SECONDS: Final = 3
"""How long requests in flight may take once the service was told to stop."""

KEEP_ALIVE_SECONDS: Final = 30
"""How long an idle connection is kept: clients make several calls in a row."""

SWITCH_SECONDS: Final = 0.0005
"""How long a thread computes while another one wants to. Python's own 5 ms are the length of whole
calls: a change that holds the writers' lock would wait so long after each answer of its database,
and every other change with it."""

_BACKLOG: Final = 128

_LOOP: Final = f"{PatientLoop.__module__}:{PatientLoop.__name__}"


def open_socket(host: str, port: int) -> socket.socket:
    """Begin to listen.

    Raises:
        Conflict: When the port is in use.
        FiduciaryError: When the address is not this machine's, or not allowed.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = LimitedSocket(family, socket.SOCK_STREAM)
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

    def __init__(
        self, registry: Registry, folder: Folder, metrics: ServiceMetrics | None = None
    ) -> None:
        application = create_app(registry)
        config = uvicorn.Config(
            application if metrics is None else metrics.metered(application),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,
            http=BoundedProtocol,
            loop=_LOOP,
            log_level=logging.ERROR,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            ssl_keyfile=folder.tls_key,
            ssl_certfile=folder.certificate,
        )
        config.load()
        if config.ssl is not None:
            config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
        accept_site_certificates(config, registry)
        super().__init__(config)
        self.stopped_by: signal.Signals | None = None

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to stop."""
        sys.setswitchinterval(SWITCH_SECONDS)
        super().run(sockets)

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
    registry: Registry,
    folder: Folder,
    host: str,
    port: int,
    ready: Callable[[], None],
    metrics: ServiceMetrics | None = None,
) -> signal.Signals | None:
    """Serve until a signal comes.

    Args:
        registry: What to serve.
        folder: Where the TLS key and certificate are.
        host: Address to listen on.
        port: Port to listen on.
        ready: Called once connections are accepted by the operating system.
        metrics: Counts requests and runs of retention.

    Returns:
        The signal that ended it.

    Raises:
        Conflict: When the port is in use.
    """
    listener = open_socket(host, port)
    server = Listener(registry, folder, metrics)
    ready()
    swept = None if metrics is None else metrics.swept
    with (
        retention_timer(registry, swept),
        breach_watch(registry),
        saving(registry.last_uses, registry.database),
        chase_timer(registry),
    ):
        server.run(sockets=[listener])
    return server.stopped_by
