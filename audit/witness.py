"""A witness: it watches one log, remembers the last head that it cosigned, and never takes it back.

* `judge` is the whole rule, and pure: a new head is accepted when the log's key signed it, it is of
  that log, and it extends the last one; otherwise it is refused, with one of five reasons.
* `Witness` is the rule with a memory. The order is the guarantee: verify, store head and own
  cosignature durably in one file, and only then hand the cosignature out. So a crash at any moment
  leaves a witness that has cosigned one history and remembers how far.
* Several processes may share the file: each decision is made and stored under a lock, against the
  head that is stored at that moment (tlog-witness, "atomically").
* A stored head that does not verify is refused, not replaced: whoever changed it would otherwise
  choose what this witness has seen. A file that was *removed*, or put back to an older one, cannot
  be told from a first use; see docs/adr/0011-witnesses.md.

The checks are those of https://c2sp.org/tlog-witness for `add-checkpoint`.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from audit.checkpoint import Checkpoint, verify_checkpoint
from audit.cosignature import (
    WitnessKey,
    cosign,
    lines_of,
    only_lines_of,
    verify_cosignature,
    with_lines,
)
from audit.durable import write_durably
from audit.errors import Conflict, FiduciaryError, MalformedInput, VerificationFailed
from audit.keys import SigningKey, VerifyKey
from audit.log import utc_clock
from audit.merkle import EMPTY_ROOT, verify_consistency
from audit.note import Note
from audit.words import count_of

MAX_CHECKPOINT_BYTES: Final = 64 * 1024
"""A checkpoint with the most signature lines that a note may have is half of this."""

Reason = Literal["other-key", "other-origin", "shrunk", "forked", "rewritten"]
"""Why a head is refused; the words are part of the public interface."""


class WitnessMoved(Conflict):
    """Another process stored a newer head meanwhile; ask the log again, from that one."""

    code = "witness-moved"


class WitnessStateAltered(VerificationFailed):
    """What this witness remembers is not what it stored."""

    code = "witness-state-altered"


@dataclass(frozen=True)
class Accepted:
    """A head that extends the last one."""

    checkpoint: Checkpoint


@dataclass(frozen=True)
class Refused:
    """A head that must not be cosigned: the log misbehaved, or somebody in its name.

    Attributes:
        reason: `other-key` (not signed by the log's key), `other-origin` (another log),
            `shrunk` (smaller than the last head), `forked` (as large, with other entries),
            `rewritten` (larger, but not shown to extend it).
        detail: One sentence with sizes and hashes, without anything secret.
    """

    reason: Reason
    detail: str


Verdict = Accepted | Refused


def judge(
    last: Checkpoint | None, note: str, proof: Sequence[bytes], log_key: VerifyKey, origin: str
) -> Verdict:
    """Whether a witness may cosign a head.

    Args:
        last: The head that it cosigned last, None for the first.
        note: The new head, a signed note.
        proof: RFC 6962 consistency proof from the last head to the new one; empty where the sizes
            are equal, and for the first.
        log_key: The log's key.
        origin: The log's name.

    Raises:
        MalformedInput: When the note is no checkpoint. Noise on the way is not the log's fault.
    """
    if len(note.encode("utf-8", "surrogatepass")) > MAX_CHECKPOINT_BYTES:
        raise MalformedInput(f"malformed checkpoint: more than {MAX_CHECKPOINT_BYTES} bytes")
    parsed = Note.parse(note)
    head = Checkpoint.parse_text(parsed.text)
    try:
        parsed.verify([log_key])
    except VerificationFailed as error:
        return Refused("other-key", f"the head of {count_of(head.size, 'entry')}: {error}")
    if head.origin != origin:
        return Refused("other-origin", f"the head is of the log {head.origin}, expected {origin}")
    base = Checkpoint(origin, 0, EMPTY_ROOT) if last is None else last
    if head.size < base.size:
        return Refused(
            "shrunk", f"the log has {count_of(head.size, 'entry')}, this witness saw {base.size}"
        )
    if head.size == base.size:
        if head.root != base.root:
            shown = f"{head.root.hex()[:16]}…, this witness saw {base.root.hex()[:16]}…"
            return Refused("forked", f"the root of {head.size} entries is {shown}")
        return Accepted(head)
    try:
        verify_consistency(base.size, head.size, base.root, head.root, proof)
    except VerificationFailed as error:
        return Refused(
            "rewritten",
            f"the log of {head.size} entries does not extend the {base.size} that this witness"
            f" saw: {error}",
        )
    return Accepted(head)


@dataclass(frozen=True)
class Held:
    """The last head that a witness accepted.

    Attributes:
        note: The log's signed note, with the witness's own line behind the log's.
        checkpoint: What it says.
        unix_seconds: When the witness cosigned it; None for a head that an older version kept,
            which only remembered.
    """

    note: str
    checkpoint: Checkpoint
    unix_seconds: int | None


class Witness:
    """Watches one log, with its memory in one file.

    Args:
        path: Where the last head is; a signed note, readable by every other implementation.
        log_key: The log's key.
        origin: The log's name.
        signer: The witness's key.
        clock: The present time, with a zone.
        write: Writes a file atomically and durably; tests let it fail.
    """

    def __init__(
        self,
        path: Path,
        *,
        log_key: VerifyKey,
        origin: str,
        signer: SigningKey,
        clock: Callable[[], datetime] = utc_clock,
        write: Callable[[Path, bytes], None] = write_durably,
    ) -> None:
        self._path = path
        self._log_key = log_key
        self._origin = origin
        self._signer = signer
        self._clock = clock
        self._write = write

    @property
    def key(self) -> WitnessKey:
        """The key that verifies what this witness cosigns."""
        return WitnessKey.of(self._signer.public)

    def held(self) -> Held | None:
        """The last head, or None before the first.

        Raises:
            WitnessStateAltered: When the file is not what this witness wrote.
        """
        try:
            note = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as error:
            raise self._altered("it is not UTF-8") from error
        try:
            head = verify_checkpoint(note, self._log_key, self._origin)
            cosigned = bool(lines_of(note, self.key))
            unix_seconds = verify_cosignature(note, self.key)[1] if cosigned else None
        except FiduciaryError as error:
            raise self._altered(str(error)) from error
        return Held(note, head, unix_seconds)

    def advance(self, note: str, proof: Sequence[bytes], *, since: int) -> Held | Refused:
        """Accept a head: remember it durably, cosigned, and hand the cosigned note out.

        A head that is held already is handed out as it is held, with its first time.

        Args:
            note: The new head, a signed note.
            proof: Consistency proof from the head of `since` entries.
            since: Size of the head that was held when the log was asked; 0 for none.

        Returns:
            What is held now, with this witness's line, or why the head is refused.

        Raises:
            WitnessMoved: When another head than that of `since` entries is held by now.
            WitnessStateAltered: As `held`.
            MalformedInput: As `judge`.
            OSError: When it cannot be stored. Nothing was handed out then.
        """
        with self._locked():
            held = self.held()
            last = None if held is None else held.checkpoint
            if since != (0 if last is None else last.size):
                raise WitnessMoved(
                    f"this witness holds another head than that of {count_of(since, 'entry')} by"
                    " now",
                    fix="ask the log again",
                )
            verdict = judge(last, note, proof, self._log_key, self._origin)
            if isinstance(verdict, Refused):
                return verdict
            known = held is not None and held.unix_seconds is not None
            if held is not None and known and held.checkpoint == verdict.checkpoint:
                return held
            unix_seconds = int(self._clock().timestamp())
            line = cosign(note, self._signer, unix_seconds)
            cosigned = with_lines(only_lines_of(note, self._log_key), [line])
            self._write(self._path, cosigned.encode("utf-8"))
            return Held(cosigned, verdict.checkpoint, unix_seconds)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._path.with_name(f"{self._path.name}.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _altered(self, why: str) -> WitnessStateAltered:
        return WitnessStateAltered(
            f"{self._path.name} does not verify: {why}",
            fix=f"find out who changed it; restore {self._path.name} from a backup",
        )
