"""A backup of a running service is the service: restored whole, once it was shown to be itself."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import sqlite3
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from typer.testing import CliRunner

from audit.checkpoint import read_checkpoint
from audit.cosignature import only_lines_of
from audit.errors import Conflict, FiduciaryError, MalformedInput, NotFound, VerificationFailed
from audit.keyring import Keyring
from audit.keys import SigningKey
from audit.verifier import verify_log
from audit.witness import Held, Witness
from compliance.cli import app
from compliance.service import backup_file
from compliance.service.backup import SNAPSHOT, back_up
from compliance.service.backup_file import (
    CHUNK_BYTES,
    Passphrase,
    Recipient,
    RecipientKey,
    SealedReader,
    SealedWriter,
)
from compliance.service.database import Database
from compliance.service.folder import Folder, NewService, create_folder, open_registry
from compliance.service.in_use import LOCK_FILE
from compliance.service.restore import restore
from tests.compliance.running import Clock, RunningService, running
from tests.compliance.test_migrations import rows
from tests.compliance.test_one_transaction import every_write
from tests.postgresql import MISSING, PostgresServer, find_programs, running_server

LOCK = Passphrase("correct horse battery staple")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The derivation is made to be slow; only `test_a_passphrase_…` takes its time."""
    monkeypatch.setattr(backup_file, "_SCRYPT_LOG_N", 12)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    if find_programs() is None:
        pytest.skip(MISSING)
    with running_server() as started:
        yield started


def new_address(server: PostgresServer) -> str:
    return server.new_database().replace("postgresql:", "postgresql+psycopg:")


@pytest.fixture
def used(service: RunningService, tmp_path: Path) -> RunningService:
    """A running service in which nearly everything happened once."""
    for _, write in every_write(service, tmp_path):
        write()
    return service


def contents(folder: Path) -> dict[str, bytes]:
    """Files of a folder, but databases and the lock of a service that runs."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".sqlite" not in path.name and path.name != LOCK_FILE
    }


def test_a_running_service_is_copied_and_restored(
    used: RunningService, tmp_path: Path, clock: Clock
) -> None:
    file, target = tmp_path / "a.backup", tmp_path / "restored"
    made = back_up(used.folder, clock, file, LOCK)
    assert used.last_entry()[:2] == ("compliance", "database.backed-up")
    assert made.entries == len(used.entries())
    assert not list(used.folder.path.glob(".backup-*"))
    assert file.stat().st_mode & 0o777 == 0o600

    restored = restore(file, target, LOCK, clock)
    assert restored == made
    assert contents(target) == contents(used.folder.path)
    report = verify_log(target / "compliance.sqlite", used.trust.log_key, known=made.checkpoint)
    assert (report.ok, report.entries) == (True, made.entries + 1)
    with running(target, clock) as again:
        assert rows(again.registry) == rows(used.registry)
        assert again.entries()[:-1] == used.entries()
        actor, action, _, payload = again.last_entry()
        assert (actor, action) == ("compliance", "database.restored")
        assert payload == {"backup_made_at": made.made_at, "entries": made.entries}
        again.as_("officer").add_principal("later", ["auditor"])


def test_a_service_moves_between_databases(
    used: RunningService, tmp_path: Path, clock: Clock, server: PostgresServer
) -> None:
    """From SQLite to PostgreSQL, and from there to another one and back to SQLite."""
    before = rows(used.registry)
    back_up(used.folder, clock, tmp_path / "1.backup", LOCK)
    urls = [new_address(server), new_address(server), f"sqlite:///{tmp_path / 'apart.sqlite'}"]
    for number, url in enumerate(urls, 1):
        folder = tmp_path / f"folder-{number}"
        restore(tmp_path / f"{number}.backup", folder, LOCK, clock, database_url=url)
        assert not (folder / SNAPSHOT).exists()
        registry = open_registry(Folder(folder), clock)
        try:
            assert rows(registry) == before
            with registry.reading() as session:
                storage = registry.storage(session)
                assert storage.size() == len(used.entries()) + 2 * number - 1
        finally:
            registry.close()
        back_up(Folder(folder), clock, tmp_path / f"{number + 1}.backup", LOCK)
    with pytest.raises(Conflict, match="not empty"):
        restore(tmp_path / "1.backup", tmp_path / "other", LOCK, clock, database_url=urls[0])
    assert not (tmp_path / "other").exists()


def test_a_backup_made_under_load_holds_one_moment(
    service: RunningService, tmp_path: Path, clock: Clock
) -> None:
    stop = threading.Event()

    def work() -> None:
        officer = service.as_("officer")
        for number in range(10_000):
            if stop.is_set():
                return
            officer.add_principal(f"desk-{number}", ["consumer"])

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for number in range(3):
            back_up(service.folder, clock, tmp_path / f"{number}.backup", LOCK)
    finally:
        stop.set()
        thread.join()
    for number in range(3):
        restore(tmp_path / f"{number}.backup", tmp_path / f"r{number}", LOCK, clock)


def test_keys_that_are_rotated_meanwhile_open_what_was_copied(
    service: RunningService, tmp_path: Path, clock: Clock
) -> None:
    stop = threading.Event()

    def rotate() -> None:
        with Keyring.open(service.folder.keyring) as keyring:
            while not stop.is_set():
                keyring.rotate()

    thread = threading.Thread(target=rotate)
    thread.start()
    try:
        for number in range(3):
            back_up(service.folder, clock, tmp_path / f"{number}.backup", LOCK)
    finally:
        stop.set()
        thread.join()
    for number in range(3):
        target = tmp_path / f"r{number}"
        restore(tmp_path / f"{number}.backup", target, LOCK, clock)
        with Keyring.open(target / "keyring") as keyring:
            assert all(keyring.data_key(name) for name in keyring.names())


# --- older than what others saw -------------------------------------------------------------------


def test_a_backup_that_is_older_than_what_a_witness_saw_is_recognised(
    service: RunningService, tmp_path: Path, clock: Clock
) -> None:
    witness = Witness(
        tmp_path / "witness",
        log_key=service.trust.log_key,
        origin=service.trust.origin,
        signer=SigningKey.generate("witness.test/north"),
        clock=clock,
    )
    made = back_up(service.folder, clock, tmp_path / "a.backup", LOCK)
    officer = service.as_("officer")
    for number in range(3):
        officer.add_principal(f"desk-{number}", ["consumer"])
    seen = only_lines_of(officer.checkpoint(), service.trust.log_key)
    assert isinstance(witness.advance(seen, (), since=0), Held)
    service.stop()

    # Whoever has the witness's checkpoint is told, and nothing is left.
    with pytest.raises(VerificationFailed, match="older than what others saw") as caught:
        restore(tmp_path / "a.backup", tmp_path / "restored", LOCK, clock, known=seen)
    assert "later backup" in caught.value.fix
    assert not (tmp_path / "restored").exists()

    # Without it the service comes back, and the witness does not cosign its other history, neither
    # while it is shorter nor when it has grown longer.
    restore(tmp_path / "a.backup", tmp_path / "restored", LOCK, clock)
    with running(tmp_path / "restored", clock) as again:
        reasons = []
        auditor, officer = again.as_("auditor"), again.as_("officer")
        for number in range(5):
            shown = auditor.log_head(read_checkpoint(seen).size)
            proof = shown.growth.hashes if shown.growth else ()
            note = only_lines_of(shown.checkpoint, again.trust.log_key)
            verdict = witness.advance(note, proof, since=read_checkpoint(seen).size)
            assert not isinstance(verdict, Held)
            reasons.append(verdict.reason)
            officer.add_principal(f"other-{number}", ["consumer"])
        assert reasons == ["shrunk", "shrunk", "forked", "rewritten", "rewritten"]
        assert made.entries + 1 == read_checkpoint(seen).size - 2
    # An earlier checkpoint is no obstacle.
    again_folder = tmp_path / "again"
    restore(tmp_path / "a.backup", again_folder, LOCK, clock, known=made.checkpoint)


# --- what is not restored -------------------------------------------------------------------------


def repack(source: Path, target: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """A backup by somebody who knows the passphrase and changed what is in it."""
    with source.open("rb") as old, target.open("wb") as new:
        writer = SealedWriter(new, LOCK)
        reader = SealedReader(old, LOCK)
        with (
            tarfile.open(fileobj=cast("IO[bytes]", reader), mode="r|") as taken,
            tarfile.open(fileobj=cast("IO[bytes]", writer), mode="w|") as put,
        ):
            for member in taken:
                file = taken.extractfile(member)
                assert file is not None
                content = change(member.name, file.read())
                if content is not None:
                    member.size = len(content)
                    put.addfile(member, io.BytesIO(content))
        writer.finish()


def sql(statement: str) -> Callable[[bytes, Path], bytes]:
    def change(data: bytes, folder: Path) -> bytes:
        path = folder / "changed.sqlite"
        path.write_bytes(data)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(statement)
            connection.commit()
        return path.read_bytes()

    return change


def gone(_data: bytes, _folder: Path) -> bytes | None:
    return None


def other_log_key(_data: bytes, folder: Path) -> bytes:
    path = folder / "other.pem"
    SigningKey.generate("fiduciary.test/log").save(path)
    return path.read_bytes()


def other_keyring(_data: bytes, folder: Path) -> bytes:
    with Keyring.create(folder / "keyring"):
        return (folder / "keyring" / "keyring.sqlite").read_bytes()


CHANGES: list[tuple[str, Callable[[bytes, Path], bytes | None], str]] = [
    (SNAPSHOT, sql("UPDATE log_entries SET leaf = zeroblob(200) WHERE position = 3"), "entry 3"),
    (SNAPSHOT, sql("DELETE FROM log_checkpoints"), "does not verify"),
    (SNAPSHOT, sql("DELETE FROM log_entries WHERE position > 5"), "does not verify"),
    (SNAPSHOT, sql("UPDATE alembic_version SET version_num = '9999'"), "not of the revision"),
    (SNAPSHOT, gone, "No such file|no log|missing"),
    ("trust.json", gone, "trust"),
    ("keys/log.pem", other_log_key, "does not belong"),
    ("keys/release.pem", gone, "missing"),
    ("keyring/keyring.sqlite", other_keyring, "key|envelope"),
    ("keyring/keyring.sqlite", gone, "no keyring"),
    ("releases/", lambda data, _: data[:-1] + b"?", "not in the backup as it was announced"),
    ("releases/", gone, "not in the backup as it was announced"),
    ("backup.json", gone, "no manifest"),
    ("backup.json", lambda data, _: data.replace(b'"0', b'"9'), "does not know"),
]


def test_what_does_not_belong_together_is_not_restored(
    used: RunningService, tmp_path: Path, clock: Clock
) -> None:
    back_up(used.folder, clock, tmp_path / "good.backup", LOCK)
    for number, (name, change, message) in enumerate(CHANGES):
        work = tmp_path / f"work-{number}"
        work.mkdir()
        changed: list[str] = []

        def apply(member: str, data: bytes) -> bytes | None:
            if member.startswith(name):  # noqa: B023  used in this turn only
                changed.append(member)  # noqa: B023
                return change(data, work)  # noqa: B023
            return data

        repack(tmp_path / "good.backup", tmp_path / f"{number}.backup", apply)
        assert changed, name
        outside = set(tmp_path.iterdir())
        found = "nothing"
        try:
            restore(tmp_path / f"{number}.backup", tmp_path / "restored", LOCK, clock)
        except FiduciaryError as error:
            found = str(error)
        assert re.search(message, found), f"change {number}, of {name}: {found}"
        assert set(tmp_path.iterdir()) == outside, f"{name}: something was left in place"


@pytest.mark.parametrize("name", ["../outside", "/outside", "keys/../../outside"])
def test_no_file_is_written_outside_the_folder(
    service: RunningService, tmp_path: Path, clock: Clock, name: str
) -> None:
    file = tmp_path / "hostile.backup"
    with file.open("wb") as stream:
        writer = SealedWriter(stream, LOCK)
        with tarfile.open(fileobj=cast("IO[bytes]", writer), mode="w|") as archive:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
        writer.finish()
    with pytest.raises(MalformedInput, match="what no backup holds"):
        restore(file, tmp_path / "restored", LOCK, clock)
    link = tarfile.TarInfo("keys/log.pem")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with file.open("wb") as stream:
        writer = SealedWriter(stream, LOCK)
        with tarfile.open(fileobj=cast("IO[bytes]", writer), mode="w|") as archive:
            archive.addfile(link)
        writer.finish()
    with pytest.raises(MalformedInput, match="what no backup holds"):
        restore(file, tmp_path / "restored", LOCK, clock)
    assert not (tmp_path / "restored").exists()


def test_a_database_that_fails_at_the_end_takes_the_folder_with_it(
    service: RunningService,
    tmp_path: Path,
    clock: Clock,
    server: PostgresServer,
) -> None:
    url = new_address(server)
    back_up(service.folder, clock, tmp_path / "a.backup", LOCK)
    commit = Database.migrating

    def fails(database: Database) -> Any:
        context = commit(database)

        class Failing:
            def __enter__(self) -> Any:
                return context.__enter__()

            def __exit__(self, *error: Any) -> Any:
                if error[0] is None and database.engine.dialect.name != "sqlite":
                    failure = OSError(28, "No space left on device")
                    context.__exit__(type(failure), failure, None)
                    raise failure
                return context.__exit__(*error)

        return Failing()

    outside = set(tmp_path.iterdir())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Database, "migrating", fails)
        with pytest.raises(FiduciaryError, match="No space"):
            restore(tmp_path / "a.backup", tmp_path / "restored", LOCK, clock, database_url=url)
    assert set(tmp_path.iterdir()) == outside
    restore(tmp_path / "a.backup", tmp_path / "restored", LOCK, clock, database_url=url)


def test_a_backup_that_cannot_be_written_leaves_nothing(
    service: RunningService, tmp_path: Path, clock: Clock
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SealedWriter, "finish", full)
        with pytest.raises(FiduciaryError, match="No space"):
            back_up(service.folder, clock, tmp_path / "a.backup", LOCK)
    assert not list(tmp_path.glob("*a.backup*"))
    back_up(service.folder, clock, tmp_path / "a.backup", LOCK)
    with pytest.raises(Conflict, match="exists already"):
        back_up(service.folder, clock, tmp_path / "a.backup", LOCK)
    with pytest.raises(MalformedInput, match="inside the compliance folder"):
        back_up(service.folder, clock, service.folder.path / "a.backup", LOCK)


# --- the file -------------------------------------------------------------------------------------


def sealed(data: bytes, lock: Passphrase | Recipient = LOCK) -> bytes:
    file = io.BytesIO()
    writer = SealedWriter(file, lock)
    for start in range(0, len(data), 100_003):
        writer.write(data[start : start + 100_003])
    writer.finish()
    return file.getvalue()


@pytest.mark.parametrize(
    "size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES]
)
def test_what_was_sealed_is_read(size: int) -> None:
    data = os.urandom(size)
    reader = SealedReader(io.BytesIO(sealed(data)), LOCK)
    assert reader.read(10) + reader.read(CHUNK_BYTES) + reader.read() == data
    assert reader.read(10) == b""


def test_a_file_that_was_changed_anywhere_does_not_open() -> None:
    data = os.urandom(2 * CHUNK_BYTES + 5)
    good = sealed(data)
    body = good.index(b"\n", good.index(b"\n") + 1) + 1
    chunk = CHUNK_BYTES + 16
    first, second, third = (
        good[body : body + chunk],
        good[body + chunk : body + 2 * chunk],
        good[body + 2 * chunk :],
    )
    header = good[:body]
    wrong = [
        header + second + first + third,
        header + first + second,
        header + first + third,
        header + first + second + third[:-1],
        header + first + second + third + b"x",
        header + first + second + third + third,
        header,
        *(
            good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
            for at in (3, 30, body - 9, body, len(good) - 1)
        ),
        b"",
        good[:10],
    ]
    for changed in wrong:
        with pytest.raises(FiduciaryError):
            SealedReader(io.BytesIO(changed), LOCK).read()


def test_only_the_right_secret_opens() -> None:
    key, other = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    by_phrase, by_key = sealed(b"x"), sealed(b"x", Recipient(key.public_key().public_bytes_raw()))
    assert SealedReader(io.BytesIO(by_key), RecipientKey(key)).read() == b"x"
    with pytest.raises(VerificationFailed, match="this passphrase"):
        SealedReader(io.BytesIO(by_phrase), Passphrase("correct horse battery stable"))
    with pytest.raises(VerificationFailed, match="this key"):
        SealedReader(io.BytesIO(by_key), RecipientKey(other))
    for file, lock in ((by_phrase, RecipientKey(key)), (by_key, LOCK)):
        with pytest.raises(MalformedInput, match="not locked in the way") as caught:
            SealedReader(io.BytesIO(file), lock)
        assert "--" in caught.value.fix
    with pytest.raises(MalformedInput, match="fewer than 12"):
        sealed(b"x", Passphrase("short"))
    with pytest.raises(MalformedInput, match="X25519"):
        sealed(b"x", Recipient(b"short"))


def test_a_passphrase_costs_whoever_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert json.loads(sealed(b"x").split(b"\n")[1])["lock"]["scrypt_log_n"] == 17


# --- the commands ---------------------------------------------------------------------------------


def test_the_commands(tmp_path: Path, clock: Clock) -> None:
    new = NewService("127.0.0.1", 8443, "127.0.0.1", "fiduciary.test/log")
    folder = create_folder(tmp_path / "compliance", new, clock)
    phrase, key_file = tmp_path / "phrase", tmp_path / "key.pem"
    phrase.write_text("correct horse battery staple\n")
    key = X25519PrivateKey.generate()
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def run(*arguments: object) -> Any:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None:
            raise result.exception
        return json.loads(result.stdout) if "--json" in arguments else result.stdout

    public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
    one, two = tmp_path / "one.backup", tmp_path / "two.backup"
    made = run("backup", one, folder.path, "--passphrase-file", phrase, "--json")
    assert made["entries"] == 5
    assert made["size_bytes"] == one.stat().st_size
    assert "5 entries" not in run("backup", two, folder.path, "--recipient", public)
    taken = run("restore", one, tmp_path / "r1", "--passphrase-file", phrase, "--json")
    assert (taken["entries"], taken["checkpoint"]) == (5, made["checkpoint"])
    later = tmp_path / "checkpoint"
    assert "compliance start" in run("restore", two, tmp_path / "r2", "--key-file", key_file)
    later.write_text(made["checkpoint"])
    run("restore", two, tmp_path / "r3", "--key-file", key_file, "--checkpoint", later)
    with pytest.raises(NotFound, match="no backup"):
        run("restore", tmp_path / "none", tmp_path / "r4", "--key-file", key_file)
    with pytest.raises(MalformedInput, match="nobody to ask"):
        run("restore", one, tmp_path / "r4")
