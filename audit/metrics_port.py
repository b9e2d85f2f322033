"""Where Prometheus reads a process: `GET /metrics` in plain HTTP, on loopback alone.

* Off unless the operator names a port. Whoever has an account on the machine can read it, so a
  metric never identifies a person and never counts a site's subjects (docs/monitoring.md).
* A request that names another host than this machine is refused: a web page that somebody opens
  here must not read it through a name that points to 127.0.0.1.
* `prometheus_client` is loaded when a port is opened, not before.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from audit.errors import Conflict, FiduciaryError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

HOST: Final = "127.0.0.1"
PATH: Final = "/metrics"

REQUEST_SECONDS: Final = 10.0
"""How long a caller may take to ask; a connection that says nothing holds a thread no longer."""

APPEND_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
"""From a fast disk to one that is nearly gone."""

_HOSTS: Final = frozenset({"127.0.0.1", "localhost"})


def process_registry(process: str) -> CollectorRegistry:
    """A registry that knows the process: its version, memory, processor time and files.

    Args:
        process: `server`, `client` or `compliance`.
    """
    from prometheus_client import CollectorRegistry, Info
    from prometheus_client.process_collector import ProcessCollector

    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    info = Info("fiduciary_build", "Version of the software and kind of process", registry=registry)
    info.info({"version": version("fiduciary"), "process": process})
    return registry


def log_append_seconds(registry: CollectorRegistry) -> Callable[[float], None]:
    """A histogram of how long it takes to make entries of a log durable; gives what to tell."""
    from prometheus_client import Histogram

    histogram = Histogram(
        "fiduciary_log_append_seconds",
        "Seconds until entries of the log were durable, waiting for others included",
        buckets=APPEND_SECONDS,
        registry=registry,
    )
    return histogram.observe


def retention_runs(registry: CollectorRegistry) -> Callable[[float | None], None]:
    """Counters of retention's runs; gives what to tell: keys destroyed, None for a failure."""
    from prometheus_client import Counter

    runs = Counter(
        "fiduciary_retention_sweeps", "Runs of retention", ["outcome"], registry=registry
    )
    shredded = Counter(
        "fiduciary_retention_shredded_keys", "Data keys that it destroyed", registry=registry
    )
    for outcome in ("done", "failed"):
        runs.labels(outcome)

    def swept(keys: float | None) -> None:
        runs.labels("failed" if keys is None else "done").inc()
        shredded.inc(keys or 0)

    return swept


@contextmanager
def serving_metrics(registry: CollectorRegistry, port: int) -> Iterator[int]:
    """Serve a registry inside the block.

    Args:
        registry: What to serve.
        port: 0 for any free port.

    Yields:
        The port.

    Raises:
        Conflict: When the port is in use.
        FiduciaryError: When it may not be used.
    """
    try:
        server = make_server(
            HOST, port, _application(registry), server_class=_Server, handler_class=_Handler
        )
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                f"the metrics port {HOST}:{port} is in use",
                fix="stop the other process, or give another --metrics-port",
            ) from error
        raise FiduciaryError(
            f"cannot serve metrics on {HOST}:{port}: {error.strerror}",
            fix="give another --metrics-port",
        ) from error
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="metrics", daemon=True
    )
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _application(registry: CollectorRegistry) -> Callable[[dict[str, Any], Any], Iterable[bytes]]:
    from prometheus_client import make_wsgi_app

    metrics = make_wsgi_app(registry)

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if str(environ.get("HTTP_HOST", "")).partition(":")[0] not in _HOSTS:
            return _refuse(start_response, "421 Misdirected Request")
        if environ["PATH_INFO"] != PATH:
            return _refuse(start_response, "404 Not Found")
        try:
            body: Iterable[bytes] = metrics(environ, start_response)
        except Exception:  # noqa: BLE001  its text may quote anything; the scrape is seen to fail
            return _refuse(start_response, "500 Internal Server Error")
        return body

    return answer


def _refuse(start_response: Any, status: str) -> Iterable[bytes]:
    body = f"{status}\n".encode("ascii")
    start_response(status, [("content-type", "text/plain"), ("content-length", str(len(body)))])
    return [body]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a caller that hung up is none of the operator's business."""


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the library's name
        """Say nothing: every scrape would be a line."""
