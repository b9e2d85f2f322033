"""Which key manager a folder names: settings, installed managers, keys in memory."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.errors import FiduciaryError, MalformedInput
from audit.file_key_manager import FileKeyManager
from audit.key_cache import KeyCache
from audit.key_manager import KeyDestroyed, KeyringUnavailable, WrappedKey
from audit.key_managers import (
    FILE_SETTINGS,
    SETTINGS_FILE,
    KeyManagers,
    ManagerSettings,
    open_manager,
)
from audit.keyring import Keyring
from audit.leaf import Leaf
from audit.log import open_payload, subject_key_name
from audit.verifier import verify_log
from tests.audit import cloud_kms
from tests.audit.custodians import transit
from tests.audit.keyrings import filled_keyring, read_all
from tests.audit.logs import ORIGIN, Site, entry
from tests.audit.transit_server import TOKEN, TransitServer

GOOD = """\
format = "fiduciary.key-manager/1"

[manager]
kind = "vault"
id = "0123abcd"
cache_seconds = 0
address = "https://vault.example:8200"
key = "fiduciary-st-elm"
token_file = "/run/token"

[[previous]]
kind = "file"
"""


@pytest.fixture
def server() -> Iterator[TransitServer]:
    with TransitServer().running() as running:
        yield running


def test_without_a_file_it_is_the_file_manager(tmp_path: Path) -> None:
    assert KeyManagers(tmp_path).settings == (FILE_SETTINGS,)


def test_settings_are_read(tmp_path: Path) -> None:
    (tmp_path / SETTINGS_FILE).write_text(GOOD)
    vault, file = KeyManagers(tmp_path).settings
    assert (vault.kind, vault.id, vault.cache_seconds) == ("vault", "0123abcd", 0)
    assert vault.options["address"] == "https://vault.example:8200"
    assert file == FILE_SETTINGS


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("key-manager/1", "key-manager/2"),
        ("[manager]", "[managers]"),
        ('kind = "vault"', "kind = 7"),
        ('kind = "vault"', 'kind = "os:system"'),
        ('kind = "vault"\n', ""),
        ('id = "0123abcd"', 'id = "0123ABCD"'),
        ('id = "0123abcd"', 'id = ""'),
        ('id = "0123abcd"\n', ""),
        ("cache_seconds = 0", "cache_seconds = -1"),
        ("cache_seconds = 0", "cache_seconds = true"),
        ("cache_seconds = 0", "cache_seconds = 1e9"),
        ("cache_seconds = 0", "cache_seconds = 86401"),
        ('"/run/token"', '["/run/token"]'),
        ('"/run/token"', '"a\\nb"'),
        ('kind = "file"', 'kind = "file"\nkey = "x"'),
        ('kind = "file"', 'kind = "vault"\nid = "0123abcd"'),
        ("[[previous]]", "[previous]"),
        ('kind = "file"\n', 'kind = "file"\n[[more]]\n'),
        ("format", "\x00"),
    ],
)
def test_settings_that_are_none(tmp_path: Path, old: str, new: str) -> None:
    assert old in GOOD
    (tmp_path / SETTINGS_FILE).write_text(GOOD.replace(old, new))
    with pytest.raises(MalformedInput):
        _ = KeyManagers(tmp_path).settings


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, len(GOOD) - 1), byte=st.binary(min_size=1, max_size=3))
def test_broken_settings_are_read_or_refused(tmp_path: Path, position: int, byte: bytes) -> None:
    content = GOOD.encode()
    (tmp_path / SETTINGS_FILE).write_bytes(content[:position] + byte + content[position + 1 :])
    try:
        found = KeyManagers(tmp_path).settings
        open_manager(tmp_path, found[0]).close()
    except FiduciaryError:
        return
    assert found


@settings(deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(
            lambda name: name not in {"kind", "id", "cache_seconds"}
        ),
        st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text().filter(str.isprintable),
        max_size=5,
    )
)
def test_what_is_written_is_read(options: dict[str, str | int]) -> None:
    with tempfile.TemporaryDirectory() as name:
        managers = KeyManagers(Path(name))
        settings = ManagerSettings("installed", options)
        managers._write((settings, FILE_SETTINGS))
        assert managers.settings == KeyManagers(Path(name)).settings == (settings, FILE_SETTINGS)


def test_a_manager_that_is_not_installed(tmp_path: Path) -> None:
    with pytest.raises(KeyringUnavailable, match="hospital-hsm") as caught:
        open_manager(tmp_path, ManagerSettings("hospital-hsm"))
    assert "fiduciary.key_managers" in caught.value.fix


def test_a_row_of_a_manager_that_is_not_named(tmp_path: Path) -> None:
    with pytest.raises(KeyringUnavailable, match="no key manager with the id 0123abcd"):
        KeyManagers(tmp_path).unwrap(WrappedKey("0123abcd:v1", b""), b"")


def test_a_damaged_key_encryption_key(tmp_path: Path) -> None:
    manager = FileKeyManager(tmp_path)
    (tmp_path / manager.rotate()).write_bytes(b"short")
    with pytest.raises(KeyringUnavailable, match="5 bytes"):
        manager.generate_data_key(b"")


def test_a_key_id_is_not_a_path(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(32))
    (tmp_path / "keys").mkdir()
    manager = FileKeyManager(tmp_path / "keys")
    with pytest.raises(KeyringUnavailable):
        manager.unwrap(WrappedKey("../secret", bytes(60)), b"")
    manager.destroy("../secret")
    assert (tmp_path / "secret").exists()


def test_files_of_one_version_each(tmp_path: Path) -> None:
    manager = FileKeyManager(tmp_path)
    made = [manager.rotate() for _ in range(12)]
    assert manager.versions() == made
    manager.destroy(made[9])
    assert manager.versions() == made[10:]
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in tmp_path.iterdir())


# The example of the documentation, as an operator uses it.


def test_the_documented_manager_keeps_a_keyring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kms = cloud_kms.install(tmp_path, monkeypatch)
    keys = filled_keyring(tmp_path / "keyring")
    settings = ManagerSettings.parse(tomllib.loads(cloud_kms.documented_settings()), "kms.toml")
    with Keyring.open(tmp_path / "keyring") as keyring:
        assert keyring.move(settings) == len(keys)
        assert keyring.rotate() == len(keys)
        assert read_all(keyring) == keys
        assert [key.state for key in kms.keys.values()].count("Enabled") == 1
        kms.offline = True
        with pytest.raises(KeyringUnavailable, match="EndpointConnectionError"):
            keyring.generate_data_key("new")
        kms.offline = False
        kms.refusals.append("AccessDeniedException")
        with pytest.raises(KeyringUnavailable, match="AccessDeniedException"):
            keyring.generate_data_key("new")
        assert len(keyring.generate_data_key("new")) == 32


# Keys in memory.


def test_vault_is_asked_once_for_each_key(server: TransitServer, tmp_path: Path) -> None:
    filled_keyring(tmp_path / "keyring")
    settings = transit(server.address, TOKEN, tmp_path / "keyring").settings
    with Keyring.open(tmp_path / "keyring") as keyring:
        keyring.move(settings)
        server.requests.clear()
        for _ in range(10):
            keyring.generate_data_key("new")
            keyring.data_key("key-0")
        assert (server.calls("/encrypt/"), server.calls("/decrypt/")) == (1, 1)
        server.sealed = True
        keyring.data_key("key-0")
        with pytest.raises(KeyringUnavailable):
            keyring.data_key("key-1")
        with pytest.raises(KeyringUnavailable):
            keyring.generate_data_key("newer")
        assert keyring.destroy("key-1") is True, "forgetting does not wait for Vault"
        with pytest.raises(KeyDestroyed):
            keyring.data_key("key-1")


def test_a_key_destroyed_elsewhere_is_gone_from_memory_at_once(tmp_path: Path) -> None:
    filled_keyring(tmp_path / "keyring")
    with Keyring.open(tmp_path / "keyring") as one, Keyring.open(tmp_path / "keyring") as other:
        one.data_key("key-0")
        other.destroy("key-0")
        with pytest.raises(KeyDestroyed):
            one.data_key("key-0")
        with pytest.raises(KeyDestroyed):
            one.generate_data_key("key-0")


def test_without_memory_every_use_asks(server: TransitServer, tmp_path: Path) -> None:
    filled_keyring(tmp_path / "keyring")
    vault = transit(server.address, TOKEN, tmp_path / "keyring").settings
    with Keyring.open(tmp_path / "keyring") as keyring:
        keyring.move(ManagerSettings("vault", vault.options, cache_seconds=0))
        server.requests.clear()
        for _ in range(3):
            keyring.data_key("key-0")
        assert server.calls("/decrypt/") == 3


def test_what_memory_keeps() -> None:
    now = [0.0]
    cache = KeyCache(size=2, clock=lambda: now[0])
    a, b, c = (("data", name) for name in "abc")
    wrapped = WrappedKey("v1", b"wrapped")
    cache.put(a, wrapped, b"A", 10, cache.drops)
    cache.put(b, wrapped, b"B", 100, cache.drops)
    assert cache.get(a, wrapped) == b"A"
    cache.put(c, wrapped, b"C", 100, cache.drops)
    assert cache.get(b, wrapped) is None, "the least recently used went"
    assert cache.get(a, WrappedKey("v1", b"other")) is None
    assert cache.get(a, wrapped) is None, "a row that changed is not served again"
    cache.put(a, wrapped, b"A", 10, cache.drops)
    now[0] = 9.9
    assert cache.get(a, wrapped) == b"A"
    now[0] = 10
    assert cache.get(a, wrapped) is None
    assert cache.get(c, wrapped) == b"C"
    drops = cache.drops
    cache.drop(c)
    cache.put(c, wrapped, b"C", 100, drops)
    assert cache.get(c, wrapped) is None, "destroyed while it was unwrapped"
    cache.put(c, wrapped, b"C", 0, cache.drops)
    assert cache.get(c, wrapped) is None
    cache.put(c, wrapped, b"C", 100, cache.drops)
    cache.clear()
    assert cache.get(c, wrapped) is None


# A log over Vault.


def test_nothing_is_appended_while_vault_is_down(site: Site, server: TransitServer) -> None:
    settings = transit(server.address, TOKEN, site.folder / "keyring").settings
    site.keyring.move(settings)
    numbers = itertools.count()
    site.journal.record(entry(next(numbers), subject="0000000a"))
    server.sealed = True
    for subject in ("0000000b", "0000000c"):
        with pytest.raises(KeyringUnavailable, match="sealed"):
            site.journal.record(entry(next(numbers), subject=subject))
    assert verify_log(site.path).entries == 1
    server.sealed = False
    site.journal.record(entry(next(numbers), subject="0000000b"))
    assert verify_log(site.path).entries == 2


def test_the_log_forgets_and_still_verifies_over_vault(
    site: Site, server: TransitServer, tmp_path: Path
) -> None:
    """Copies of the log and of the whole keyring, taken before, do not open what was forgotten."""
    site.keyring.move(transit(server.address, TOKEN, site.folder / "keyring").settings)
    site.fill(9)
    log, keyring = site.copy("backup.sqlite"), tmp_path / "backup-of-keyring"
    shutil.copytree(site.folder / "keyring", keyring)
    assert payloads(log, site.folder / "keyring") == 9
    assert payloads(log, keyring) == 9
    site.keyring.destroy(subject_key_name("00000001"))
    assert payloads(log, site.folder / "keyring") == 8, "in the backup of the log too"
    assert payloads(log, keyring) == 9, "until the key-encryption key is rotated"
    site.keyring.rotate()
    assert payloads(log, keyring) == 0
    assert payloads(log, site.folder / "keyring") == 8
    for each in (log, site.copy()):
        report = verify_log(each, site.signer.public)
        assert (report.entries, list(report.problems)) == (9, [])


def payloads(log: Path, keyring: Path) -> int:
    """How many payloads of a log a keyring opens."""
    opened = 0
    with (
        Keyring.open(keyring) as keys,
        closing(sqlite3.connect(log)) as connection,
    ):
        for (content,) in connection.execute("SELECT leaf FROM log_entries ORDER BY position"):
            try:
                open_payload(Leaf.parse(content), ORIGIN, keys)
            except (KeyDestroyed, KeyringUnavailable):
                continue
            opened += 1
    return opened
