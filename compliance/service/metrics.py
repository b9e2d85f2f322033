"""What the compliance service counts for Prometheus (docs/monitoring.md lists it).

* Requests are counted by the template of their route, which holds no identifiers; a path that is no
  route, and a method that HTTP does not define, are one label each.
* Gauges are read from the database when somebody asks.
* Of data subjects' requests, what is open and late in the whole federation is counted, and nothing
  by site: at a small one a number says who asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Final, get_args

from sqlalchemy import func, select
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from audit.metrics_port import log_append_seconds, process_registry, retention_runs, serving_metrics
from compliance.rules.breaches import ClockStatus
from compliance.rules.registers import default_law
from compliance.service.breaches import open_clocks
from compliance.service.process_log import event, logger
from compliance.service.registry import Registry
from compliance.service.subject_views import count_urgent
from compliance.service.tables import PlanRow, ReleaseRow, SiteRow
from compliance.service.witnessing import witness_views

if TYPE_CHECKING:
    from prometheus_client.core import Metric

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
NO_ROUTE: Final = "(none)"

REQUEST_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

_CLOSED_WITHOUT_ANSWER: Final = 0


class ServiceMetrics:
    """Counts requests, appends and sweeps; reads the rest from the registry."""

    def __init__(self) -> None:
        from prometheus_client import Counter, Histogram

        self.registry = registry = process_registry("compliance")
        self._requests = Counter(
            "fiduciary_http_requests",
            "Requests by route template and status",
            ["method", "route", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "fiduciary_http_request_seconds",
            "Seconds until an answer was complete",
            ["route"],
            buckets=REQUEST_SECONDS,
            registry=registry,
        )
        self.swept: Callable[[int | None], None] = retention_runs(registry)
        """Told after a run of retention how many keys it destroyed, or None when it failed."""
        self.observe_append: Callable[[float], None] = log_append_seconds(registry)

    def watch(self, registry: Registry) -> Registry:
        """Read gauges from a registry; gives one whose appends are timed."""
        self.registry.register(_State(registry))
        return replace(registry, on_append=self.observe_append)

    def metered(self, application: ASGIApp) -> ASGIApp:
        """The application, with its requests counted."""

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await application(scope, receive, send)
                return
            began, status = time.perf_counter(), _CLOSED_WITHOUT_ANSWER

            async def send_watched(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = int(message["status"])
                await send(message)

            try:
                await application(scope, receive, send_watched)
            finally:
                route = str(getattr(scope.get("route"), "path", NO_ROUTE))
                method = scope["method"] if scope["method"] in METHODS else "other"
                self._requests.labels(method, route, str(status)).inc()
                self._seconds.labels(route).observe(time.perf_counter() - began)

        return answer


@contextmanager
def monitored(
    registry: Registry, port: int | None
) -> Iterator[tuple[Registry, ServiceMetrics | None, int | None]]:
    """Serve metrics inside the block, if a port is given.

    Yields:
        The registry to use, the metrics, and their port.

    Raises:
        Conflict: When the port is in use.
    """
    if port is None:
        yield registry, None, None
        return
    metrics = ServiceMetrics()
    watched = metrics.watch(registry)
    with serving_metrics(metrics.registry, port) as taken:
        logger.info("metrics are served", extra=event("metrics-served", port=taken))
        yield watched, metrics, taken


class _State:
    """The gauges, read when somebody asks."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        with self._registry.reading() as session:
            size = self._registry.storage(session).size()
            plans = session.scalar(select(func.count()).where(PlanRow.state == "submitted"))
            releases = session.scalar(select(func.count()).where(ReleaseRow.state == "candidate"))
            sites = session.scalars(select(SiteRow)).all()
            states = [site.state for site in sites]
            witnesses = witness_views(session, sites)
            clocks = open_clocks(session, default_law(), self._registry.clock())
            still_open, due_soon, overdue = count_urgent(session, self._registry.clock())
        log = GaugeMetricFamily("fiduciary_log_entries", "Entries of the audit log", value=size)
        entries = GaugeMetricFamily(
            "fiduciary_log_witnessed_entries",
            "Entries of the log that a site vouched for last",
            labels=["site"],
        )
        times = GaugeMetricFamily(
            "fiduciary_log_witnessed_timestamp_seconds",
            "When a site vouched for them",
            labels=["site"],
        )
        for view in witnesses:
            site = view.witness.rpartition("/")[2]
            entries.add_metric([site], view.size)
            times.add_metric([site], datetime.fromisoformat(view.cosigned_at).timestamp())
        breaches = GaugeMetricFamily(
            "fiduciary_breaches",
            "Open breaches, by how they stand against the clock of their notification",
            labels=["clock"],
        )
        for status in get_args(ClockStatus):
            breaches.add_metric([status], sum(clock.status == status for _, clock in clocks))
        waiting = GaugeMetricFamily(
            "fiduciary_waiting_decisions", "What waits for an officer", labels=["kind"]
        )
        waiting.add_metric(["plan"], plans or 0)
        waiting.add_metric(["release"], releases or 0)
        registered = GaugeMetricFamily("fiduciary_sites", "Sites by state", labels=["state"])
        for state in ("pending", "approved", "revoked"):
            registered.add_metric([state], states.count(state))
        requests = GaugeMetricFamily(
            "fiduciary_subject_requests",
            "Requests of data subjects that are open, by how their deadlines stand",
            labels=["urgency"],
        )
        for urgency, number in (
            ("in-time", still_open - due_soon - overdue),
            ("due-soon", due_soon),
            ("overdue", overdue),
        ):
            requests.add_metric([urgency], number)
        yield from (log, entries, times, waiting, registered, breaches, requests)
