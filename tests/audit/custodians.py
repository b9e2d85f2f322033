"""Every key manager there is, ready for the suites that all of them must pass."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from audit.key_manager import KeyManager
from audit.key_managers import FILE_SETTINGS, ManagerSettings, open_manager
from audit.vault_settings import VaultSettings
from audit.vault_transit import VaultTransit
from tests.audit import cloud_kms
from tests.audit.openbao import ROOT_TOKEN, find_program, running_openbao
from tests.audit.transit_server import TOKEN, TransitServer

KINDS = ("file", "vault", "cloud-kms", *(("openbao",) if find_program() else ()))
"""OpenBao where it is installed; `test_openbao.py` says so where it is not."""


@dataclass
class Custodian:
    """A key manager by its settings, with a first version.

    Attributes:
        directory: A keyring's folder, for the manager that keeps its key there.
    """

    settings: ManagerSettings
    directory: Path

    def open(self) -> KeyManager:
        return open_manager(self.directory, self.settings)


@contextmanager
def custodian(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Custodian]:
    """A key manager of one kind."""
    keys = folder / "keys"
    keys.mkdir()
    if kind == "file":
        made = Custodian(FILE_SETTINGS, keys)
        made.open().rotate()
        yield made
    elif kind == "vault":
        with TransitServer().running() as server:
            yield transit(server.address, TOKEN, keys)
    elif kind == "openbao":
        with running_openbao() as (address, _):
            yield transit(address, ROOT_TOKEN, keys)
    else:
        cloud_kms.install(folder, monkeypatch)
        table = tomllib.loads(cloud_kms.documented_settings())
        made = Custodian(ManagerSettings.parse(table, "kms.toml"), keys)
        made.open().rotate()
        yield made
        sys.modules.pop("cloud_kms", None)


def transit(address: str, token: str, folder: Path, **options: str | int) -> Custodian:
    """A transit key named `fiduciary-test`, made if there is none."""
    token_file = folder.parent / "token"
    token_file.write_text(token + "\n")
    token_file.chmod(0o600)
    fields: dict[str, str | int] = {
        "address": address,
        "key": "fiduciary-test",
        "token_file": str(token_file),
    }
    settings = VaultSettings.parse(fields | options)
    vault = VaultTransit(settings)
    try:
        vault.create_key(existing=True)
    finally:
        vault.close()
    return Custodian(ManagerSettings("vault", settings.options()), folder)
