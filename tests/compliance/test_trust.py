"""`trust.json` is read strictly, and it alone decides whom a client believes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from audit.errors import MalformedInput, NotFound, Unauthorised, Unreachable
from compliance.api import ComplianceClient
from compliance.trust import MAX_TRUST_BYTES, Trust
from tests.compliance.running import Clock, RunningService, running


def test_it_survives_its_file(service: RunningService, tmp_path: Path) -> None:
    path = tmp_path / "trust.json"
    service.trust.save(path)
    assert Trust.load(path) == service.trust
    assert service.trust.fingerprint.startswith("sha256:")


def test_what_is_no_trust_file(service: RunningService, tmp_path: Path) -> None:
    path = tmp_path / "trust.json"
    with pytest.raises(NotFound, match="no trust file"):
        Trust.load(path)
    good: dict[str, Any] = dict(service.trust.to_json())
    cases: list[tuple[object, str]] = [
        ([], "expected an object"),
        ({**good, "format": "fiduciary.trust/2"}, "format"),
        ({**good, "extra": "x"}, "unknown field"),
        ({name: value for name, value in good.items() if name != "origin"}, "origin: missing"),
        ({**good, "origin": 7}, "origin: expected text"),
        ({**good, "url": "http://127.0.0.1:1"}, "url: expected https"),
        ({**good, "certificate": "none"}, "certificate: not a PEM"),
        ({**good, "release_key": "AAAA"}, "release_key: expected 32 bytes"),
        ({**good, "release_key": "?"}, "release_key: not base64"),
        ({**good, "log_key": "x"}, "verifier key"),
    ]
    for document, reason in cases:
        path.write_text(json.dumps(document))
        with pytest.raises(MalformedInput, match=reason):
            Trust.load(path)
    path.write_text("{")
    with pytest.raises(MalformedInput, match="not JSON"):
        Trust.load(path)
    path.write_text(" " * (MAX_TRUST_BYTES + 1))
    with pytest.raises(MalformedInput, match="larger"):
        Trust.load(path)


def test_another_services_certificate_is_not_believed(
    service: RunningService, tmp_path: Path, clock: Clock
) -> None:
    with running(tmp_path / "other", clock) as other:
        mixed = Trust.from_json({**service.trust.to_json(), "url": other.trust.url})
        with (
            ComplianceClient(mixed) as client,
            pytest.raises(Unreachable, match="another certificate"),
        ):
            client.health()


def test_nobody_there(service: RunningService) -> None:
    gone = Trust.from_json({**service.trust.to_json(), "url": "https://127.0.0.1:9"})
    with ComplianceClient(gone) as client, pytest.raises(Unreachable, match="did not answer") as it:
        client.health()
    assert "compliance start" in it.value.fix


def test_the_environment_cannot_redirect_a_client(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")
    assert service.client().health() == {"status": "ok"}


def test_identifiers_cannot_change_the_path(service: RunningService) -> None:
    for name in ("../principals", "..", "a/b", "a?state=x", ""):
        with pytest.raises(MalformedInput, match="identifier"):
            service.as_("officer").plan(name)


def test_an_error_never_shows_the_token(service: RunningService) -> None:
    token = "this-is-a-secret-token"
    with pytest.raises(Unauthorised) as caught:
        service.client(token).plans()
    assert token not in str(caught.value) + caught.value.fix + repr(caught.value)
