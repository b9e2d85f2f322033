"""The log: entries go in under one signature, and nothing is ever taken back.

* `AuditLog.append` runs inside the caller's transaction and never commits: what happened and the
  entry that says so become durable together or not at all.
* Every append ends in a signed checkpoint that covers it, in the same transaction.
* The log never signs two histories: before it appends, it checks that the stored tree is the one
  that its last checkpoint signed, and refuses to go on if somebody changed it underneath.
* Payloads are sealed per subject, or per action and month where there is no subject, so that a
  subject, or one kind of entry of one month, can be forgotten by destroying one key.
* Superseded checkpoints are dropped except the last of each `CHECKPOINT_BLOCK` entries: those let a
  verifier say which block was tampered with.

Decision record: docs/adr/0003-log-format.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from json.encoder import encode_basestring
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from audit.canonical import canonical_bytes, parse_canonical_object
from audit.checkpoint import Checkpoint, sign_checkpoint, verify_checkpoint
from audit.envelope import NONCE_BYTES, make_cipher, unseal
from audit.errors import Conflict, FiduciaryError, MalformedInput, NotFound
from audit.key_manager import DataKeys
from audit.keys import SigningKey, VerifyKey
from audit.leaf import (
    Leaf,
    associated_data,
    check_clear_fields,
    format_time,
    leaf_bytes,
    leaf_texts,
)
from audit.merkle import Frontier, consistency_proof, hash_leaf
from audit.storage import (
    LOG_FORMAT,
    META_FORMAT,
    META_KEY,
    META_ORIGIN,
    Append,
    LogReader,
    LogStorage,
    LogTampered,
    latest_head,
    prove_entry,
    read_leaf,
    with_hashes,
)
from audit.words import count_of

CHECKPOINT_BLOCK: Final = 1024
"""A kept checkpoint costs 200 bytes and a signature check, so one in 1024 entries is free."""

_NONCES: Final = 32
"""Nonces that are drawn at once."""

MAX_PAYLOAD_BYTES: Final = 8 * 1024 * 1024
"""As large as the largest statement that a payload may quote."""


@dataclass(frozen=True)
class Entry:
    """What somebody wants recorded.

    Attributes:
        actor: Who did it, such as `officer:anna`.
        action: What was done, such as `plan.approved`: lower case, digits, `. _ : / -`.
        object: What it was done to; about a statement, `SignedStatement.log_object`.
        subject: Keyed pseudonym of the data subject concerned, if any.
        payload: Details, sealed; canonical JSON must be able to hold them.
        outlives_subject: Seals the payload under the action's key although there is a subject. For
            the evidence that a subject was erased, which must stay readable when the key is gone.
        subject_generation: Which of the subject's keys; counts up when an erased subject returns.
    """

    actor: str
    action: str
    object: str
    subject: str | None
    payload: Mapping[str, Any]
    outlives_subject: bool = False
    subject_generation: int = 1

    def __post_init__(self) -> None:
        check_clear_fields(self.actor, self.action, self.object, self.subject)


class Appended(NamedTuple):
    """An entry that is in the log as soon as the caller's transaction is committed.

    Attributes:
        position: From 0.
        leaf_hash: 32 bytes, RFC 6962.
        time: As the leaf says it.
        leaf: The bytes that were hashed.
    """

    position: int
    leaf_hash: bytes
    time: str
    leaf: bytes


def utc_clock() -> datetime:
    """The present, with its zone."""
    return datetime.now(UTC)


class AuditLog:
    """Appends to, reads from and proves one log. Holds no transaction and no connection.

    Safe under threads and processes as far as `LogStorage.lock` keeps appenders apart.
    """

    def __init__(
        self,
        origin: str,
        signer: SigningKey,
        keys: DataKeys,
        clock: Callable[[], datetime] = utc_clock,
    ) -> None:
        """A log by its name and keys.

        Args:
            origin: Unique name of the log, such as `fiduciary.example/compliance`; one line.
            signer: Signs the checkpoints; its name should be the origin (C2SP tlog-checkpoint).
            keys: Data keys of the payloads.
            clock: The present time, with a zone.

        Raises:
            MalformedInput: When the origin is empty, too long or not one printable line.
        """
        if not 1 <= len(origin) <= 200 or not origin.isprintable():
            raise MalformedInput("malformed origin: expected 1 to 200 printable characters")
        self.origin = origin
        self._signer = signer
        self._keys = keys
        self._clock = clock
        self._head: tuple[str, Frontier] | None = None

    @property
    def key(self) -> VerifyKey:
        """The key that verifies this log."""
        return self._signer.public

    def create(self, storage: LogStorage) -> None:
        """Begin an empty log: its name, its key, and the signed checkpoint of size 0.

        Raises:
            Conflict: When the storage holds a log already.
        """
        if storage.read_meta(META_ORIGIN) is not None or storage.size() > 0:
            raise Conflict("this database holds a log already", fix="choose another database")
        storage.write_meta(META_FORMAT, LOG_FORMAT)
        storage.write_meta(META_ORIGIN, self.origin)
        storage.write_meta(META_KEY, self.key.encoded())
        empty = Frontier()
        note = self._sign(empty)
        storage.write_checkpoint(empty.size, note)
        self._head = (note, empty)

    def check(self, storage: LogReader) -> None:
        """Check at start that the stored log is this one and its head is what was signed.

        Raises:
            NotFound: When there is no log.
            Conflict: When it is another log, or has another key.
            LogTampered: When the stored tree is not the one that was signed.
        """
        if storage.read_meta(META_FORMAT) != LOG_FORMAT:
            raise NotFound(f"this database holds no log of format {LOG_FORMAT}")
        for name, expected in ((META_ORIGIN, self.origin), (META_KEY, self.key.encoded())):
            stored = storage.read_meta(name)
            if stored != expected:
                raise Conflict(
                    f"the stored log's {name} is {stored}, expected {expected}",
                    fix="use the signing key and the name that the log was created with",
                )
        self._verified_head(storage)

    def append(self, storage: LogStorage, entry: Entry) -> Appended:
        """Append one entry and sign the new tree head, in the caller's transaction.

        Raises:
            KeyDestroyed: When the entry's subject was forgotten (see `Entry.outlives_subject`).
            LogTampered: When the stored log is not the one that was signed last.
            MalformedInput: When the payload has no canonical form or is too large.
        """
        return self.append_many(storage, [entry])[0]

    def append_many(self, storage: LogStorage, entries: Iterable[Entry]) -> list[Appended]:
        """Append entries in order under one new tree head, in the caller's transaction.

        Raises:
            KeyDestroyed: As `append`; nothing must then be committed.
            LogTampered: As `append`.
            MalformedInput: As `append`.
        """
        (appended,), _ = self.append_each(storage, [tuple(entries)])
        if isinstance(appended, FiduciaryError):
            raise appended
        return appended

    def append_each(
        self, storage: LogStorage, groups: Sequence[Sequence[Entry]]
    ) -> tuple[list[list[Appended] | FiduciaryError], str]:
        """Append groups of entries in order under one new tree head, in the caller's transaction.

        Each group is there whole or not at all. A group that cannot be recorded (see `append`) is
        left out and its error returned in its place: it does not hold up the others.

        Returns:
            For each group its entries, or why it was left out; and the checkpoint over all of them.

        Raises:
            LogTampered: When the stored log is not the one that was signed last.
        """
        storage.lock()
        note, before = self._verified_head(storage)
        sealing = _Sealing(self.origin, self._keys, format_time(self._clock()), before.size)
        results: list[list[Appended] | FiduciaryError] = []
        for group in groups:
            try:
                results.append(sealing.seal(group))
            except FiduciaryError as error:
                results.append(error)
        if sealing.appended:
            frontier, nodes = before.extend([entry.leaf_hash for entry in sealing.appended])
            note = self._sign(frontier)
            same_block = before.size // CHECKPOINT_BLOCK == frontier.size // CHECKPOINT_BLOCK
            storage.write_append(
                Append(
                    before.size,
                    [entry.leaf for entry in sealing.appended],
                    nodes,
                    frontier.size,
                    note,
                    before.size if same_block else None,
                )
            )
            self._head = (note, frontier)
        return results, note

    def read(self, storage: LogReader, position: int) -> tuple[Leaf, dict[str, Any]]:
        """An entry and its payload.

        Raises:
            NotFound: When there is no such entry.
            KeyDestroyed: When the payload was forgotten.
            VerificationFailed: When the entry was changed or moved.
        """
        leaf = read_leaf(storage, position)
        return leaf, self.open(leaf)

    def open(self, leaf: Leaf) -> dict[str, Any]:
        """The payload of a leaf of this log.

        Raises:
            KeyDestroyed: When the payload was forgotten.
            VerificationFailed: When the entry was changed or moved.
        """
        return open_payload(leaf, self.origin, self._keys)

    def checkpoint(self, storage: LogReader) -> str:
        """The signed checkpoint of the whole log.

        Raises:
            NotFound: When there is no log.
        """
        return latest_head(storage)[0]

    def prove(self, storage: LogReader, position: int, *, with_leaf: bool = False) -> str:
        """The tlog-proof text of an entry, against the latest checkpoint; see `prove_entry`."""
        return prove_entry(storage, position, with_leaf=with_leaf).encoded()

    def consistency(self, storage: LogReader, first: int, second: int) -> tuple[bytes, ...]:
        """Proof that the log of `first` entries is a prefix of the log of `second`.

        Raises:
            NotFound: Unless `0 <= first <= second <= size`.
        """
        try:
            path = with_hashes(storage, lambda read: consistency_proof(read, first, second))
        except LogTampered:
            _check_reaches(storage, second)
            raise
        if not path:  # otherwise the hashes that were found say so, without another question
            _check_reaches(storage, second)
        return path

    def _verified_head(self, storage: LogReader) -> tuple[str, Frontier]:
        """The stored tree's right edge, known to be the one that was signed last.

        The last head is remembered. It is the stored one exactly when the note is: another process
        that appended, or a transaction that was rolled back, leaves another note.
        """
        note, size = latest_head(storage)
        head = self._head
        if head is not None and head[0] == note:
            frontier = head[1]
        else:
            checkpoint = verify_checkpoint(note, self.key, self.origin)
            frontier = Frontier(checkpoint.size)
            if checkpoint.size <= size:
                frontier = with_hashes(storage, lambda read: Frontier.load(read, checkpoint.size))
                if frontier.root() != checkpoint.root:
                    raise LogTampered(
                        f"the stored tree of {size} entries is not the one that was signed",
                        fix="stop, keep the database as it is, and run: audit verify",
                    )
        if frontier.size != size:
            raise LogTampered(
                f"the log holds {count_of(size, 'entry')} but its last checkpoint signs"
                f" {frontier.size}",
                fix="stop, keep the database as it is, and run: audit verify",
            )
        self._head = (note, frontier)
        return self._head

    def _sign(self, frontier: Frontier) -> str:
        head = Checkpoint(self.origin, frontier.size, frontier.root())
        return sign_checkpoint(head, self._signer)


class _Sealing:
    """Entries on their way into one transaction: sealed, encoded and hashed, not yet stored."""

    def __init__(self, origin: str, keys: DataKeys, time: str, size: int) -> None:
        self._origin = encode_basestring(origin)
        self._keys = keys
        self._time = time
        self._size = size
        self._ciphers: dict[str, AESGCM] = {}
        self._nonces: list[bytes] = []
        self.appended: list[Appended] = []

    def seal(self, entries: Sequence[Entry]) -> list[Appended]:
        """Take in a group of entries, all of it or nothing.

        Raises:
            FiduciaryError: As `AuditLog.append`.
        """
        group: list[Appended] = []
        for position, entry in enumerate(entries, start=self._size + len(self.appended)):
            leaf = self._leaf(entry, position)
            group.append(Appended(position, hash_leaf(leaf), self._time, leaf))
        self.appended += group
        return group

    def _leaf(self, entry: Entry, position: int) -> bytes:
        payload = canonical_bytes(entry.payload)
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise MalformedInput(f"malformed log entry: payload over {MAX_PAYLOAD_BYTES} bytes")
        name = data_key_name(entry, self._time)
        cipher = self._ciphers.get(name)
        if cipher is None:
            cipher = self._ciphers[name] = make_cipher(self._keys.generate_data_key(name))
        texts = leaf_texts(
            position, self._time, entry.actor, entry.action, entry.object, entry.subject, name
        )
        if not self._nonces:
            self._nonces = _draw_nonces()
        nonce = self._nonces.pop()
        data = associated_data(texts, self._origin)
        return leaf_bytes(texts, nonce, cipher.encrypt(nonce, payload, data))


def _check_reaches(storage: LogReader, size: int) -> None:
    if size > storage.size():
        raise NotFound(f"the log has fewer than {count_of(size, 'entry')}")


def _draw_nonces() -> list[bytes]:
    """Many for one system call."""
    random = os.urandom(_NONCES * NONCE_BYTES)
    return [random[start : start + NONCE_BYTES] for start in range(0, len(random), NONCE_BYTES)]


def subject_key_name(subject: str, generation: int = 1) -> str:
    """Name of the data key of a subject: destroying it forgets what the log says of them.

    A destroyed name never gets a key again; a subject who comes back gets the next generation.

    >>> subject_key_name("ab"), subject_key_name("ab", 2)
    ('subject:ab', 'subject:ab:2')
    """
    return f"subject:{subject}" if generation == 1 else f"subject:{subject}:{generation}"


def action_key_name(action: str, month: str) -> str:
    """Name of the data key of one action in one month (`2026-01`): destroying it ends retention."""
    return f"action:{action}:{month}"


def data_key_name(entry: Entry, time: str) -> str:
    """Name of the data key that seals an entry recorded at `time`."""
    if entry.subject is None or entry.outlives_subject:
        return action_key_name(entry.action, time[:7])
    return subject_key_name(entry.subject, entry.subject_generation)


def open_payload(leaf: Leaf, origin: str, keys: DataKeys) -> dict[str, Any]:
    """The payload of a leaf of the log `origin`.

    Raises:
        KeyDestroyed: When it was forgotten.
        NotFound: When the keyring never had its key.
        VerificationFailed: When the leaf was changed, moved, or is of another log.
    """
    key = keys.data_key(leaf.key)
    return dict(parse_canonical_object(unseal(key, leaf.envelope, leaf.associated_data(origin))))
