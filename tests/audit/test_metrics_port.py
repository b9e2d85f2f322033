"""The metrics port: loopback, one path, this machine's names, clear errors."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from audit.errors import Conflict
from audit.metrics_port import process_registry, serving_metrics
from tests.scraping import scrape, value


def get(port: int, path: str = "/metrics", **headers: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{port}{path}", headers=headers, trust_env=False, timeout=30)


def test_it_serves_the_process_and_ends() -> None:
    with serving_metrics(process_registry("server"), 0) as port:
        samples = scrape(port)
        assert [each.labels["process"] for each in samples if each.name == "fiduciary_build_info"]
        assert (value(samples, "process_start_time_seconds") or 0) > 0
        assert get(port, host=f"localhost:{port}").status_code == 200
    assert not [thread for thread in threading.enumerate() if thread.name == "metrics"]
    with pytest.raises(httpx.ConnectError):
        get(port)


def test_other_paths_hosts_and_methods_are_refused() -> None:
    with serving_metrics(process_registry("server"), 0) as port:
        assert get(port, "/").status_code == 404
        assert get(port, "/metrics/x").status_code == 404
        assert get(port, host="attacker.example").status_code == 421
        assert get(port, host="attacker.example:80").status_code == 421
        answer = httpx.post(f"http://127.0.0.1:{port}/metrics", trust_env=False)
        assert answer.status_code == 405


def test_a_port_in_use_is_said_clearly() -> None:
    registry = process_registry("server")
    with (
        serving_metrics(registry, 0) as port,
        pytest.raises(Conflict, match="in use"),
        serving_metrics(registry, port),
    ):
        pass


def test_a_gauge_that_cannot_be_read_is_an_error_without_its_words(
    capfd: pytest.CaptureFixture[str],
) -> None:
    class Broken:
        def collect(self) -> Iterable[Metric]:
            if armed:
                raise OSError("jane-doe-1970")
            return ()

    armed: list[bool] = []
    registry = CollectorRegistry()
    registry.register(Broken())
    armed.append(True)
    with serving_metrics(registry, 0) as port:
        answer = get(port)
    assert answer.status_code == 500
    assert "jane" not in answer.text
    assert "jane" not in "".join(capfd.readouterr())
