"""What the coordinator counts for Prometheus (docs/monitoring.md lists it).

* Counters grow with the events of `server.event_kinds`; gauges are read from the coordinator when
  somebody asks.
* Labels are names of admitted sites and words of short lists. Plans, rounds and what a caller sends
  are never labels: their number has no bound.
* Nothing is known here that tells how many subjects or records a site has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from audit.metrics_port import process_registry
from audit.process_events import EventField
from server.asgi import Application, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from prometheus_client.core import Metric

ROUND_SECONDS: Final = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)
"""From a demo's round to the longest deadline that people set."""

Status = Callable[[], dict[str, Any]]
"""`Coordinator.status`."""

_OUTCOMES: Final[Mapping[str, str]] = {
    "round-finished": "finished",
    "round-missed": "missed",
    "round-failed": "failed",
}


class CoordinatorMetrics:
    """Counts events, and reads the coordinator's state.

    Call it with an event to count it (`audit.process_events.EventSink`).
    """

    def __init__(self) -> None:
        from prometheus_client import Counter, Histogram

        self.registry = registry = process_registry("server")
        self._rounds = Counter(
            "fiduciary_rounds", "Rounds by how they ended", ["outcome"], registry=registry
        )
        self._seconds = Histogram(
            "fiduciary_round_seconds",
            "Seconds of a finished round",
            ["phase"],
            buckets=ROUND_SECONDS,
            registry=registry,
        )
        self._answers = Counter(
            "fiduciary_answers",
            "What was asked of sites, by what came of it: accepted, or why it is absent",
            ["activity", "site", "outcome"],
            registry=registry,
        )
        self._runs = Counter(
            "fiduciary_runs", "Runs by their verdict", ["verdict"], registry=registry
        )
        self._troubles = Counter(
            "fiduciary_troubles", "What must be mended, by code", ["code"], registry=registry
        )
        self._received = Counter(
            "fiduciary_fleet_received_bytes", "Bodies from partners", registry=registry
        )
        self._sent = Counter("fiduciary_fleet_sent_bytes", "Bodies to partners", registry=registry)
        self._epsilon: dict[str, float] = {}
        for outcome in _OUTCOMES.values():
            self._rounds.labels(outcome)
        self._status: Status | None = None
        registry.register(_State(self))

    def watch(self, status: Status) -> None:
        """Read the state from here when somebody asks."""
        self._status = status

    @property
    def state(self) -> dict[str, Any] | None:
        """What the coordinator says of itself; None before it began."""
        return None if self._status is None else self._status()

    @property
    def epsilon(self) -> dict[str, float]:
        """What sites reported of the plan that is going on, or went on last."""
        return dict(self._epsilon)

    def __call__(self, name: str, fields: Mapping[str, EventField]) -> None:
        """Count one event."""
        if name in _OUTCOMES:
            self._rounds.labels(_OUTCOMES[name]).inc()
        match name:
            case "round-finished":
                self._seconds.labels(fields["phase"]).observe(float(fields["seconds"]))
            case "answer-accepted":
                self._answers.labels(fields["activity"], fields["site"], "accepted").inc()
            case "site-absent":
                self._answers.labels(fields["activity"], fields["site"], fields["code"]).inc()
            case "run-started":
                self._epsilon = {}
            case "epsilon-reported":
                self._epsilon = {**self._epsilon, str(fields["site"]): float(fields["epsilon"])}
            case "run-ended":
                self._runs.labels(fields["verdict"]).inc()
            case "trouble":
                self._troubles.labels(fields["code"]).inc()
            case _:
                pass

    def metered(self, application: Application) -> Application:
        """The application of the partner port, with its bodies counted."""

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            async def receive_counted() -> Message:
                message = await receive()
                self._received.inc(len(message.get("body", b"")))
                return message

            async def send_counted(message: Message) -> None:
                self._sent.inc(len(message.get("body", b"")))
                await send(message)

            await application(scope, receive_counted, send_counted)

        return answer


class _State:
    """The gauges, read when somebody asks."""

    def __init__(self, metrics: CoordinatorMetrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        state = self._metrics.state
        online = GaugeMetricFamily(
            "fiduciary_site_online", "Whether an admitted site is connected", labels=["site"]
        )
        epsilon = GaugeMetricFamily(
            "fiduciary_site_epsilon_spent",
            "What a site reported that it spent of the last plan's epsilon",
            labels=["site"],
        )
        for site, is_online in (state["sites"] if state else {}).items():
            online.add_metric([site], float(is_online))
        for site, spent in self._metrics.epsilon.items():
            epsilon.add_metric([site], spent)
        run = state["run"] if state else None
        yield online
        yield epsilon
        for name, told, value in (
            ("run_active", "Whether a run is going on", 0 if run is None else 1),
            ("run_rounds", "Rounds of the run that is going on", run["rounds"] if run else 0),
            ("run_round", "Finished rounds of that run", run["round"] if run else 0),
            (
                "run_round_elapsed_seconds",
                "How long the present round has gone on",
                run["round_seconds"] if run else 0,
            ),
            (
                "run_epsilon_promised",
                "The epsilon that the plan of that run promises",
                float(run["epsilon_promised"]) if run else 0,
            ),
            (
                "compliance_reachable",
                "Whether the compliance service answered last",
                float(state is not None and state["compliance"] == "reachable"),
            ),
        ):
            yield GaugeMetricFamily(f"fiduciary_{name}", told, value=value)
