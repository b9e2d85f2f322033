"""A release's bytes: the archive and its encryption."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from audit.canonical import digest
from audit.errors import Conflict, FiduciaryError, MalformedInput, VerificationFailed
from server import content
from server.content import decrypt, encrypt, extract, write_archive

KEY = bytes(range(32))
FILES = {
    "README.md": b"# card",
    "adapter_model.safetensors": save({"weights": np.arange(2560.0)}),
    "empty.txt": b"",
}
DIGESTS = {name: digest(data) for name, data in FILES.items()}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    write_archive(FILES, tmp_path / "content.tar")
    return tmp_path / "content.tar"


def test_the_same_files_give_the_same_bytes(tmp_path: Path, archive: Path) -> None:
    write_archive(dict(reversed(FILES.items())), tmp_path / "again.tar")
    assert archive.read_bytes() == (tmp_path / "again.tar").read_bytes()
    with tarfile.open(archive) as tar:
        assert [entry.name for entry in tar] == sorted(FILES)
        assert {(entry.mtime, entry.uid, entry.uname, entry.mode) for entry in tar} == {
            (0, 0, "", 0o644)
        }


def test_what_was_archived_is_unpacked(tmp_path: Path, archive: Path) -> None:
    extract(archive, tmp_path / "model", DIGESTS)
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == FILES


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a/b", "", ".hidden", "x\n"])
def test_a_name_that_leads_elsewhere_is_not_archived(tmp_path: Path, name: str) -> None:
    with pytest.raises(MalformedInput):
        write_archive({name: b""}, tmp_path / "content.tar")


def _tar(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for entry, data in entries:
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


def _entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


CARD = ("README.md", FILES["README.md"])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (_tar((_entry("README.md"), b"other")), "not what was signed"),
        (_tar((_entry("../README.md"), CARD[1])), "unexpected file"),
        (_tar((_entry("/README.md"), CARD[1])), "unexpected file"),
        (_tar((_entry("README.md"), CARD[1]), (_entry("more"), b"")), "unexpected file"),
        (_tar((_entry("README.md"), CARD[1]), (_entry("README.md"), CARD[1])), "unexpected file"),
        (_tar((_entry("README.md", tarfile.SYMTYPE, "/etc/passwd"), b"")), "no regular file"),
        (_tar((_entry("README.md", tarfile.LNKTYPE, "/etc/passwd"), b"")), "no regular file"),
        (_tar((_entry("README.md", tarfile.DIRTYPE), b"")), "no regular file"),
        (_tar((_entry("README.md", tarfile.FIFOTYPE), b"")), "no regular file"),
        (_tar(), "lacks README.md"),
        (b"", "not a tar archive"),
        (b"\x80\x04" * 600, "not a tar archive"),
    ],
)
def test_a_hostile_archive_leaves_nothing_behind(tmp_path: Path, data: bytes, said: str) -> None:
    archive = tmp_path / "hostile.tar"
    archive.write_bytes(data)
    with pytest.raises(VerificationFailed, match=said):
        extract(archive, tmp_path / "model", {"README.md": DIGESTS["README.md"]})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hostile.tar"]


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path, archive: Path) -> None:
    (tmp_path / "model").mkdir()
    extract(archive, tmp_path / "model", DIGESTS)
    with pytest.raises(Conflict):
        extract(archive, tmp_path / "model", DIGESTS)


@given(data=st.binary(max_size=300), chunk_bytes=st.sampled_from([1, 7, 64]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_what_was_encrypted_is_decrypted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, chunk_bytes: int
) -> None:
    monkeypatch.setattr(content, "CHUNK_BYTES", chunk_bytes)
    plain, sealed, again = tmp_path / "plain", tmp_path / "sealed", tmp_path / "again"
    plain.write_bytes(data)
    encrypt(plain, sealed, KEY)
    decrypt(sealed, again, KEY)
    assert again.read_bytes() == data
    if len(data) >= 8:
        assert data not in sealed.read_bytes().removeprefix(content.MAGIC)


def _swap(data: bytes) -> bytes:
    head = len(content.MAGIC) + content.PREFIX_BYTES
    size = 16 + content.TAG_BYTES
    first, second = data[head : head + size], data[head + size : head + 2 * size]
    return data[:head] + second + first + data[head + 2 * size :]


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:-32],
        lambda data: b"",
        lambda data: data[: len(content.MAGIC)],
        lambda data: data[: len(content.MAGIC) + content.PREFIX_BYTES],
        lambda data: data[:-16] + bytes([data[-16] ^ 1]) + data[-15:],
        lambda data: bytes([data[0] ^ 1]) + data[1:],
        lambda data: data[:22] + bytes([data[22] ^ 1]) + data[23:],
        _swap,
    ],
)
def test_a_changed_ciphertext_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr(content, "CHUNK_BYTES", 16)
    plain, sealed = tmp_path / "plain", tmp_path / "sealed"
    plain.write_bytes(bytes(range(64)))
    encrypt(plain, sealed, KEY)
    changed = change(sealed.read_bytes())
    assert changed != sealed.read_bytes()
    sealed.write_bytes(changed)
    with pytest.raises(FiduciaryError):
        decrypt(sealed, tmp_path / "again", KEY)


def test_another_key_opens_nothing(tmp_path: Path) -> None:
    plain, sealed = tmp_path / "plain", tmp_path / "sealed"
    plain.write_bytes(b"weights")
    encrypt(plain, sealed, KEY)
    with pytest.raises(VerificationFailed, match="data key"):
        decrypt(sealed, tmp_path / "again", KEY[::-1])
