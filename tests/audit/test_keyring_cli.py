"""`audit keyring` as an operator uses it: output, files, exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from audit import cli
from audit.errors import ExitCode
from audit.key_managers import SETTINGS_FILE
from audit.keyring import Keyring
from tests.audit import cloud_kms
from tests.audit.keyrings import exchange, filled_keyring, read_all
from tests.audit.transit_server import TOKEN, Fault, TransitKey, TransitServer


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Outcome]


@pytest.fixture
def keyring(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["audit", "keyring", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        assert TOKEN not in captured.out + captured.err
        return Outcome(int(caught.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "keyring"


@pytest.fixture
def keys(folder: Path) -> dict[str, bytes]:
    return filled_keyring(folder)


@pytest.fixture
def server() -> Iterator[TransitServer]:
    with TransitServer().running() as running:
        yield running


@pytest.fixture
def vault(server: TransitServer, tmp_path: Path) -> tuple[object, ...]:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    return ("--address", server.address, "--key", "fiduciary-site", "--token-file", token)


def same_keys(folder: Path, keys: dict[str, bytes]) -> bool:
    with Keyring.open(folder) as keyring:
        return read_all(keyring) == keys


def test_show(keyring: Command, folder: Path, keys: dict[str, bytes]) -> None:
    shown = keyring("show", folder, "--json").json
    (version,) = shown["versions"]
    assert (folder / version).exists()
    assert shown == {
        "manager": {"kind": "file"},
        "keys": len(keys),
        "versions": {version: len(keys)},
        "destroyed": 1,
        "unfinished": False,
    }
    text = keyring("show", folder)
    assert text.code == ExitCode.OK
    assert "unfinished  False" in text.out


def test_rotate(keyring: Command, folder: Path, keys: dict[str, bytes]) -> None:
    before = set(keyring("show", folder, "--json").json["versions"])
    outcome = keyring("rotate", folder, "--json")
    assert outcome.code == ExitCode.OK
    assert outcome.json["rewrapped"] == len(keys)
    assert not before & set(outcome.json["versions"])
    assert f"{len(keys)} keys" in keyring("rotate", folder).out
    assert same_keys(folder, keys)


def test_to_vault_and_back(
    keyring: Command, folder: Path, keys: dict[str, bytes], vault: tuple[object, ...]
) -> None:
    moved = keyring("use-vault", folder, *vault, "--json")
    assert moved.code == ExitCode.OK, moved.err
    assert moved.json["manager"]["kind"] == "vault"
    assert moved.json["rewrapped"] == len(keys)
    assert not list(folder.glob("kek-*"))
    assert same_keys(folder, keys)
    assert keyring("rotate", folder).code == ExitCode.OK
    assert keyring("use-vault", folder, *vault, "--timeout-seconds", 3).code == ExitCode.OK
    assert keyring("show", folder, "--json").json["manager"]["timeout_seconds"] == 3
    assert keyring("use-file", folder, "--json").json["manager"] == {"kind": "file"}
    assert same_keys(folder, keys)


def test_an_interrupted_move_is_shown_and_ended(
    keyring: Command,
    folder: Path,
    keys: dict[str, bytes],
    vault: tuple[object, ...],
    server: TransitServer,
) -> None:
    server.faults.append(Fault(500, ("lost",), path="/encrypt/", skip=3))
    failed = keyring("use-vault", folder, *vault)
    assert failed.code == ExitCode.UNEXPECTED
    assert "lost" in failed.err
    assert "fix:" in failed.err
    assert keyring("show", folder, "--json").json["unfinished"] is True
    assert same_keys(folder, keys)
    ended = keyring("use-vault", folder, *vault, "--json")
    assert ended.code == ExitCode.OK, ended.err
    assert ended.json["unfinished"] is False
    assert len(ended.json["versions"]) == 1
    assert same_keys(folder, keys)


def test_a_transit_key_that_exists_is_asked_about(
    keyring: Command,
    folder: Path,
    keys: dict[str, bytes],
    vault: tuple[object, ...],
    server: TransitServer,
) -> None:
    server.keys["fiduciary-site"] = TransitKey("fiduciary-site")
    refused = keyring("use-vault", folder, *vault)
    assert refused.code == ExitCode.CONFLICT
    assert not (folder / SETTINGS_FILE).exists()
    assert keyring("use-vault", folder, *vault, "--existing-key").code == ExitCode.OK
    assert same_keys(folder, keys)


def test_any_installed_manager(
    keyring: Command,
    folder: Path,
    keys: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kms = cloud_kms.install(tmp_path, monkeypatch)
    settings = tmp_path / "kms.toml"
    settings.write_text(cloud_kms.documented_settings())
    kms.refusals.append("AccessDeniedException")
    refused = keyring("use", folder, settings)
    assert refused.code == ExitCode.UNEXPECTED
    assert "AccessDeniedException" in refused.err
    assert keyring("use", folder, settings, "--json").json["manager"]["kind"] == "cloud-kms"
    assert same_keys(folder, keys)


def test_what_is_refused(
    keyring: Command,
    folder: Path,
    keys: dict[str, bytes],
    tmp_path: Path,
    vault: tuple[object, ...],
    server: TransitServer,
) -> None:
    assert keyring("show", tmp_path / "none").code == ExitCode.NOT_FOUND
    assert keyring("rotate", tmp_path / "none").code == ExitCode.NOT_FOUND
    assert keyring("use", folder, tmp_path / "none").code == ExitCode.NOT_FOUND
    settings = tmp_path / "settings.toml"
    for content in ("kind", "kind = 1", 'kind = "vault"\nid = "00000000"', 'kind = "vault"'):
        settings.write_text(content)
        assert keyring("use", folder, settings).code == ExitCode.MALFORMED_INPUT
    assert keyring("use-vault", folder, *vault, "--key", "a/b").code == ExitCode.MALFORMED_INPUT
    http = keyring("use-vault", folder, *vault, "--address", "http://vault.example")
    assert http.code == ExitCode.REFUSED
    assert keyring("use-vault", folder).code == ExitCode.USAGE
    server.sealed = True
    sealed = keyring("use-vault", folder, *vault)
    assert "sealed" in sealed.err
    assert not (folder / SETTINGS_FILE).exists()
    exchange(folder, "key-0", "key-1")
    assert keyring("rotate", folder).code == ExitCode.VERIFICATION_FAILED
