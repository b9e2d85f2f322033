"""Keys that can be destroyed: wrapping, durability, formats, several processes."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.envelope import Envelope, seal, unseal
from audit.errors import Conflict, MalformedInput, NotFound, VerificationFailed
from audit.key_manager import KeyDestroyed
from audit.keyring import Keyring
from tests.audit.keyrings import exchange


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring.create(tmp_path / "keyring")


def reopened(keyring: Keyring, tmp_path: Path) -> Keyring:
    keyring.close()
    return Keyring.open(tmp_path / "keyring")


def test_keys_last_and_differ(keyring: Keyring, tmp_path: Path) -> None:
    first = keyring.generate_data_key("subject:a")
    assert len(first) == 32
    assert keyring.generate_data_key("subject:a") == first
    second = keyring.generate_data_key("subject:b")
    secret = keyring.secret("subject:a")
    assert len({first, second, secret}) == 3
    again = reopened(keyring, tmp_path)
    assert again.data_key("subject:a") == first
    assert again.secret("subject:a") == secret
    assert list(again.names()) == ["subject:a", "subject:b"]


def test_there_is_no_key_by_default(keyring: Keyring) -> None:
    with pytest.raises(NotFound) as caught:
        keyring.data_key("subject:a")
    assert not isinstance(caught.value, KeyDestroyed)


def test_destroyed_is_for_ever(keyring: Keyring, tmp_path: Path) -> None:
    keyring.generate_data_key("subject:a")
    assert keyring.destroy("subject:a") is True
    assert keyring.destroy("subject:a") is False
    for ring in (keyring, Keyring.open(tmp_path / "keyring")):
        with pytest.raises(KeyDestroyed):
            ring.data_key("subject:a")
        with pytest.raises(KeyDestroyed):
            ring.generate_data_key("subject:a")


def test_a_name_can_be_destroyed_before_it_has_a_key(keyring: Keyring) -> None:
    assert keyring.destroy("subject:never") is False
    with pytest.raises(KeyDestroyed):
        keyring.generate_data_key("subject:never")


def test_keys_made_together_are_those_that_there_never_were(
    keyring: Keyring, tmp_path: Path
) -> None:
    first = keyring.generate_data_key("subject:a")
    keyring.destroy("subject:b")
    keyring.make_data_keys([f"subject:{name}" for name in "abcd"])
    made = {name: keyring.data_key(f"subject:{name}") for name in "acd"}
    assert made["a"] == first
    assert len(set(made.values())) == 3
    with pytest.raises(KeyDestroyed):
        keyring.data_key("subject:b")
    with pytest.raises(MalformedInput, match="key name"):
        keyring.make_data_keys(["subject:e", "no name"])
    again = reopened(keyring, tmp_path)
    assert {name: again.data_key(f"subject:{name}") for name in "acd"} == made
    assert "subject:e" not in set(again.names())


def test_a_secret_can_be_destroyed(keyring: Keyring) -> None:
    keyring.generate_data_key("pseudonyms")
    keyring.secret("pseudonyms")
    assert keyring.destroy_secret("pseudonyms") is True
    with pytest.raises(KeyDestroyed):
        keyring.secret("pseudonyms")
    keyring.data_key("pseudonyms")


def test_no_file_keeps_a_destroyed_key(keyring: Keyring, tmp_path: Path) -> None:
    keyring.generate_data_key("subject:a")
    for number in range(50):
        keyring.generate_data_key(f"subject:other-{number}")
    database = tmp_path / "keyring" / "keyring.sqlite"
    connection = sqlite3.connect(database)
    wrapped = connection.execute(
        "SELECT wrapped FROM keyring_keys WHERE name = 'subject:a'"
    ).fetchone()[0]
    connection.close()
    assert wrapped in database.read_bytes()
    keyring.destroy("subject:a")
    for path in (tmp_path / "keyring").iterdir():
        assert wrapped not in path.read_bytes()


def test_keys_are_stored_wrapped_and_private(keyring: Keyring, tmp_path: Path) -> None:
    key = keyring.generate_data_key("subject:a")
    secret = keyring.secret("pseudonyms")
    for path in (tmp_path / "keyring").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
        assert key not in path.read_bytes()
        assert secret not in path.read_bytes()
    assert (tmp_path / "keyring").stat().st_mode & 0o777 == 0o700


def test_another_process_rotates_and_destroys(keyring: Keyring, tmp_path: Path) -> None:
    kept = keyring.generate_data_key("kept")
    keyring.generate_data_key("gone")
    script = (
        "import sys, pathlib; from audit.keyring import Keyring;"
        "ring = Keyring.open(pathlib.Path(sys.argv[1]));"
        "ring.rotate(); ring.destroy('gone'); ring.generate_data_key('new')"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "keyring")], check=True)
    assert keyring.data_key("kept") == kept
    assert len(keyring.data_key("new")) == 32
    with pytest.raises(KeyDestroyed):
        keyring.data_key("gone")


def test_threads_agree_on_one_key(keyring: Keyring, tmp_path: Path) -> None:
    other = Keyring.open(tmp_path / "keyring")
    made: list[bytes] = []
    start = threading.Barrier(8)

    def make(ring: Keyring) -> None:
        start.wait()
        made.append(ring.generate_data_key("contested"))

    threads = [threading.Thread(target=make, args=((keyring, other)[n % 2],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(set(made)) == 1


def test_wrapped_keys_cannot_be_exchanged(keyring: Keyring, tmp_path: Path) -> None:
    """Nor are they served from memory under the other's name."""
    for name in ("a", "b"):
        keyring.generate_data_key(name)
    exchange(tmp_path / "keyring", "a", "b")
    for ring in (keyring, Keyring.open(tmp_path / "keyring")):
        for name in ("a", "b"):
            with pytest.raises(VerificationFailed):
                ring.data_key(name)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_keys_do_what_a_dictionary_would(tmp_path: Path, data: st.DataObject) -> None:
    """Any sequence of operations in two processes' places, against the obvious model."""
    folder = Path(tempfile.mkdtemp(dir=tmp_path)) / "keyring"
    rings = [Keyring.create(folder), Keyring.open(folder)]
    model: dict[str, bytes | None] = {}
    steps = data.draw(
        st.lists(
            st.tuples(
                st.integers(0, 1),
                st.sampled_from(["generate", "read", "destroy", "rotate", "reopen"]),
                st.sampled_from("abc"),
            ),
            max_size=20,
        )
    )
    for number, step, name in steps:
        ring = rings[number]
        if step == "rotate":
            assert ring.rotate() == sum(key is not None for key in model.values())
        elif step == "reopen":
            ring.close()
            rings[number] = Keyring.open(folder)
        elif step == "destroy":
            assert ring.destroy(name) is (model.get(name) is not None)
            model[name] = None
        elif name in model and model[name] is None:
            with pytest.raises(KeyDestroyed):
                ring.generate_data_key(name)
            with pytest.raises(KeyDestroyed):
                ring.data_key(name)
        elif step == "generate":
            key = ring.generate_data_key(name)
            assert model.setdefault(name, key) == key
        elif name in model:
            assert ring.data_key(name) == model[name]
        else:
            with pytest.raises(NotFound):
                ring.data_key(name)
    for ring in rings:
        assert list(ring.names()) == sorted(name for name, key in model.items() if key)
        ring.close()


FIRST_FORMAT = """
CREATE TABLE keyring_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE keyring_keys (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    wrapped BLOB,
    wrapping_key TEXT,
    created_at TEXT NOT NULL,
    destroyed_at TEXT,
    PRIMARY KEY (kind, name)
) WITHOUT ROWID;
INSERT INTO keyring_meta VALUES ('format', 'fiduciary.keyring/1');
INSERT INTO keyring_meta VALUES ('wrapping_key', 'kek-00112233445566ff.key');
INSERT INTO keyring_keys VALUES ('data', 'gone', NULL, NULL, '2026-01-01T00:00:00Z',
    '2026-01-02T00:00:00Z');
"""


@pytest.fixture
def first_format(tmp_path: Path) -> Path:
    """A keyring as the first version of this program left it, with a file it had yet to remove."""
    folder = tmp_path / "first"
    folder.mkdir()
    (folder / "kek-00112233445566ff.key").write_bytes(bytes(range(32)))
    (folder / "kek-ffffffffffffffff.key").write_bytes(bytes(32))
    with closing(sqlite3.connect(folder / "keyring.sqlite")) as connection, connection:
        connection.executescript(FIRST_FORMAT)
        for kind, name, key in (("data", "a", b"A" * 32), ("secret", "s", b"S" * 32)):
            context = f'{{"format":"fiduciary.keyring/1","kind":"{kind}","name":"{name}"}}'.encode()
            nonce = os.urandom(12)
            wrapped = nonce + AESGCM(bytes(range(32))).encrypt(nonce, key, context)
            connection.execute(
                "INSERT INTO keyring_keys VALUES (?, ?, ?, 'kek-00112233445566ff.key',"
                " '2026-01-01T00:00:00Z', NULL)",
                (kind, name, wrapped),
            )
    return folder


def test_the_first_format_is_read_and_rotated(first_format: Path) -> None:
    with Keyring.open(first_format) as keyring:
        assert {path.name for path in first_format.glob("kek-*")} == {"kek-00112233445566ff.key"}
        for _ in range(2):
            assert keyring.data_key("a") == b"A" * 32
            assert keyring.secret("s") == b"S" * 32
            with pytest.raises(KeyDestroyed):
                keyring.data_key("gone")
            new = keyring.generate_data_key("new")
            assert keyring.rotate() == 3
            assert len(list(first_format.glob("kek-*"))) == 1
    with Keyring.open(first_format) as again:
        assert again.data_key("new") == new


def test_several_processes_migrate_the_first_format_at_once(first_format: Path) -> None:
    start = threading.Barrier(4)

    def read() -> bytes:
        start.wait()
        with Keyring.open(first_format) as keyring:
            return keyring.data_key("a")

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(4)]
        assert [reader.result() for reader in readers] == [b"A" * 32] * 4


def test_a_later_format_is_left_alone(first_format: Path) -> None:
    with closing(sqlite3.connect(first_format / "keyring.sqlite")) as connection, connection:
        connection.execute(
            "UPDATE keyring_meta SET value = 'fiduciary.keyring/3' WHERE name = 'format'"
        )
    with pytest.raises(MalformedInput) as caught:
        Keyring.open(first_format)
    assert "newer version" in caught.value.fix
    assert len(list(first_format.glob("kek-*"))) == 2


def test_create_and_open_refuse(keyring: Keyring, tmp_path: Path) -> None:
    key = keyring.generate_data_key("a")
    with pytest.raises(Conflict):
        Keyring.create(tmp_path / "keyring")
    assert reopened(keyring, tmp_path).data_key("a") == key
    assert len(list((tmp_path / "keyring").iterdir())) == 2
    with pytest.raises(NotFound):
        Keyring.open(tmp_path / "nothing")
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "keyring.sqlite").write_bytes(b"junk" * 1000)
    with pytest.raises(MalformedInput):
        Keyring.open(tmp_path / "junk")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "keyring.sqlite").touch()
    with pytest.raises(MalformedInput):
        Keyring.open(tmp_path / "empty")


@pytest.mark.parametrize("name", ["", "a b", "\u00e9", "x" * 301, "a\n"])
def test_names_are_visible_ascii(keyring: Keyring, name: str) -> None:
    with pytest.raises(MalformedInput):
        keyring.generate_data_key(name)
    with pytest.raises(MalformedInput):
        keyring.destroy(name)


def test_envelopes() -> None:
    key = bytes(range(32))
    envelope = seal(key, b"payload", b"context")
    assert unseal(key, envelope, b"context") == b"payload"
    assert seal(key, b"payload", b"context") != envelope
    broken = Envelope(envelope.nonce, envelope.ciphertext[:-1] + b"\x00")
    for changed, context in (
        (envelope, b"other context"),
        (broken, b"context"),
        (Envelope(bytes(12), envelope.ciphertext), b"context"),
        (Envelope(envelope.nonce, b""), b"context"),
    ):
        with pytest.raises(VerificationFailed):
            unseal(key, changed, context)
    with pytest.raises(VerificationFailed):
        unseal(bytes(32), envelope, b"context")
    for malformed in (
        lambda: seal(b"short", b"", b""),
        lambda: unseal(key, Envelope(b"", b""), b""),
    ):
        with pytest.raises(MalformedInput):
            malformed()
