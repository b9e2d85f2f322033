"""What a site's worker counts for Prometheus (docs/monitoring.md lists it).

* Counters grow with the events of `client.event_kinds`; gauges are read from the site's folder when
  somebody asks, through connections of their own, so that no scrape waits for a round.
* Nothing here counts subjects or records: how many were sampled is not covered by any epsilon, and
  metrics travel further than this screen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from audit.metrics_port import (
    HOST,
    PATH,
    log_append_seconds,
    process_registry,
    retention_runs,
    serving_metrics,
)
from audit.process_events import EventField
from client.outbox import Outbox
from client.progress import CountedReporter, Reporter
from client.site import Site
from client.status import BudgetReader, read_witness

if TYPE_CHECKING:
    from prometheus_client.core import Metric

ROUND_SECONDS: Final = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)
"""From a demo's round to the longest deadline that people set."""

_NO_WITNESS: Final[Mapping[str, Any]] = {"size": None, "cosigned_at": None, "alarms": ()}


@contextmanager
def monitored(site: Site, reporter: Reporter, port: int | None) -> Iterator[Reporter]:
    """Serve metrics inside the block, if a port is given.

    Yields:
        The reporter to use, whose events are counted.

    Raises:
        Conflict: When the port is in use.
    """
    if port is None:
        yield reporter
        return
    metrics = SiteMetrics(site.paths.root)
    with serving_metrics(metrics.registry, port) as taken:
        counted = CountedReporter(reporter, metrics)
        counted.say(f"metrics at http://{HOST}:{taken}{PATH}")
        counted.event("metrics-served", port=taken)
        site.journal.on_append = metrics.observe_append
        yield counted


class SiteMetrics:
    """Counts events, and reads the site's folder.

    Call it with an event to count it (`audit.process_events.EventSink`).

    Args:
        folder: The site's folder.
    """

    def __init__(self, folder: Path) -> None:
        from prometheus_client import Counter, Gauge, Histogram

        self.registry = registry = process_registry("client")
        self._connected = Gauge(
            "fiduciary_connected", "Whether the coordinator answers", registry=registry
        )
        self._tasks = Counter(
            "fiduciary_tasks",
            "Tasks by what came of them",
            ["activity", "outcome"],
            registry=registry,
        )
        self._refusals = Counter(
            "fiduciary_refusals", "What this site said no to, by code", ["code"], registry=registry
        )
        self._seconds = Histogram(
            "fiduciary_round_seconds",
            "Seconds of training in a round",
            ["phase"],
            buckets=ROUND_SECONDS,
            registry=registry,
        )
        self._problems = Counter(
            "fiduciary_problems",
            "Answers and connections lost, statements not taken, heads not witnessed",
            ["event"],
            registry=registry,
        )
        self._swept = retention_runs(registry)
        self.observe_append: Callable[[float], None] = log_append_seconds(registry)
        for activity in ("train", "evaluate"):
            for outcome in ("done", "refused"):
                self._tasks.labels(activity, outcome)
        registry.register(_State(folder))

    def __call__(self, name: str, fields: Mapping[str, EventField]) -> None:
        """Count one event."""
        match name:
            case "connected":
                self._connected.set(1)
            case "round-trained":
                self._tasks.labels("train", "done").inc()
                self._seconds.labels(fields["phase"]).observe(float(fields["seconds"]))
            case "round-evaluated":
                self._tasks.labels("evaluate", "done").inc()
            case "task-refused":
                self._tasks.labels(fields["activity"], "refused").inc()
                self._refusals.labels(fields["code"]).inc()
            case "message-refused":
                self._refusals.labels(fields["code"]).inc()
            case "retention-swept":
                self._swept(float(fields["keys"]))
            case "retention-failed":
                self._swept(None)
            case "disconnected":
                self._connected.set(0)
                self._problems.labels(name).inc()
            case "answer-lost" | "statement-rejected" | "witness-failed" | "log-alarm":
                self._problems.labels(name).inc()
            case _:
                pass


class _State:
    """The gauges, read when somebody asks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._budget = BudgetReader()

    def collect(self) -> Iterable[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        with Site.open(self._folder) as site:
            budget, journal = self._budget(site), site.journal.size()
            waiting = len(Outbox(site).files())
            witness = read_witness(site) or _NO_WITNESS
        for name, told, value in (
            (
                "budget_epsilon_spent",
                "Epsilon of every round that was started here, ever",
                budget.get("epsilon_spent"),
            ),
            (
                "budget_epsilon_reserved",
                "By how much the open reservations raise it",
                budget.get("epsilon_reserved"),
            ),
            ("budget_epsilon_limit", "What the policy allows", budget.get("epsilon_limit")),
            ("waiting_statements", "Statements for the compliance service", waiting),
            ("log_entries", "Entries of the site's journal", journal),
            (
                "log_witnessed_entries",
                "Entries of the compliance service's log that this site vouches for",
                witness["size"],
            ),
            (
                "log_witnessed_timestamp_seconds",
                "When it vouched for them",
                _unix_seconds(witness["cosigned_at"]),
            ),
            ("log_alarms", "Alarms that lie in the site's folder", len(witness["alarms"])),
        ):
            family = GaugeMetricFamily(f"fiduciary_{name}", told)
            if value is not None:  # what is not known has no sample
                family.add_metric([], value)
            yield family


def _unix_seconds(time: str | None) -> float | None:
    return None if time is None else datetime.fromisoformat(time).timestamp()
