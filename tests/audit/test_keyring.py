"""Keys that can be destroyed: wrapping, durability, rotation, several processes."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from audit.envelope import Envelope, seal, unseal
from audit.errors import Conflict, MalformedInput, NotFound, VerificationFailed
from audit.keyring import KeyDestroyed, Keyring, KeyringUnavailable


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


def test_rotation_keeps_every_key(keyring: Keyring, tmp_path: Path) -> None:
    keys = {name: keyring.generate_data_key(name) for name in ("a", "b", "c")}
    secret = keyring.secret("s")
    keyring.destroy("c")
    before = {path.name for path in (tmp_path / "keyring").glob("kek-*")}
    assert keyring.rotate() == 3
    after = {path.name for path in (tmp_path / "keyring").glob("kek-*")}
    assert len(after) == 1
    assert not before & after
    for ring in (keyring, Keyring.open(tmp_path / "keyring")):
        assert ring.data_key("a") == keys["a"]
        assert ring.data_key("b") == keys["b"]
        assert ring.secret("s") == secret
        with pytest.raises(KeyDestroyed):
            ring.data_key("c")


def test_rotation_makes_old_copies_of_the_database_useless(
    keyring: Keyring, tmp_path: Path
) -> None:
    keyring.generate_data_key("subject:a")
    stolen = tmp_path / "stolen"
    stolen.mkdir()
    shutil.copyfile(tmp_path / "keyring" / "keyring.sqlite", stolen / "keyring.sqlite")
    keyring.destroy("subject:a")
    keyring.rotate()
    for path in (tmp_path / "keyring").glob("kek-*"):
        shutil.copyfile(path, stolen / path.name)
    with Keyring.open(stolen) as copy, pytest.raises(KeyringUnavailable):
        copy.data_key("subject:a")


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
    keyring.generate_data_key("a")
    keyring.generate_data_key("b")
    connection = sqlite3.connect(tmp_path / "keyring" / "keyring.sqlite")
    connection.execute(
        "UPDATE keyring_keys SET wrapped = (SELECT wrapped FROM keyring_keys WHERE name = 'b')"
        " WHERE name = 'a'"
    )
    connection.commit()
    connection.close()
    with pytest.raises(VerificationFailed):
        keyring.data_key("a")


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
