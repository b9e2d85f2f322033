"""A keyring in a real OpenBao, under the policies that the documentation prints.

Skipped where the program `bao` is not on the PATH; `test_key_manager_contract.py` then leaves out
its OpenBao cases too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from audit.key_manager import KeyDestroyed, KeyringUnavailable
from audit.key_managers import ManagerSettings, open_manager
from audit.keyring import Keyring
from audit.vault_settings import VaultSettings
from audit.vault_transit import OPERATORS_TOKEN_FILE, VaultTransit
from tests.audit.keyrings import filled_keyring, read_all
from tests.audit.openbao import MISSING, find_program, running_openbao

pytestmark = pytest.mark.skipif(find_program() is None, reason=MISSING)

PAGE = Path(__file__).parents[2] / "docs" / "key-management.md"


@pytest.fixture(scope="module")
def openbao() -> Iterator[tuple[str, Any]]:
    with running_openbao() as running:
        yield running


@pytest.fixture
def tokens(openbao: tuple[str, Any], tmp_path: Path) -> dict[str, Path]:
    """Files with a token for each policy of the documentation."""
    _, client = openbao
    page = PAGE.read_text("utf-8")
    files = {}
    for name, policy in re.findall(r"```hcl\n# (\w+)\n(.*?)```", page, re.DOTALL):
        client.sys.create_or_update_policy(name=name, policy=policy)
        token = client.auth.token.create(policies=[name], no_default_policy=True)
        files[name] = tmp_path / f"token-of-{name}"
        files[name].write_text(token["auth"]["client_token"])
        files[name].chmod(0o600)
    assert set(files) == {"service", "operator"}
    return files


def test_the_documented_policies_are_enough_and_not_too_much(
    openbao: tuple[str, Any],
    tokens: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, client = openbao
    folder = tmp_path / "keyring"
    keys = filled_keyring(folder)
    vault = VaultSettings(address, "fiduciary-st-elm", token_file=str(tokens["service"]))
    settings = ManagerSettings("vault", vault.options())

    monkeypatch.setenv(OPERATORS_TOKEN_FILE, str(tokens["operator"]))
    operator = VaultTransit(vault)
    operator.create_key()
    operator.close()
    with Keyring.open(folder) as keyring:
        assert keyring.move(settings) == len(keys)
    monkeypatch.delenv(OPERATORS_TOKEN_FILE)

    with Keyring.open(folder) as service:
        assert read_all(service) == keys
        keys["data new"] = service.generate_data_key("new")
        with pytest.raises(KeyringUnavailable, match="does not allow"):
            service.rotate()
        service.destroy("key-0")
        del keys["data key-0"]
        old = tmp_path / "old"
        old.mkdir()
        for path in folder.iterdir():
            (old / path.name).write_bytes(path.read_bytes())

        monkeypatch.setenv(OPERATORS_TOKEN_FILE, str(tokens["operator"]))
        with Keyring.open(folder) as keyring:
            assert keyring.rotate() == len(keys)
            assert keyring.status().retiring == ()
        monkeypatch.delenv(OPERATORS_TOKEN_FILE)

        assert read_all(service) == keys
        with pytest.raises(KeyDestroyed):
            service.data_key("key-0")
    with Keyring.open(folder) as again:
        assert read_all(again) == keys
    with Keyring.open(old) as copy:
        for name in copy.names():
            with pytest.raises(KeyringUnavailable, match="no such version"):
                copy.data_key(name)
    stored = client.secrets.transit.read_key("fiduciary-st-elm")["data"]
    assert stored["min_available_version"] == stored["latest_version"]

    other = VaultSettings(address, "of-another-keyring", token_file=str(tokens["service"]))
    stranger = open_manager(folder, ManagerSettings("vault", other.options()))
    with pytest.raises(KeyringUnavailable, match="does not allow"):
        stranger.generate_data_key(b"")
    stranger.close()


def test_a_service_never_makes_a_lost_key_anew(
    openbao: tuple[str, Any], tokens: dict[str, Path], tmp_path: Path
) -> None:
    address, client = openbao
    transit = client.secrets.transit
    transit.create_key("fiduciary-st-elm")
    transit.update_key_configuration("fiduciary-st-elm", deletion_allowed=True)
    transit.delete_key("fiduciary-st-elm")
    vault = VaultSettings(address, "fiduciary-st-elm", token_file=str(tokens["service"]))
    manager = open_manager(tmp_path, ManagerSettings("vault", vault.options()))
    with pytest.raises(KeyringUnavailable):
        manager.generate_data_key(b"")
    manager.close()


def test_a_sealed_server_is_said_to_be_sealed(tmp_path: Path) -> None:
    with running_openbao() as (address, client):
        token = tmp_path / "root"
        token.write_text(client.token)
        token.chmod(0o600)
        vault = VaultTransit(VaultSettings(address, "k", token_file=str(token)))
        vault.create_key()
        _, wrapped = vault.generate_data_key(b"")
        client.sys.seal()
        with pytest.raises(KeyringUnavailable, match="sealed"):
            vault.unwrap(wrapped, b"")
        vault.close()
