"""Reading a process's metrics as Prometheus does."""

from __future__ import annotations

import socket

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

PERSONAL_LABELS = frozenset(
    {"subject", "person", "patient", "principal", "user", "token", "address", "plan", "round"}
)


def free_port() -> int:
    """A port that nobody listens on at present."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def scrape(port: int) -> list[Sample]:
    """All samples that a process serves."""
    answer = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=30)
    assert answer.status_code == 200, answer.text
    return [
        sample
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    ]


def value(samples: list[Sample], name: str, **labels: str) -> float | None:
    """The value of one sample; None where there is none."""
    found = [each.value for each in samples if each.name == name and each.labels == labels]
    assert len(found) < 2, name
    return found[0] if found else None


def assert_nothing_personal(samples: list[Sample]) -> None:
    """No label names a person, a plan or a caller, and no metric counts subjects or records."""
    for sample in samples:
        assert not PERSONAL_LABELS & set(sample.labels), sample
        assert not {"subjects", "records", "examples"} & set(sample.name.split("_")), sample
