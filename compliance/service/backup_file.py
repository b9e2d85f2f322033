"""A backup's file: a stream of encrypted chunks, for whoever knows a passphrase or holds a key.

```
fiduciary.backup/1 <newline>
{"chunk_bytes":1048576,"format":"fiduciary.backup/1", "lock":{…}} <newline>      canonical JSON
chunk · chunk · … · last chunk                                   AES-256-GCM, 16-byte tag each
```

* The stream's key is random and used for this file alone. The lock holds it, encrypted with a key
  that scrypt (RFC 7914) makes of a passphrase, or sealed to a recipient's public key
  (`audit.hpke`), so that a machine can make backups that it cannot read.
* Chunks are numbered, and the last one says that it is the last (the STREAM construction of Hoang,
  Reyhanitabar, Rogaway and Vizár, 2015): changed, exchanged, left out or cut off, the file does not
  open. The header is the associated data of every chunk.

**Formal guarantees** (SP 800-38D, IND-CCA2 of the HPKE suite): whoever has neither passphrase nor
key learns nothing but the length, and cannot change what opens. What was read from a chunk is
authentic; that the file is whole is known at its end.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import IO, Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from audit.canonical import canonical_bytes, parse_canonical_object
from audit.encoding import decode_base64, encode_base64
from audit.envelope import KEY_BYTES, NONCE_BYTES, TAG_BYTES, Envelope, make_cipher, seal, unseal
from audit.errors import MalformedInput, VerificationFailed
from audit.hpke import open_with, seal_to

FORMAT: Final = "fiduciary.backup/1"
CHUNK_BYTES: Final = 1 << 20
MIN_PASSPHRASE_LENGTH: Final = 12
"""A backup can be tried offline, as often as somebody likes."""

_MAGIC: Final = f"{FORMAT}\n".encode("ascii")
_MAX_HEADER_BYTES: Final = 4096
_SCRYPT_LOG_N: Final = 17
_SALT_BYTES: Final = 16
_INFO: Final = canonical_bytes({"format": FORMAT})


@dataclass(frozen=True)
class Passphrase:
    """Locks and opens backups by a passphrase."""

    text: str

    def lock(self, key: bytes) -> dict[str, Any]:
        """The stream's key, locked.

        Raises:
            MalformedInput: When the passphrase is too short.
        """
        if len(self.text) < MIN_PASSPHRASE_LENGTH:
            raise MalformedInput(
                f"the passphrase has fewer than {MIN_PASSPHRASE_LENGTH} characters",
                fix="take five words or more that nobody connects with you",
            )
        salt = os.urandom(_SALT_BYTES)
        envelope = seal(self._derive(salt, _SCRYPT_LOG_N), key, _INFO)
        return {
            "kind": "passphrase",
            "scrypt_log_n": _SCRYPT_LOG_N,
            "salt": encode_base64(salt),
            "key": encode_base64(envelope.nonce + envelope.ciphertext),
        }

    def open(self, lock: dict[str, Any]) -> bytes:
        """The stream's key.

        Raises:
            VerificationFailed: When the passphrase is another.
            MalformedInput: When the lock is none, or of another kind.
        """
        _check_kind(lock, "passphrase", "--passphrase-file")
        if lock.get("scrypt_log_n") != _SCRYPT_LOG_N:
            raise MalformedInput("malformed backup: its passphrase is derived in another way")
        sealed = _octets(lock, "key")
        derived = self._derive(_octets(lock, "salt"), _SCRYPT_LOG_N)
        try:
            return unseal(derived, Envelope(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]), _INFO)
        except VerificationFailed as error:
            raise VerificationFailed("the backup does not open with this passphrase") from error

    def _derive(self, salt: bytes, log_n: int) -> bytes:
        return Scrypt(salt=salt, length=KEY_BYTES, n=1 << log_n, r=8, p=1).derive(
            self.text.encode("utf-8")
        )


@dataclass(frozen=True)
class Recipient:
    """Locks backups for the holder of an X25519 key.

    Attributes:
        public_key: 32 bytes.
    """

    public_key: bytes

    def lock(self, key: bytes) -> dict[str, Any]:
        """The stream's key, locked.

        Raises:
            MalformedInput: When the public key is none.
        """
        return {
            "kind": "recipient",
            "recipient": encode_base64(self.public_key),
            "key": encode_base64(seal_to(self.public_key, key, _INFO)),
        }


@dataclass(frozen=True)
class RecipientKey:
    """Opens backups that were locked for it."""

    private_key: X25519PrivateKey

    def open(self, lock: dict[str, Any]) -> bytes:
        """The stream's key.

        Raises:
            VerificationFailed: When it was locked for another key.
            MalformedInput: When the lock is none, or of another kind.
        """
        _check_kind(lock, "recipient", "--key-file")
        try:
            return open_with(self.private_key, _octets(lock, "key"), _INFO)
        except VerificationFailed as error:
            raise VerificationFailed(
                "the backup does not open with this key",
                fix=f"it was made for the public key {lock.get('recipient')}",
            ) from error


class SealedWriter:
    """Writes a backup's file; `write` as often as wanted, then `finish` once."""

    def __init__(self, file: IO[bytes], lock: Passphrase | Recipient) -> None:
        key = os.urandom(KEY_BYTES)
        header = {"format": FORMAT, "chunk_bytes": CHUNK_BYTES, "lock": lock.lock(key)}
        encoded = canonical_bytes(header) + b"\n"
        self._file = file
        self._cipher = make_cipher(key)
        self._header = hashlib.sha256(encoded).digest()
        self._pending = bytearray()
        self._number = 0
        file.write(_MAGIC + encoded)

    def write(self, data: bytes) -> int:
        """Encrypt what comes."""
        self._pending += data
        while len(self._pending) > CHUNK_BYTES:  # the last chunk is known only at the end
            self._put(bytes(self._pending[:CHUNK_BYTES]), last=False)
            del self._pending[:CHUNK_BYTES]
        return len(data)

    def finish(self) -> None:
        """Write the last chunk; without it the file does not open."""
        self._put(bytes(self._pending), last=True)

    def _put(self, chunk: bytes, *, last: bool) -> None:
        nonce = _nonce(self._number, last=last)
        self._file.write(self._cipher.encrypt(nonce, chunk, self._header))
        self._number += 1


class SealedReader:
    """Reads a backup's file."""

    def __init__(self, file: IO[bytes], lock: Passphrase | RecipientKey) -> None:
        """Read the header.

        Raises:
            MalformedInput: When it is no backup.
            VerificationFailed: When the passphrase or key is another.
        """
        if file.read(len(_MAGIC)) != _MAGIC:
            raise MalformedInput(
                "this is no backup of a compliance service",
                fix="give a file that `compliance backup` wrote",
            )
        encoded = file.readline(_MAX_HEADER_BYTES)
        header = parse_canonical_object(encoded.removesuffix(b"\n"))
        locked = header.get("lock")
        if header.get("format") != FORMAT or header.get("chunk_bytes") != CHUNK_BYTES:
            raise MalformedInput("malformed backup: its header is of another format")
        if not isinstance(locked, dict):
            raise MalformedInput("malformed backup: it has no lock")
        self._file = file
        self._header = hashlib.sha256(encoded).digest()
        self._cipher = make_cipher(lock.open(locked))
        self._plain = b""
        self._number = 0
        self._sealed = file.read(CHUNK_BYTES + TAG_BYTES)
        self._ended = False

    def read(self, size: int = -1) -> bytes:
        """The next octets; fewer at the end only.

        Raises:
            VerificationFailed: When a chunk was changed, or the file does not end with its last.
        """
        parts = [self._plain]
        have = len(self._plain)
        while not self._ended and (size < 0 or have < size):
            parts.append(self._next())
            have += len(parts[-1])
        data = b"".join(parts)
        if size < 0:
            size = len(data)
        self._plain = data[size:]
        return data[:size]

    def _next(self) -> bytes:
        following = self._file.read(CHUNK_BYTES + TAG_BYTES)
        nonce = _nonce(self._number, last=not following)
        try:
            chunk = self._cipher.decrypt(nonce, self._sealed, self._header)
        except (InvalidTag, ValueError) as error:
            raise VerificationFailed(
                "the backup was changed, or is not whole",
                fix="use another copy of it, or an earlier backup",
            ) from error
        self._number += 1
        self._ended = not following
        self._sealed = following
        return chunk


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(NONCE_BYTES - 1, "big") + (b"\x01" if last else b"\x00")


def _check_kind(lock: dict[str, Any], kind: str, option: str) -> None:
    if lock.get("kind") != kind:
        wanted = {"passphrase": "--passphrase-file", "recipient": "--key-file"}
        raise MalformedInput(
            f"the backup is not locked in the way that {option} opens",
            fix=f"use {wanted.get(str(lock.get('kind')), 'a newer version of this program')}",
        )


def _octets(lock: dict[str, Any], name: str) -> bytes:
    value = lock.get(name)
    if not isinstance(value, str):
        raise MalformedInput(f"malformed backup: its lock has no {name}")
    return decode_base64(value, f"{name} of the backup's lock")
