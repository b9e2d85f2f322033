"""Logging in by an OpenID provider that runs as a process of its own, over TLS on loopback."""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from audit.errors import Conflict, FiduciaryError, Refused, Unauthorised, Unreachable
from compliance import cli
from compliance.access_views import LoginBegun, NewSession
from compliance.api import ComplianceClient
from compliance.browser_login import log_in
from compliance.service.folder import NewService, create_folder
from tests.compliance.logging_in import PresentClock, Provider, started
from tests.compliance.provider import SECRET, encode
from tests.compliance.running import Clock, RunningService, running

SUBJECT = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"
ROOT = Path(__file__).parents[2]
REDIRECT = "http://127.0.0.1:9/callback"
SETTINGS = """
[oidc]
issuer = "https://127.0.0.1:{port}"
client_id = "fiduciary"
client_secret_file = "keys/oidc-secret"
ca_file = "{ca}"

[[oidc.roles]]
group = "privacy-office"
role = "officer"

[[oidc.roles]]
group = "privacy-north"
role = "officer"
sites = ["north"]

[[oidc.roles]]
group = "privacy-south"
role = "officer"
sites = ["south"]

[[oidc.roles]]
group = "audit"
role = "auditor"
"""


@pytest.fixture(scope="module")
def _process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    with started(tmp_path_factory.mktemp("provider")) as provider:
        yield provider


@pytest.fixture
def provider(_process: Provider) -> Provider:
    """An honest provider, at which nobody is known."""
    _process.mischief()
    _process._write("person.json", {})
    return _process


@pytest.fixture
def service(provider: Provider, tmp_path: Path) -> Iterator[RunningService]:
    folder = tmp_path / "compliance"
    clock = PresentClock()
    create_folder(folder, NewService("127.0.0.1", 8443, "127.0.0.1", "fiduciary.test/log"), clock)
    secret = folder / "keys" / "oidc-secret"
    secret.write_text(SECRET + "\n")
    secret.chmod(0o600)
    with (folder / "compliance.toml").open("a") as file:
        file.write(SETTINGS.format(port=provider.port, ca=provider.folder / "certificate.pem"))
    with running(folder, clock) as started:
        yield started


def begin(client: ComplianceClient) -> tuple[LoginBegun, str]:
    verifier = secrets.token_urlsafe(48)
    challenge = encode(hashlib.sha256(verifier.encode()).digest())
    return client.access.begin_login(redirect_uri=REDIRECT, code_challenge=challenge), verifier


def enter(service: RunningService, provider: Provider) -> NewSession:
    client = service.client()
    begun, verifier = begin(client)
    code = provider.authorize(begun.authorization_url)
    return client.access.finish_login(begun, code=code, code_verifier=verifier)


def test_a_person_logs_in_with_the_real_command_and_a_browser(
    service: RunningService,
    provider: Provider,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    provider.person("Ada.Lovelace", "audit", "choir")
    service.trust.save(tmp_path / "trust.json")
    for name in ("TRUST", "TOKEN_FILE", "COMPLIANCE"):
        monkeypatch.delenv(f"FIDUCIARY_{name}", raising=False)
    monkeypatch.setenv("BROWSER", f"{provider.browser(tmp_path)} %s")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("FIDUCIARY_TRUST", str(tmp_path / "trust.json"))

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["compliance", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return int(str(ended.value.code or 0)), captured.out + captured.err

    logged_in = subprocess.run(
        [sys.executable, "-c", "from compliance.cli import main; main()", "login"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    code, text = logged_in.returncode, logged_in.stdout + logged_in.stderr
    assert code == 0, text
    assert "ada.lovelace" in text
    (kept,) = (tmp_path / "state" / "fiduciary").iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert kept.read_text().strip() not in text
    code, text = run("whoami", "--json")
    assert code == 0, text
    assert json.loads(text)["name"] == "ada.lovelace"
    assert json.loads(text)["roles"] == ["auditor"]
    code, text = run("logout", "--json")
    assert (code, json.loads(text)) == (0, {"ended": True})
    assert not kept.exists()
    assert service.last_entry()[:3] == (
        "ada.lovelace",
        "session.ended",
        "principal:ada.lovelace",
    )
    code, text = run("whoami")
    assert code == 4, text  # nobody is logged in, and there is no other token


def test_an_answer_that_was_not_waited_for_is_not_taken(
    service: RunningService, provider: Provider
) -> None:
    provider.person("ada", "audit")
    answers: list[int] = []

    def show(address: str) -> None:
        redirect = parse_qs(urlsplit(address).query)["redirect_uri"][0]

        def person() -> None:
            with httpx.Client(trust_env=False) as http:
                queries = ("", "?code=x", "?code=x&state=" + "0" * 64, "?error=x&state=")
                strange = [redirect + query for query in queries]
                strange.append(redirect.replace("callback", "other"))
                location = provider.http.get(address).headers["location"]
                answers.extend(http.get(url).status_code for url in (*strange, location))

        threading.Thread(target=person, daemon=True).start()

    session = log_in(service.client(), show, timeout_seconds=60)
    assert session.name == "ada"
    assert answers[:5] == [404] * 5
    with pytest.raises(Refused, match="nobody came back"):
        log_in(service.client(), lambda _: None, timeout_seconds=0.2)


def test_a_refusal_of_the_provider_is_told(service: RunningService, provider: Provider) -> None:
    def show(address: str) -> None:
        location = provider.http.get(address).headers["location"]
        threading.Thread(target=lambda: httpx.get(location, trust_env=False), daemon=True).start()

    with pytest.raises(Refused, match="refused the login: access_denied"):
        log_in(service.client(), show, timeout_seconds=60)


def test_groups_make_roles_for_sites_and_an_officer_confirms_an_officer(
    service: RunningService, provider: Provider
) -> None:
    officer = service.as_("officer")
    provider.person("ada", "privacy-north", "audit")
    session = enter(service, provider)
    assert (session.roles, session.sites, session.confirmed) == (
        ("auditor", "officer"),
        {"officer": ("north",)},
        False,
    )
    ada = service.client(session.token)
    with pytest.raises(Unauthorised, match="second officer"):
        ada.plans()
    officer.access.confirm("ada")
    assert ada.plans() == ()
    view = {principal.name: principal for principal in officer.principals()}["ada"]
    assert (view.created_by, view.confirmed) == ("oidc", True)

    again = enter(service, provider)  # the same groups need no second confirmation
    assert again.confirmed
    provider.person("ada", "privacy-north", "privacy-south")
    wider = enter(service, provider)
    assert (wider.sites, wider.confirmed) == ({"officer": ("north", "south")}, False)
    with pytest.raises(Unauthorised, match="second officer"):
        service.client(again.token).plans()  # an earlier session is no way around it
    provider.person("ada", "audit")
    assert enter(service, provider).confirmed
    assert service.client(again.token).access.identity().roles == ("auditor",)
    provider.person("ada", "privacy-office")
    assert not enter(service, provider).confirmed
    provider.person("ada", "choir")
    with pytest.raises(Unauthorised, match="no group of the provider"):
        enter(service, provider)
    opened = [entry for entry in service.entries() if entry[1] == "session.opened"]
    assert [entry[0] for entry in opened] == ["ada"] * 5
    assert opened[0][3]["sites"] == ["officer@north"]


def test_nobody_becomes_somebody_by_a_name(service: RunningService, provider: Provider) -> None:
    for name in ("officer", "OFFICER"):
        provider.person(name, "privacy-office")
        with pytest.raises(Refused, match="another principal has this name"):
            enter(service, provider)
    provider.person("ada", "audit")
    ada = service.client(enter(service, provider).token)
    provider.person("ada", "audit", subject="another-person")
    with pytest.raises(Refused, match="another principal has this name"):
        enter(service, provider)
    provider.person("eve", "audit")  # the same person under a new name stays who it was
    assert enter(service, provider).name == "ada"
    names: list[Any] = [
        "anonymous",
        "oidc",
        "site:north",
        "\uff41\uff44\uff41",
        "a" * 65,
        "",
        7,
        None,
    ]
    for odd in names:
        provider.person(odd, "audit", subject="third")
        with pytest.raises(Unauthorised, match="the login is not valid"):
            enter(service, provider)
    service.as_("officer").revoke_principal("ada")
    with pytest.raises(Unauthorised, match="not valid"):
        ada.access.identity()
    provider.person("ada", "audit")
    with pytest.raises(Refused, match="was revoked"):
        enter(service, provider)


BAD_TOKENS: dict[str, dict[str, Any]] = {
    "login-token-algorithm": {"unsigned": True, "header": {"alg": "none"}},
    "login-token-algorithm ": {"unsigned": True, "header": {"alg": "nOnE"}},
    "login-token-algorithm  ": {"public_key_as_secret": True},
    "login-token-signature": {"strangers_key": True},
    "login-token-signature ": {"bent": True},
    "login-token-signature  ": {"unsigned": True},
    "login-token-header": {"strangers_key": True, "bring_key": True},
    "login-token-header ": {"header": {"jku": "https://127.0.0.1:9/keys"}},
    "login-token-header  ": {"header": {"typ": "at+jwt"}},
    "login-token-header   ": {"header": {"crit": ["exp"]}},
    "login-token-key": {"header": {"kid": "../../../dev/null"}},
    "login-token-key ": {"header": {"kid": "' OR 1=1 --"}},
    "login-token-form": {"payload": '{"sub": "a", "sub": "b"}'},
    "login-token-form ": {"payload": "[]"},
    "login-issuer": {"claims": {"iss": "https://127.0.0.1:9"}},
    "login-audience": {"claims": {"aud": "another-service"}},
    "login-audience ": {"claims": {"aud": ["fiduciary", "another-service"]}},
    "login-audience  ": {"claims": {"azp": "another-service"}},
    "login-expired": {"claims": {"exp": -120}},
    "login-expired ": {"without": ["exp"]},
    "login-expired  ": {"claims": {"iat": -3600}},
    "login-not-yet-valid": {"claims": {"nbf": 3600}},
    "login-not-yet-valid ": {"claims": {"iat": 3600}},
    "login-replayed": {"claims": {"nonce": "of another login"}},
    "login-replayed ": {"without": ["nonce"]},
    "login-malformed": {"claims": {"sub": ""}},
}


def test_every_token_that_is_not_meant_for_this_login_is_refused_the_same_way(
    service: RunningService, provider: Provider
) -> None:
    provider.person("ada", "audit")
    before = {name: service.tables()[name] for name in ("principals", "sessions", "people")}
    told = set()
    for reason, mischief in BAD_TOKENS.items():
        provider.mischief(**mischief)
        with pytest.raises(Unauthorised) as refused:
            enter(service, provider)
        told.add((str(refused.value), refused.value.fix))
        actor, action, name, payload = service.last_entry()
        assert (actor, action, name) == (
            "anonymous",
            "request.refused",
            "operation:POST /v1/sessions",
        )
        assert payload["reason"] == reason.strip(), mischief
        assert payload["status"] == 401
    assert told == {("the login is not valid", "log in again: `compliance login`")}
    assert {name: service.tables()[name] for name in before} == before
    provider.mischief()
    assert enter(service, provider).name == "ada"


def test_a_token_of_an_earlier_login_is_no_token_of_this_one(
    service: RunningService, provider: Provider
) -> None:
    provider.person("ada", "audit")
    enter(service, provider)
    provider.mischief(replay=True)
    with pytest.raises(Unauthorised, match="the login is not valid"):
        enter(service, provider)
    assert service.last_entry()[3]["reason"] == "login-replayed"


def test_two_keys_of_one_name_are_none(service: RunningService, provider: Provider) -> None:
    provider.person("ada", "audit")
    provider.mischief(twin=True)
    with pytest.raises(Unauthorised):
        enter(service, provider)
    assert service.last_entry()[3]["reason"] == "login-token-key"


def test_a_login_opens_one_session_for_whoever_began_it(
    service: RunningService, provider: Provider
) -> None:
    provider.person("ada", "audit")
    client = service.client()
    begun, verifier = begin(client)
    other, others_verifier = begin(client)
    code = provider.authorize(begun.authorization_url)

    def refused(reason: str, login: LoginBegun, code: str, verifier: str) -> None:
        with pytest.raises(Unauthorised, match="the login is not valid"):
            client.access.finish_login(login, code=code, code_verifier=verifier)
        assert service.last_entry()[3]["reason"] == reason

    body, _, tag = begun.ticket.partition(".")
    refused("login-foreign", begun, code, others_verifier)
    refused("login-foreign", begun.model_copy(update={"state": other.state}), code, verifier)
    forged = begun.model_copy(update={"ticket": f"{body}x.{tag}"})
    refused("login-foreign", forged, code, verifier)
    refused("login-code-refused", begun, "another-code", verifier)
    refused("login-code-refused", other, code, others_verifier)  # and the code is gone
    code = provider.authorize(begun.authorization_url)
    assert client.access.finish_login(begun, code=code, code_verifier=verifier).name == "ada"
    code = provider.authorize(begun.authorization_url)
    refused("login-replayed", begun, code, verifier)
    service.clock.advance(minutes=11)
    refused("login-expired", other, "x", others_verifier)


def test_a_session_ends_by_time_by_logging_out_and_with_its_principal(
    service: RunningService, provider: Provider
) -> None:
    provider.person("ada", "audit")
    first, second = (service.client(enter(service, provider).token) for _ in range(2))
    assert first.plans() == second.plans() == ()
    first.access.log_out()
    with pytest.raises(Unauthorised, match="not valid"):
        first.plans()
    assert second.plans() == ()
    with pytest.raises(Conflict, match="a key, not a session"):
        service.as_("auditor").access.log_out()
    service.clock.advance(minutes=61)
    with pytest.raises(Unauthorised, match="not valid"):
        second.plans()
    assert service.last_entry()[3]["reason"] == "token-expired"


def test_a_rotation_of_keys_is_noticed_at_once_and_not_a_flood_of_questions(
    service: RunningService, provider: Provider
) -> None:
    provider.person("ada", "audit")
    enter(service, provider)
    asked = provider.asked()
    for kind in ("RSA", "EC"):
        service.clock.advance(seconds=31)
        provider.http.get("/rotate", params={"kind": kind})
        assert enter(service, provider).name == "ada"
    assert provider.asked() == asked + 2
    provider.mischief(header={"kid": "unknown"})
    for _ in range(5):
        with pytest.raises(Unauthorised):
            enter(service, provider)
    assert provider.asked() == asked + 2
    provider.mischief()
    assert enter(service, provider).name == "ada"


def test_a_provider_that_lies_about_its_name_or_is_away(
    service: RunningService, provider: Provider
) -> None:
    provider.mischief(issuer="https://127.0.0.1:9")
    with pytest.raises(Unreachable, match="does not answer as it should"):
        begin(service.client())
    provider.mischief()
    begin(service.client())


def test_neither_secrets_nor_the_persons_identifier_are_kept_or_told(
    service: RunningService, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    provider.person("ada", "audit", email="ada@hospital.example", family_name="Lovelace")
    session = enter(service, provider)
    provider.mischief(claims={"aud": "x"})
    with pytest.raises(FiduciaryError) as refused:
        enter(service, provider)
    ours = "\n".join(
        record.getMessage() for record in caplog.records if not record.name.startswith("http")
    )
    kept = str(service.tables()) + str(service.entries()) + str(refused.value) + ours
    for secret in (SUBJECT, SECRET, session.token, "hospital.example", "Lovelace"):
        assert secret not in kept


def test_without_a_provider_there_is_no_login(tmp_path: Path) -> None:
    with (
        running(tmp_path / "compliance", Clock()) as service,
        pytest.raises(Conflict, match="knows no login provider"),
    ):
        begin(service.client())
