"""How often somebody may call, be refused, and knock: by address and by principal, for a minute."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from compliance.service.folder import Folder, open_registry
from compliance.service.registry import Registry
from compliance.service.throttle import Rates, Throttle, Verdict
from tests.compliance import running as runner
from tests.compliance.running import START, Clock, RunningService, running


@pytest.fixture
def limited(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RunningService]:
    """A service with limits that a test can reach."""

    def opened(folder: Folder, clock: Clock) -> Registry:
        registry = open_registry(folder, clock)
        return dataclasses.replace(registry, rates=Rates(visits=8, knocks=5, calls=6, refusals=3))

    monkeypatch.setattr(runner, "open_registry", opened)
    with running(tmp_path / "compliance", clock) as service:
        yield service


def actions(service: RunningService) -> list[tuple[str, str]]:
    return [entry[:2] for entry in service.entries() if entry[1] != "service.created"][3:]


def test_calls_of_one_principal_do_not_stop_another(limited: RunningService, clock: Clock) -> None:
    busy, calm = (limited.http(limited.token(name)) for name in ("auditor", "officer"))
    answers = [busy.get("/v1/plans") for _ in range(10)]
    assert [answer.status_code for answer in answers] == [200] * 6 + [429] * 4
    assert answers[-1].headers["retry-after"] == "60"
    assert answers[-1].json()["reason"] == "too-many-calls"
    assert calm.get("/v1/plans").status_code == 200
    assert actions(limited) == [("auditor", "request.refused")]  # the log says so once
    clock.advance(minutes=1)
    assert busy.get("/v1/plans").status_code == 200


def test_refusals_of_one_principal_do_not_flood_the_log(
    limited: RunningService, clock: Clock
) -> None:
    http = limited.http(limited.token("auditor"))
    statuses = [http.post("/v1/plans").status_code for _ in range(6)]
    assert statuses == [403] * 3 + [429] * 3
    assert actions(limited) == [("auditor", "request.refused")] * 3 + [
        ("auditor", "attempts.limited")
    ]
    clock.advance(minutes=1)
    assert http.post("/v1/plans").status_code == 403


def test_knocks_and_visits_without_a_token_are_limited_by_address(
    limited: RunningService, clock: Clock
) -> None:
    nobody = limited.http()
    statuses = [nobody.post("/v1/logins", json={}).status_code for _ in range(8)]
    assert statuses == [422] * 5 + [429] * 3
    statuses = [nobody.get("/health").status_code for _ in range(10)]
    assert statuses == [200] * 8 + [429] * 2
    assert limited.http(limited.token("officer")).get("/v1/plans").status_code == 200
    assert [action for _, action in actions(limited)] == ["request.refused"] * 7
    clock.advance(minutes=1)
    assert nobody.get("/health").status_code == 200


def test_the_limits_as_they_are() -> None:
    rates = Rates()
    assert all(rates.called("a", START) is Verdict.ANSWER for _ in range(12_000))
    assert rates.called("a", START) is Verdict.LIMIT_AND_LOG
    assert rates.called("a", START) is Verdict.LIMIT
    assert rates.called("b", START) is Verdict.ANSWER
    assert rates.called("a", START + timedelta(minutes=1)) is Verdict.ANSWER
    assert Throttle().failed("x", START) is Verdict.ANSWER


def test_one_subscriber_of_ipv6_is_one_address() -> None:
    """Whoever has a /64 has 2**64 addresses, and may not try a code from each of them."""
    throttle = Throttle(1, timedelta(minutes=1))
    assert throttle.failed("2001:db8:1:2::3", START) is Verdict.ANSWER
    assert throttle.failed("2001:db8:1:2:ffff::4", START) is Verdict.LIMIT_AND_LOG
    assert throttle.failed("2001:db8:1:3::3", START) is Verdict.ANSWER
    assert throttle.failed("192.0.2.1", START) is Verdict.ANSWER
    assert throttle.failed("::ffff:192.0.2.1", START) is Verdict.LIMIT_AND_LOG
    assert throttle.failed("192.0.2.2", START) is Verdict.ANSWER


def test_every_answer_has_the_security_headers_errors_included(limited: RunningService) -> None:
    token = limited.token("auditor")
    nobody, auditor = limited.http(), limited.http(token)
    answers = {
        200: nobody.get("/health"),
        401: nobody.get("/v1/plans"),
        403: auditor.post("/v1/plans"),
        404: nobody.get("/nowhere"),
        405: nobody.put("/health"),
        422: nobody.post("/v1/logins", content=b"{"),
        429: next(
            answer
            for answer in (auditor.get("/v1/plans") for _ in range(9))
            if answer.status_code == 429
        ),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["strict-transport-security"].startswith("max-age=")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "server" not in answer.headers
