"""`server start`: the ports, the registrar and the coordinator, from start to a clean end.

* Ports are taken before anything is begun, so that a second start is one clear error.
* Asked to stop, it answers within seconds: waits end at once, a round that is going on is left for
  the next start, sites are told nothing (they dial again).
* If the ports or the coordinator die, the whole process ends with the reason, not half alive.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType

from audit.errors import FiduciaryError
from server.asgi import Application
from server.coordinator import Coordinator
from server.events import EventLog
from server.federation import CONTROL_HOST, Federation
from server.founding import renew_server_certificate
from server.gate import ControlGate, PartnerGate
from server.listeners import Listeners, ServerTls, bind
from server.metrics import CoordinatorMetrics
from server.progress import Reporter
from server.registrar import Registrar
from server.superlink import SuperLink

WATCH_SECONDS = 0.2
JOIN_SECONDS = 4.0
"""Longer than any wait that notices the stop; a call to a hanging service is not waited for."""


def serve(
    federation: Federation,
    reporter: Reporter,
    stop: threading.Event,
    metrics: CoordinatorMetrics | None = None,
) -> None:
    """Coordinate until `stop` is set.

    Args:
        federation: The federation.
        reporter: Where news goes.
        stop: Set when the coordinator is asked to stop.
        metrics: Shown the coordinator's state, and the bytes at the partner port.

    Raises:
        PortInUse: When a port is taken.
        FiduciaryError: When the ports or the coordinator end by themselves.
    """
    settings = federation.settings
    if renew_server_certificate(federation, datetime.now(UTC)):
        reporter.note("the server's TLS certificate was renewed")
        reporter.event("certificate-renewed")
    token = federation.control_token
    partner_socket = bind(settings.bind, settings.fleet_port, "fleet")
    try:
        control_socket = bind(CONTROL_HOST, settings.control_port, "control")
    except FiduciaryError:
        partner_socket.close()
        raise
    events = EventLog(federation.events)
    link = SuperLink(token, host=CONTROL_HOST, port=settings.control_port)
    registrar = Registrar(federation, link, reporter, stop)
    coordinator = Coordinator(federation, link, registrar, reporter, stop)
    partner: Application = PartnerGate(link.fleet, link, link.mailboxes, link.turns, events)
    if metrics is not None:
        metrics.watch(coordinator.status)
        partner = metrics.metered(partner)
    with Listeners(
        ControlGate(link.application, token, coordinator.status, events),
        partner,
        control_socket=control_socket,
        partner_socket=partner_socket,
        tls=ServerTls(
            certificate=federation.root / "tls/certificate.pem",
            key=federation.root / "tls/key.pem",
            client_ca=federation.root / "ca/certificate.pem",
        ),
        release=link.close,
    ) as listeners:
        reporter.note(
            f"federation {settings.name}: partners at {federation.fleet_address}, "
            f"control at {CONTROL_HOST}:{settings.control_port}"
        )
        reporter.event(
            "coordinator-started",
            fleet_port=settings.fleet_port,
            control_port=settings.control_port,
        )
        registrar.start()
        failure = _Failure()
        work = threading.Thread(
            target=failure.catching(coordinator.run), name="coordinator", daemon=True
        )
        work.start()
        try:
            while not stop.wait(WATCH_SECONDS) and work.is_alive() and listeners.alive:
                pass
        finally:
            asked = stop.is_set()
            stop.set()
            work.join(JOIN_SECONDS)
            registrar.join(JOIN_SECONDS)
        if failure.error is not None:
            raise failure.error
        if not asked:
            raise FiduciaryError("the coordinator ended by itself", fix="start it again")
        reporter.note("stopped")
        reporter.event("coordinator-stopped")


@contextmanager
def stopping_on_signals(stop: threading.Event) -> Iterator[list[int]]:
    """Set `stop` at the first SIGINT or SIGTERM; a second SIGINT interrupts at once.

    Yields:
        The signals that came, filled as they come.
    """
    came: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        came.append(number)
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Failure:
    """Carries an exception from the coordinator's thread to the caller."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def catching(self, run: Callable[[], None]) -> Callable[[], None]:
        def guarded() -> None:
            try:
                run()
            except Exception as error:  # noqa: BLE001 - it is raised again by `serve`
                self.error = error

        return guarded
