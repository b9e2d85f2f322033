"""The bytes of a release: one deterministic archive, encrypted in chunks.

* The archive is a POSIX tar of regular files in a fixed order, without times, owners or folders:
  the same files give the same bytes. Reading it takes exactly the named files and writes nothing
  outside its folder.
* Encryption is AES-256-GCM in the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár 2015,
  "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance"): each chunk's nonce holds
  its number and whether it is the last, so chunks cannot be reordered, dropped or cut off. Memory
  stays at one chunk.

```
line "fiduciary-release/1", 7 random bytes, then chunks of CHUNK_BYTES + 16, the last one shorter
```

**Formal guarantees.** Without the data key nothing but the length is learnt; with it, anything but
the exact ciphertext is refused. A data key is random and used once, so no security rests on the
7-byte nonce prefix: it keeps two files from sharing nonces if a key is used twice by mistake.

| case | outcome |
|---|---|
| empty archive | one empty last chunk |
| truncated, extended, reordered, altered | `VerificationFailed` |
| another key | `VerificationFailed` |
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import secrets
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from audit.durable import sync_directory
from audit.errors import Conflict, MalformedInput, VerificationFailed
from server.inert_files import require_inert

MAGIC = b"fiduciary-release/1\n"
PREFIX_BYTES = 7
CHUNK_BYTES = 1024 * 1024
TAG_BYTES = 16
MAX_CHUNKS = 2**32
MAX_FILE_BYTES = 512 * 1024 * 1024
"""No file of a release is larger than twice what the service accepts as a whole."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def digest_of(path: Path) -> str:
    """`sha256:` digest of a file."""
    with path.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()


def write_archive(files: Mapping[str, bytes], path: Path) -> None:
    """Write files as a deterministic tar.

    Raises:
        MalformedInput: When a name is not a plain file name.
    """
    with (
        path.open("wb") as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name in sorted(files):
            if not _NAME.fullmatch(name):
                raise MalformedInput(f"malformed release: {name!r} is not a plain file name")
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(files[name]), 0o644
            tar.addfile(entry, io.BytesIO(files[name]))


def encrypt(source: Path, destination: Path, data_key: bytes) -> None:
    """Encrypt a file.

    Args:
        source: The archive.
        destination: Where the ciphertext goes.
        data_key: 32 random bytes, for this file only.
    """
    prefix, cipher = secrets.token_bytes(PREFIX_BYTES), AESGCM(data_key)
    with source.open("rb") as plain, destination.open("wb") as sealed:
        sealed.write(MAGIC + prefix)
        for number, (chunk, last) in enumerate(_chunks(plain, CHUNK_BYTES)):
            sealed.write(cipher.encrypt(_nonce(prefix, number, last=last), chunk, MAGIC))
        sealed.flush()
        os.fsync(sealed.fileno())


def decrypt(source: Path, destination: Path, data_key: bytes) -> None:
    """Undo `encrypt`.

    Raises:
        VerificationFailed: When the file or the key is not the right one. What was written by then
            must not be used.
    """
    cipher = AESGCM(data_key)
    with source.open("rb") as sealed, destination.open("wb") as plain:
        header = sealed.read(len(MAGIC) + PREFIX_BYTES)
        if header[: len(MAGIC)] != MAGIC or len(header) != len(MAGIC) + PREFIX_BYTES:
            raise VerificationFailed("the ciphertext is not a release's", fix="download it again")
        prefix = header[len(MAGIC) :]
        for number, (chunk, last) in enumerate(_chunks(sealed, CHUNK_BYTES + TAG_BYTES)):
            try:
                plain.write(cipher.decrypt(_nonce(prefix, number, last=last), chunk, MAGIC))
            except (InvalidTag, ValueError) as error:
                raise VerificationFailed(
                    "the ciphertext was altered, or the data key is another release's",
                    fix="download it again; if it fails again, tell the compliance officer",
                ) from error


def extract(
    archive: Path,
    folder: Path,
    expected: Mapping[str, str],
    check: Callable[[Path], None] | None = None,
) -> None:
    """Unpack exactly the expected files into a new folder, or nothing at all.

    Args:
        archive: The decrypted tar.
        folder: Must not exist, or be empty.
        expected: Name to `sha256:` digest, from the signed manifest.
        check: A last look at the folder before it gets its name.

    Raises:
        VerificationFailed: When a file is missing, unexpected, no regular file, altered, or might
            run code when it is loaded (`server.inert_files`).
        Conflict: When the folder holds something.
    """
    folder = folder.absolute()
    require_free(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    building.mkdir(mode=0o755)
    try:
        _unpack(archive, building, expected)
        if check is not None:
            check(building)
        building.rename(folder)
        sync_directory(folder.parent)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def require_free(folder: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        Conflict: When it does.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(f"{folder} exists already", fix="choose another folder with --out")


def _unpack(archive: Path, building: Path, expected: Mapping[str, str]) -> None:
    found: set[str] = set()
    try:
        with tarfile.open(archive, mode="r:") as tar:
            for entry in tar:
                name = entry.name
                # The name is looked up, never joined as it came: no path can lead outside.
                if name not in expected or name in found or not _NAME.fullmatch(name):
                    raise VerificationFailed(f"the release holds an unexpected file {name[:100]!r}")
                stream = tar.extractfile(entry) if entry.isreg() else None
                if stream is None or entry.size > MAX_FILE_BYTES:
                    raise VerificationFailed(f"{name} in the release is no regular file")
                with (building / name).open("xb") as out:
                    shutil.copyfileobj(stream, out)
                    out.flush()
                    os.fsync(out.fileno())
                if digest_of(building / name) != expected[name]:
                    raise VerificationFailed(f"{name} in the release is not what was signed")
                require_inert(building / name)
                found.add(name)
    except tarfile.TarError as error:
        raise VerificationFailed(f"the release is not a tar archive: {error}") from error
    missing = sorted(set(expected) - found)
    if missing:
        raise VerificationFailed(f"the release lacks {', '.join(missing)}")


def _nonce(prefix: bytes, number: int, *, last: bool) -> bytes:
    if number >= MAX_CHUNKS:
        raise MalformedInput("the file is too large to encrypt")
    return prefix + number.to_bytes(4, "big") + (b"\x01" if last else b"\x00")


def _chunks(stream: BinaryIO, size: int) -> Iterator[tuple[bytes, bool]]:
    """Chunks of a stream, each with whether it is the last; an empty stream has one empty chunk."""
    chunk = stream.read(size)
    while True:
        following = stream.read(size)
        yield chunk, not following
        if not following:
            return
        chunk = following
