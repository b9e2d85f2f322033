"""The compliance folder is made whole or not at all, and checked before each start."""

from __future__ import annotations

import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from audit.errors import (
    Conflict,
    FiduciaryError,
    MalformedInput,
    NotFound,
    Refused,
    VerificationFailed,
)
from audit.keyring import Keyring
from audit.keys import SigningKey
from audit.sqlite_log import SCHEMA
from audit.verifier import verify_log
from compliance.service import folder as folder_module
from compliance.service.errors import ServiceUnavailable
from compliance.service.folder import Folder, NewService, create_folder, open_registry
from compliance.service.settings import read_settings
from compliance.service.tables import Base
from compliance.trust import Trust
from tests.compliance.running import Clock

NEW = NewService("127.0.0.1", 8443, "127.0.0.1", "fiduciary.test/log")


@pytest.fixture
def folder(tmp_path: Path, clock: Clock) -> Folder:
    return create_folder(tmp_path / "compliance", NEW, clock)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_has_everything_and_keeps_secrets_private(folder: Folder) -> None:
    assert mode(folder.path) == 0o700
    secrets = [folder.log_key, folder.tls_key, folder.release_key, folder.settings]
    secrets += [folder.token(name) for name in ("coordinator", "officer", "auditor")]
    secrets += [folder.path / "compliance.sqlite", *folder.keyring.iterdir()]
    for path in secrets:
        assert mode(path) == 0o600, path
    trust = Trust.load(folder.trust)
    assert trust.url == "https://127.0.0.1:8443"
    assert SigningKey.load(folder.log_key).public == trust.log_key
    public = folder.trust.read_text()
    assert "PRIVATE" not in public
    report = verify_log(folder.path / "compliance.sqlite", trust.log_key)
    assert report.ok
    assert report.entries == 4


def test_it_opens_again_and_again(folder: Folder, clock: Clock) -> None:
    for _ in range(2):
        registry = open_registry(folder, clock)
        token = folder.token("officer").read_text().strip()
        assert registry.identify(token).name == "officer"
        registry.close()


def test_port_zero_picks_one_and_keeps_it(tmp_path: Path, clock: Clock) -> None:
    made = create_folder(
        tmp_path / "c", NewService("127.0.0.1", 0, "compliance.example", "x/log"), clock
    )
    port = read_settings(made.settings).port
    assert port > 0
    assert Trust.load(made.trust).url == f"https://compliance.example:{port}"


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path, clock: Clock) -> None:
    target = tmp_path / "compliance"
    target.mkdir()
    create_folder(target, NEW, clock)  # an empty one is used
    before = sorted(target.rglob("*"))
    with pytest.raises(Conflict, match="not empty"):
        create_folder(target, NEW, clock)
    assert sorted(target.rglob("*")) == before
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(Conflict):
        create_folder(file, NEW, clock)
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    "new",
    [
        NewService("not a host", 8443, "127.0.0.1", "x/log"),
        NewService("127.0.0.1", 8443, "127.0.0.1", "a log with spaces"),
        NewService("127.0.0.1", 8443, "höst", "x/log"),
        NewService("127.0.0.1", 8443, "127.0.0.1", "x/log", 'sqlite:///a"b'),
        NewService("127.0.0.1", 8443, "127.0.0.1", "x/log", "nonsense"),
        NewService("127.0.0.1", 8443, "127.0.0.1", "x/log", "nodatabase://host/name"),
    ],
)
def test_unusable_settings_leave_nothing(tmp_path: Path, clock: Clock, new: NewService) -> None:
    with pytest.raises(MalformedInput):
        create_folder(tmp_path / "compliance", new, clock)
    assert list(tmp_path.iterdir()) == []


def _steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Ways in which making a folder is cut short."""

    def broken(*_args: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    yield lambda: monkeypatch.setattr(SigningKey, "save", broken)
    yield lambda: monkeypatch.setattr(Keyring, "create", broken)
    yield lambda: monkeypatch.setattr(Trust, "save", broken)
    yield lambda: monkeypatch.setattr(folder_module, "_found", broken)
    yield lambda: monkeypatch.setattr(Path, "replace", broken)


@pytest.mark.parametrize("step", range(5))
def test_an_interrupted_init_leaves_nothing(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    list(_steps(monkeypatch))[step]()
    with pytest.raises(FiduciaryError, match="No space") as caught:
        create_folder(tmp_path / "compliance", NEW, clock)
    assert "free space" in caught.value.fix
    assert list(tmp_path.iterdir()) == []


def refuses(folder: Folder, clock: Clock, kind: type[FiduciaryError], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        open_registry(folder, clock)
    assert caught.value.fix


@pytest.mark.parametrize("name", ["log_key", "tls_key", "release_key"])
def test_start_refuses_missing_open_and_foreign_keys(
    folder: Folder, clock: Clock, name: str
) -> None:
    path: Path = getattr(folder, name)
    path.chmod(0o640)
    refuses(folder, clock, Refused, "can be read or changed by others")
    path.unlink()
    refuses(folder, clock, NotFound, "is missing")


def test_start_refuses_an_open_wrapping_key(folder: Folder, clock: Clock) -> None:
    (wrapping_key,) = folder.keyring.glob("*.key")
    wrapping_key.chmod(0o604)
    refuses(folder, clock, Refused, "can be read or changed by others")


def test_start_refuses_keys_that_do_not_belong(folder: Folder, clock: Clock) -> None:
    kept = folder.log_key.read_bytes()
    folder.log_key.unlink()
    SigningKey.generate(NEW.origin).save(folder.log_key)
    refuses(folder, clock, VerificationFailed, "does not belong to trust.json")
    folder.log_key.write_bytes(kept)

    kept = folder.release_key.read_bytes()
    other = X25519PrivateKey.generate()
    folder.release_key.write_bytes(
        other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    refuses(folder, clock, VerificationFailed, "does not belong to trust.json")
    folder.release_key.write_bytes(b"not a key")
    with pytest.raises(MalformedInput, match="not PKCS #8"):
        open_registry(folder, clock)
    folder.release_key.write_bytes(kept)
    open_registry(folder, clock).close()


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE log_nodes SET hash = zeroblob(32)",
        "DELETE FROM log_entries WHERE position = 3",
        "DELETE FROM log_checkpoints",
        "UPDATE log_checkpoints SET note = replace(note, '4', '5')",
        "UPDATE log_meta SET value = 'other/log' WHERE name = 'origin'",
    ],
)
def test_start_refuses_a_log_that_was_changed(folder: Folder, clock: Clock, tampering: str) -> None:
    connection = sqlite3.connect(folder.path / "compliance.sqlite")
    connection.execute(tampering)
    connection.commit()
    connection.close()
    with pytest.raises((VerificationFailed, NotFound, Conflict, MalformedInput)):
        open_registry(folder, clock)


def test_start_removes_what_an_interrupted_upload_left(folder: Folder, clock: Clock) -> None:
    (folder.releases / "x.partial").write_bytes(b"half")
    (folder.releases / "y.sealed").write_bytes(b"whole")
    open_registry(folder, clock).close()
    assert [path.name for path in folder.releases.iterdir()] == ["y.sealed"]


def test_settings_are_read_strictly(folder: Folder, tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(NotFound, match="no compliance folder") as caught:
        open_registry(Folder(tmp_path / "nowhere"), clock)
    assert "compliance init" in caught.value.fix
    good = folder.settings.read_text()
    for text, message in (
        (good + "extra = 1\n", "extra: Extra inputs|extra: unknown field"),
        (good.replace("port = 8443", "port = 99999"), "port"),
        (good.replace("fiduciary.compliance/1", "fiduciary.compliance/2"), "format"),
        ("not toml", "malformed"),
    ):
        folder.settings.write_text(text)
        with pytest.raises(MalformedInput, match=message):
            open_registry(folder, clock)


def test_a_database_elsewhere_is_used(tmp_path: Path, clock: Clock) -> None:
    url = f"sqlite:///{tmp_path / 'elsewhere.sqlite'}"
    made = create_folder(
        tmp_path / "compliance", NewService("127.0.0.1", 1, "127.0.0.1", "x/log", url), clock
    )
    assert not (made.path / "compliance.sqlite").exists()
    open_registry(made, clock).close()
    with pytest.raises((Conflict, ServiceUnavailable)):  # that database holds a log already
        create_folder(
            tmp_path / "second", NewService("127.0.0.1", 1, "127.0.0.1", "y/log", url), clock
        )
    assert not (tmp_path / "second").exists()


def test_the_log_tables_are_those_that_audit_reads(folder: Folder, tmp_path: Path) -> None:
    expected, found = (
        sqlite3.connect(":memory:"),
        sqlite3.connect(folder.path / "compliance.sqlite"),
    )
    for statement in SCHEMA:
        expected.execute(statement)
    for table in ("log_entries", "log_nodes", "log_checkpoints", "log_meta"):
        columns = [
            [(row[1], bool(row[5])) for row in database.execute(f"PRAGMA table_info({table})")]
            for database in (expected, found)
        ]
        assert columns[0] == columns[1]
    expected.close()
    found.close()


def test_every_table_can_be_made_in_postgresql() -> None:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    for table in Base.metadata.sorted_tables:
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=dialect))
        for index in table.indexes:
            assert "CREATE INDEX" in str(CreateIndex(index).compile(dialect=dialect))


def test_the_database_is_durable_and_checks_references(folder: Folder, clock: Clock) -> None:
    registry = open_registry(folder, clock)
    with registry.database.engine.connect() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("synchronous", "foreign_keys", "journal_mode", "busy_timeout")
        }
    registry.close()
    assert found == {
        "synchronous": 2,
        "foreign_keys": 1,
        "journal_mode": "wal",
        "busy_timeout": 10_000,
    }


def test_a_copied_folder_works_elsewhere(folder: Folder, tmp_path: Path, clock: Clock) -> None:
    moved = Folder(tmp_path / "moved")
    shutil.copytree(folder.path, moved.path)
    open_registry(moved, clock).close()
