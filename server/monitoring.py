"""The coordinator's metrics port, beside its work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from audit.metrics_port import HOST, PATH, serving_metrics
from server.metrics import CoordinatorMetrics
from server.progress import CountedReporter, Reporter


@contextmanager
def monitored(
    reporter: Reporter, port: int | None
) -> Iterator[tuple[Reporter, CoordinatorMetrics | None]]:
    """Serve metrics inside the block, if a port is given.

    Yields:
        The reporter to use, whose events are counted, and the metrics.

    Raises:
        Conflict: When the port is in use.
    """
    if port is None:
        yield reporter, None
        return
    metrics = CoordinatorMetrics()
    with serving_metrics(metrics.registry, port) as taken:
        counted = CountedReporter(reporter, metrics)
        counted.note(f"metrics at http://{HOST}:{taken}{PATH}")
        counted.event("metrics-served", port=taken)
        yield counted, metrics
