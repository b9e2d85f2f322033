"""Vault as key manager: every failure is said plainly, fails closed, and shows no secret."""

from __future__ import annotations

import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.errors import Conflict, FiduciaryError, MalformedInput, Refused, VerificationFailed
from audit.key_manager import KeyringUnavailable, WrappedKey
from audit.key_managers import open_manager
from audit.vault_settings import VaultSettings
from audit.vault_transit import OPERATORS_TOKEN_FILE, VaultTransit
from compliance.service.certificates import self_signed
from tests.audit.custodians import Custodian, transit
from tests.audit.logs import Clock
from tests.audit.transit_server import TOKEN, Fault, TransitKey, TransitServer

CONTEXT = b"the key of subject a"


@pytest.fixture
def server() -> Iterator[TransitServer]:
    with TransitServer().running() as running:
        yield running


@pytest.fixture
def kept(server: TransitServer, tmp_path: Path) -> Custodian:
    (tmp_path / "keys").mkdir()
    return transit(server.address, TOKEN, tmp_path / "keys", timeout_seconds=1)


@pytest.fixture
def vault(kept: Custodian) -> Iterator[VaultTransit]:
    made = open_manager(kept.directory, kept.settings)
    assert isinstance(made, VaultTransit)
    yield made
    made.close()


def vault_with(kept: Custodian, **options: str | int) -> VaultTransit:
    return VaultTransit.from_options(dict(kept.settings.options) | options)


FAULTS = [
    (Fault(503, ("Vault is sealed",)), "sealed"),
    (Fault(403, ("permission denied",)), "present token"),
    (Fault(401, ("unauthorized",)), "present token"),
    (Fault(404, ("no handler for route",)), "no transit key"),
    (Fault(400, ("something else",)), "something else"),
    (Fault(429, ("rate limited",)), "rate limited"),
    (Fault(500, ("internal error",)), "internal error"),
    (Fault(502, body=b"<html>"), "BadGateway"),
    (Fault(501, ("not initialized",)), "not initialized"),
    (Fault(418, body=b"\xff\x00"), "failed"),
    (Fault(0), "cannot be reached"),
    (Fault(200, body=b"not JSON"), "is not Vault"),
    (Fault(200, body=b"[]"), "is not Vault"),
    (Fault(200, body=b'{"data": null}'), "is not Vault"),
    (Fault(200, body=b'{"data": {"ciphertext": 7, "plaintext": 7}}'), "is not Vault"),
    (Fault(200, body=b'{"data": {"ciphertext": "x", "plaintext": "?"}}'), "is not Vault"),
    (Fault(400, body=b"0"), "is not Vault"),
    (Fault(403, body=b'{"errors": [7]}'), "is not Vault"),
    (Fault(307, location="http://127.0.0.1:9/"), "redirects"),
]


@pytest.mark.parametrize(("fault", "says"), FAULTS, ids=[says for _, says in FAULTS])
@pytest.mark.parametrize("operation", ["encrypt", "decrypt", "rewrap"])
def test_a_failure_is_said_and_nothing_else(
    server: TransitServer, vault: VaultTransit, fault: Fault, says: str, operation: str
) -> None:
    key, wrapped = vault.generate_data_key(CONTEXT)
    before = len(server.requests)
    server.faults.append(fault)
    operations: dict[str, Callable[[], object]] = {
        "encrypt": lambda: vault.wrap(key, CONTEXT),
        "decrypt": lambda: vault.unwrap(wrapped, CONTEXT),
        "rewrap": lambda: vault.rewrap(wrapped, CONTEXT),
    }
    with pytest.raises(KeyringUnavailable) as caught:
        operations[operation]()
    assert says in str(caught.value)
    assert caught.value.fix
    assert TOKEN not in str(caught.value) + caught.value.fix
    assert len(server.requests) == before + 1, "nothing is tried again or sent elsewhere"
    assert vault.unwrap(wrapped, CONTEXT) == key


def test_a_slow_vault_is_given_up(server: TransitServer, vault: VaultTransit) -> None:
    _, wrapped = vault.generate_data_key(CONTEXT)
    late = threading.Event()
    server.faults.append(Fault(200, done=True, wait_for=late))
    with pytest.raises(KeyringUnavailable, match="did not answer in 1 second"):
        vault.unwrap(wrapped, CONTEXT)
    late.set()


def test_a_vault_that_is_not_there(vault: VaultTransit, kept: Custodian) -> None:
    _, wrapped = vault.generate_data_key(CONTEXT)
    elsewhere = vault_with(kept, address="http://127.0.0.1:9")
    with pytest.raises(KeyringUnavailable, match="cannot be reached"):
        elsewhere.unwrap(wrapped, CONTEXT)
    elsewhere.close()


def test_a_certificate_that_nobody_vouches_for(kept: Custodian, tmp_path: Path) -> None:
    key, certificate = self_signed(("127.0.0.1",), Clock()())
    pem = tmp_path / "server.pem"
    pem.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + certificate.public_bytes(Encoding.PEM)
    )
    ca = tmp_path / "ca.pem"
    ca.write_bytes(certificate.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    secure = TransitServer()
    with secure.running(context):
        secure.keys["fiduciary-test"] = TransitKey("fiduciary-test")
        stranger = vault_with(kept, address=secure.address)
        with pytest.raises(KeyringUnavailable, match="not trusted") as caught:
            stranger.generate_data_key(CONTEXT)
        assert "ca_file" in caught.value.fix
        stranger.close()
        assert secure.requests == [], "the token was not sent"
        friend = vault_with(kept, address=secure.address, ca_file=str(ca))
        data_key, wrapped = friend.generate_data_key(CONTEXT)
        assert friend.unwrap(wrapped, CONTEXT) == data_key
        friend.close()


def test_the_environment_decides_nothing(
    server: TransitServer, kept: Custodian, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("VAULT_TOKEN", "another-token")
    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:9")
    vault = vault_with(kept)
    vault.generate_data_key(CONTEXT)
    vault.close()
    assert server.headers[-1]["X-Vault-Token"] == TOKEN


def test_a_renewed_token_is_used_at_once(
    server: TransitServer, vault: VaultTransit, kept: Custodian
) -> None:
    token_file = Path(str(kept.settings.options["token_file"]))
    server.tokens = {"renewed"}
    with pytest.raises(KeyringUnavailable):
        vault.generate_data_key(CONTEXT)
    token_file.write_text("renewed")
    vault.generate_data_key(CONTEXT)


def test_a_token_from_the_environment(kept: Custodian, monkeypatch: pytest.MonkeyPatch) -> None:
    options = dict(kept.settings.options)
    del options["token_file"]
    vault = VaultTransit.from_options(options | {"token_environment": "FIDUCIARY_TEST_TOKEN"})
    with pytest.raises(KeyringUnavailable, match="FIDUCIARY_TEST_TOKEN"):
        vault.generate_data_key(CONTEXT)
    monkeypatch.setenv("FIDUCIARY_TEST_TOKEN", TOKEN)
    vault.generate_data_key(CONTEXT)
    vault.close()


def test_an_operators_token_goes_first(
    server: TransitServer, vault: VaultTransit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operators = tmp_path / "operators-token"
    operators.write_text("of-the-operator")
    operators.chmod(0o600)
    server.tokens = {"of-the-operator"}
    monkeypatch.setenv(OPERATORS_TOKEN_FILE, str(operators))
    vault.generate_data_key(CONTEXT)


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (b"", 0o600, "no Vault token"),
        (b"\n", 0o600, "no Vault token"),
        (b"two\nlines", 0o600, "no Vault token"),
        (b"\xff\xfe", 0o600, "no Vault token"),
        (TOKEN.encode(), 0o644, "everybody"),
        (None, 0, "cannot be read"),
    ],
)
def test_a_token_file_that_will_not_do(
    server: TransitServer,
    vault: VaultTransit,
    kept: Custodian,
    content: bytes | None,
    mode: int,
    says: str,
) -> None:
    token_file = Path(str(kept.settings.options["token_file"]))
    if content is None:
        token_file.unlink()
    else:
        token_file.write_bytes(content)
        token_file.chmod(mode)
    before = len(server.requests)
    with pytest.raises(KeyringUnavailable, match=says) as caught:
        vault.generate_data_key(CONTEXT)
    assert TOKEN not in str(caught.value)
    assert len(server.requests) == before


def test_without_hvac_the_extra_is_named(kept: Custodian, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hvac", None)
    with pytest.raises(KeyringUnavailable) as caught:
        vault_with(kept)
    assert "fiduciary[vault]" in caught.value.fix


def test_the_data_key_does_not_leave_vault_for_a_rewrap(
    server: TransitServer, vault: VaultTransit
) -> None:
    _, wrapped = vault.generate_data_key(CONTEXT)
    vault.rotate()
    vault.rewrap(wrapped, CONTEXT)
    assert server.calls("/decrypt/") == 0


def test_a_key_id_that_lies_about_its_version_refuses(vault: VaultTransit) -> None:
    _, wrapped = vault.generate_data_key(CONTEXT)
    vault.rotate()
    with pytest.raises(VerificationFailed):
        vault.unwrap(WrappedKey("v2", wrapped.data), CONTEXT)


@pytest.mark.parametrize("lost", ["config", "trim", "rotate"])
@pytest.mark.parametrize("done", [True, False])
def test_destruction_that_was_interrupted_is_repeated(
    server: TransitServer, vault: VaultTransit, lost: str, done: bool
) -> None:
    key, wrapped = vault.generate_data_key(CONTEXT)
    server.faults.append(Fault(500, ("lost",), done=done, path=f"/{lost}"))
    with pytest.raises(KeyringUnavailable):
        vault.destroy(wrapped.key_id)
    vault.destroy(wrapped.key_id)
    stored = server.keys["fiduciary-test"]
    assert stored.min_available_version == stored.min_decryption_version == 2
    assert 1 not in stored.versions
    with pytest.raises(KeyringUnavailable):
        vault.unwrap(wrapped, CONTEXT)
    assert vault.wrap(key, CONTEXT).key_id == f"v{stored.latest}"


def test_destruction_takes_nothing_newer(server: TransitServer, vault: VaultTransit) -> None:
    vault.rotate()
    key, wrapped = vault.generate_data_key(CONTEXT)
    vault.rotate()
    vault.destroy("v1")
    assert vault.unwrap(wrapped, CONTEXT) == key
    assert sorted(server.keys["fiduciary-test"].versions) == [2, 3]
    with pytest.raises(MalformedInput):
        vault.destroy("kek-1")


def test_a_foreign_transit_key_is_not_taken(server: TransitServer, kept: Custodian) -> None:
    vault = vault_with(kept, key="of-somebody-else")
    server.keys["of-somebody-else"] = TransitKey("of-somebody-else")
    with pytest.raises(Conflict):
        vault.create_key()
    vault.create_key(existing=True)
    server.keys["of-somebody-else"].exportable = True
    with pytest.raises(Refused, match="exported"):
        vault.create_key(existing=True)
    server.keys["of-somebody-else"] = TransitKey("of-somebody-else", "rsa-2048")
    with pytest.raises(Refused, match="aes256"):
        vault.create_key(existing=True)
    vault.close()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"address": "https://vault.example:8200"},
        {"key": "k", "token_file": "t"},
        {"address": "vault.example", "key": "k", "token_file": "t"},
        {"address": "http://vault.example:8200", "key": "k", "token_file": "t"},
        {"address": "https://user:secret@vault.example", "key": "k", "token_file": "t"},
        {"address": "https://vault.example/v1", "key": "k", "token_file": "t"},
        {"address": "https://vault.example?token=x", "key": "k", "token_file": "t"},
        {"address": "https://vault.example:port", "key": "k", "token_file": "t"},
        {"address": "https://[::1", "key": "k", "token_file": "t"},
        {"address": "https://vault.example", "key": "../sys/seal", "token_file": "t"},
        {"address": "https://vault.example", "key": "a/b", "token_file": "t"},
        {"address": "https://vault.example", "key": "k", "mount": "/", "token_file": "t"},
        {"address": "https://vault.example", "key": "k"},
        {"address": "https://vault.example", "key": "k", "token": "hvs.secret"},
        {
            "address": "https://vault.example",
            "key": "k",
            "token_file": "t",
            "token_environment": "T",
        },
        {"address": "https://vault.example", "key": "k", "token_file": "t", "timeout_seconds": 0},
        {"address": "https://vault.example", "key": "k", "token_file": "t", "timeout_seconds": "9"},
        {"address": "https://vault.example", "key": 7, "token_file": "t"},
    ],
)
def test_settings_that_will_not_do(options: dict[str, str | int]) -> None:
    with pytest.raises(FiduciaryError) as caught:
        VaultTransit.from_options(options)
    assert isinstance(caught.value, MalformedInput | Refused)
    assert "secret" not in str(caught.value)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(body=st.binary(max_size=200), status=st.sampled_from([200, 204, 400, 403, 500, 503, 599]))
def test_no_answer_is_believed_or_crashes(
    server: TransitServer, vault: VaultTransit, body: bytes, status: int
) -> None:
    _, wrapped = vault.generate_data_key(CONTEXT)
    server.faults.append(Fault(status, body=b"" if status == 204 else body))
    with pytest.raises((KeyringUnavailable, VerificationFailed)):
        vault.unwrap(wrapped, CONTEXT)


def test_options_name_what_differs_from_the_default() -> None:
    options: dict[str, str | int] = {
        "address": "https://vault.example:8200",
        "key": "k",
        "token_file": "/run/token",
    }
    assert VaultSettings.parse(options).options() == options
