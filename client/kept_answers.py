"""The site's last answer to each plan, kept sealed until nobody can ask for it again.

A round is trained once for ever (`client.ledger`). Between its training and the coordinator's
receipt this process or the coordinator may be killed; without the answer the round's epsilon would
be spent for nothing. So the answer is durable before it is first sent, and the same question gets
the very same answer, byte for byte, which tells nothing more and costs nothing more.

Formal guarantees:

* An answer is on disk only as AES-256-GCM ciphertext, bound to site, plan, round and the digest of
  the state that it was asked for; with any other question it does not open.
* One answer a plan: that of the next round takes its place. When the plan ends, its key is
  destroyed and the file is removed.
* An erasure drops all of them (`client.erasure`): an update that was trained with somebody's
  records is computed from them, and what was not sent before the erasure is not sent after it.

| what is found | what happens |
|---|---|
| no file, or one of another question | no answer; the ledger refuses to train again |
| a file that was altered, moved or cut off | as if there were none |
| a key that was destroyed (a crash within `drop`) | as if there were none |
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from audit.canonical import canonical_bytes
from audit.durable import remove_durably, write_durably
from audit.envelope import NONCE_BYTES, Envelope, seal, unseal
from audit.errors import MalformedInput, NotFound, VerificationFailed
from audit.key_manager import KeyDestroyed

if TYPE_CHECKING:
    from client.arrays import Arrays

FOLDER_MODE = 0o700

KEY_PREFIX = "answer:"
"""Data keys of kept answers in the site's keyring: `answer:<16 random hexadecimal digits>`."""

_MAGIC = b"fiduciary.kept-answer/1\n"
_LENGTH_BYTES = 8
_FOLDER_DIGITS = 16
_KEY_DIGITS = 16


class Keys(Protocol):
    """The part of `audit.keyring.Keyring` that seals answers."""

    def generate_data_key(self, name: str) -> bytes:
        """The data key of this name, made durably if there was none."""

    def data_key(self, name: str) -> bytes:
        """The data key of this name."""

    def destroy(self, name: str) -> bool:
        """Destroy a data key for ever."""


@dataclass(frozen=True)
class Asked:
    """A question: the same one gets the same answer.

    Attributes:
        plan_id: Digest of the plan.
        round: Round, from 0.
        state_digest: Digest of the global state that was sent.
    """

    plan_id: str
    round: int
    state_digest: str


@dataclass(frozen=True)
class Answer:
    """What the coordinator gets: arrays, and the site's signed report of exactly them."""

    arrays: Arrays
    report: dict[str, Any]


class KeptAnswers:
    """The kept answers of one site.

    Args:
        folder: Where they lie, one file a plan; made when it is needed.
        keys: The site's keyring.
        site: The site's name.
    """

    def __init__(self, folder: Path, keys: Keys, site: str) -> None:
        self._folder = folder
        self._keys = keys
        self._site = site

    def keep(self, asked: Asked, answer: Answer) -> None:
        """Keep an answer instead of the plan's last one; durable when this returns.

        Raises:
            OSError: When it cannot be written.
            KeyringUnavailable: When it cannot be sealed.
        """
        from client.arrays import pack_arrays  # loads numpy; erasing needs none

        self._folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
        path = self._path(asked.plan_id)
        name = _key_name(path) or KEY_PREFIX + secrets.token_hex(_KEY_DIGITS // 2)
        try:
            key = self._keys.generate_data_key(name)
        except KeyDestroyed:
            name = KEY_PREFIX + secrets.token_hex(_KEY_DIGITS // 2)
            key = self._keys.generate_data_key(name)
        report = json.dumps(answer.report, sort_keys=True).encode()
        plain = len(report).to_bytes(_LENGTH_BYTES, "big") + report + pack_arrays(answer.arrays)
        sealed = seal(key, plain, self._bound_to(asked))
        header = _MAGIC + name.encode("ascii") + b"\n"
        write_durably(path, header + sealed.nonce + sealed.ciphertext)

    def find(self, asked: Asked) -> Answer | None:
        """The answer that this question got; None when there is none, or none that opens."""
        from client.arrays import unpack_arrays

        path = self._path(asked.plan_id)
        name = _key_name(path)
        if name is None:
            return None
        try:
            body = path.read_bytes()[len(_MAGIC) + len(name) + 1 :]
            envelope = Envelope(body[:NONCE_BYTES], body[NONCE_BYTES:])
            plain = unseal(self._keys.data_key(name), envelope, self._bound_to(asked))
        except (FileNotFoundError, KeyDestroyed, MalformedInput, NotFound, VerificationFailed):
            return None
        end = _LENGTH_BYTES + int.from_bytes(plain[:_LENGTH_BYTES], "big")
        return Answer(unpack_arrays(plain[end:]), json.loads(plain[_LENGTH_BYTES:end]))

    def drop(self, plan_id: str) -> None:
        """Destroy the answer to an ended plan; harmless when there is none."""
        self._drop(self._path(plan_id))

    def drop_all(self) -> int:
        """Destroy the answers to all plans; how many there were."""
        found = sorted(self._folder.glob("*.sealed")) if self._folder.is_dir() else []
        for path in found:
            self._drop(path)
        return len(found)

    def _drop(self, path: Path) -> None:
        name = _key_name(path)
        if name is not None:
            # The key first: without it the file is noise, whatever the disk keeps of it.
            self._keys.destroy(name)
        if path.is_file():
            remove_durably(path)

    def _path(self, plan_id: str) -> Path:
        return self._folder / f"{plan_id.removeprefix('sha256:')[:_FOLDER_DIGITS]}.sealed"

    def _bound_to(self, asked: Asked) -> bytes:
        return canonical_bytes(
            {
                "format": "fiduciary.kept-answer/1",
                "site": self._site,
                "plan": asked.plan_id,
                "round": asked.round,
                "state": asked.state_digest,
            }
        )


def _key_name(path: Path) -> str | None:
    """Name of the key that a file was sealed with; None when it is absent or no such file."""
    try:
        with path.open("rb") as file:
            head = file.read(len(_MAGIC) + len(KEY_PREFIX) + _KEY_DIGITS + 1)
    except FileNotFoundError:
        return None
    name = head.removeprefix(_MAGIC)
    if name == head or not name.startswith(KEY_PREFIX.encode()) or not name.endswith(b"\n"):
        return None
    digits = name[len(KEY_PREFIX) : -1]
    if len(digits) != _KEY_DIGITS or any(digit not in b"0123456789abcdef" for digit in digits):
        return None
    return name[:-1].decode("ascii")
