"""Writes bundles (`audit.bundle`).

* A bundle is written beside its target, synced, and given its name only when it is complete.
* Everything comes from one moment of the log. No key is needed; opened payloads need the keyring.
* Proofs are made against the checkpoint that most witnesses cosigned among those that cover the
  chosen entries: an outsider who knows the witnesses then needs nobody else.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from audit.bundle import (
    CHECKPOINT,
    CHECKPOINTS,
    COSIGNATURES,
    ENTRIES,
    LOG_KEY,
    MANIFEST,
    PAYLOADS,
    PROGRESS_INTERVAL,
    README,
    SELECTION,
    WHOLE,
    WITNESS_KEYS,
    Manifest,
)
from audit.canonical import canonical_bytes
from audit.checkpoint import read_checkpoint
from audit.cosignature import WitnessKey, with_lines
from audit.durable import private_temporary, sync_directory
from audit.errors import Conflict, NotFound, VerificationFailed
from audit.key_manager import DataKeys, KeyDestroyed
from audit.leaf import Leaf
from audit.log import open_payload
from audit.note import Note
from audit.search import EntryFilter, streamed_leaves
from audit.source import LogSource
from audit.storage import META_FORMAT, META_KEY, META_ORIGIN, LogReader, latest_head, prove_entry
from audit.verifier import Progress
from audit.words import count_of

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
"""The earliest time that ZIP can write: the same log gives the same bytes."""

_README: Final = """\
This archive holds evidence from the audit log {origin}.

It was made by an operator of that log, but you need not trust them: whether it is complete and
unchanged is recomputed from its own bytes, without a network and without any secret.

  pip install fiduciary
  audit verify THIS_FILE --key LOG_KEY

LOG_KEY is the log's public key. The one that this archive states is in {key_member}; get it from
its owner by another way and compare. If you know public keys of witnesses, add
  --witnesses 2 --witness KEY --witness KEY

What is here: {what}
Payloads are encrypted in the log{payloads}.
"""


class Exported(NamedTuple):
    """What was written.

    Attributes:
        kind: `whole` or `selection`.
        entries: Number of entries.
        payloads: Number of opened payloads.
        forgotten: Payloads that nobody can open any more.
    """

    kind: str
    entries: int
    payloads: int
    forgotten: int


def export_bundle(
    source: LogSource,
    target: Path,
    *,
    wanted: EntryFilter | None = None,
    keys: DataKeys | None = None,
    witnesses: Sequence[WitnessKey] = (),
    progress: Progress | None = None,
) -> Exported:
    """Write a bundle.

    Args:
        source: The log.
        target: File to make; an existing one is not overwritten.
        wanted: Only these entries, each with its proof; None for the whole log.
        keys: Opens payloads, which are then in the bundle too.
        witnesses: Keys to put beside the log's, as a hint for whoever checks it.
        progress: Called now and then with the entries written and the number expected.

    Raises:
        NotFound: When there is no log, or no entry that is wanted.
        Conflict: When the target exists.
        VerificationFailed: When an entry is missing or is not what it should be.
    """
    if target.exists():
        raise Conflict(f"{target} exists already", fix="choose another file name")
    temporary = private_temporary(target)
    try:
        with temporary.open("wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
                exported = _Writer(source, archive, keys, witnesses, progress).write(wanted)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        sync_directory(target.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return exported


def widest_note(reader: LogReader, covers: int) -> str:
    """The checkpoint that most witnesses cosigned, with all their lines.

    Args:
        reader: The log.
        covers: It must sign at least so many entries.

    Returns:
        Of several with as many witnesses, the largest; the latest checkpoint if there is none.
    """
    together: dict[int, str] = {}
    for item in reader.cosignatures():
        if item.size >= covers:
            known = together.setdefault(item.size, item.note)
            together[item.size] = with_lines(known, Note.parse(item.note).signatures)
    if not together:
        return latest_head(reader)[0]
    return max(together.items(), key=lambda item: (item[1].count("\n"), item[0]))[1]


class _Writer:
    def __init__(
        self,
        source: LogSource,
        archive: zipfile.ZipFile,
        keys: DataKeys | None,
        witnesses: Sequence[WitnessKey],
        progress: Progress | None,
    ) -> None:
        self._source = source
        self._archive = archive
        self._keys = keys
        self._witnesses = witnesses
        self._progress = progress
        self._meta = source.meta()
        self._payloads: list[tuple[int, Any]] = []
        self._forgotten = 0

    def write(self, wanted: EntryFilter | None) -> Exported:
        kind = WHOLE if wanted is None else SELECTION
        if wanted is None:
            note = self._latest_checkpoint()
            entries = self._write_entries()
            self._put_lines(CHECKPOINTS, self._checkpoints())
        else:
            note, entries = self._write_proofs(wanted)
        self._put(CHECKPOINT, note.encode())
        self._put_lines(COSIGNATURES, self._cosignatures())
        self._put(LOG_KEY, f"{self._meta[META_KEY]}\n".encode())
        self._put(WITNESS_KEYS, "".join(f"{key.encoded()}\n" for key in self._witnesses).encode())
        if self._payloads:
            self._put_lines(
                PAYLOADS, ({"position": at, "payload": what} for at, what in self._payloads)
            )
        manifest = Manifest(
            kind=kind,
            origin=self._meta[META_ORIGIN],
            key=self._meta[META_KEY],
            log_format=self._meta[META_FORMAT],
            entries=entries,
            size=read_checkpoint(note).size,
            payloads=len(self._payloads),
        )
        self._put(README, self._readme(manifest).encode())
        self._put(MANIFEST, manifest.encoded())
        return Exported(kind, entries, len(self._payloads), self._forgotten)

    def _latest_checkpoint(self) -> str:
        note, _ = self._source.reader().head()
        if note is None:
            raise NotFound("there is no log to export", fix="give the database of a log")
        size = read_checkpoint(note).size
        same = [item.note for item in self._source.cosignatures() if item.size == size]
        return with_lines(note, (line for other in same for line in Note.parse(other).signatures))

    def _write_entries(self) -> int:
        total = self._source.expected_entries()
        written = 0
        with self._archive.open(_member(ENTRIES), "w", force_zip64=True) as file:
            for position, leaf in self._source.leaves():
                if position != written or not isinstance(leaf, bytes) or b"\n" in leaf:
                    raise VerificationFailed(
                        f"entry {written} is missing or damaged", fix="run: audit verify"
                    )
                file.write(leaf + b"\n")
                written += 1
                if self._keys is not None:
                    self._open_payload(Leaf.parse(leaf))
                if self._progress and written % PROGRESS_INTERVAL == 0:
                    self._progress(written, total)
        return written

    def _write_proofs(self, wanted: EntryFilter) -> tuple[str, int]:
        reader = self._source.reader()
        chosen = [leaf for leaf in streamed_leaves(self._source) if wanted.accepts(leaf)]
        if not chosen:
            raise NotFound(
                "no entry of the log fits what was asked", fix="list what there is: audit show LOG"
            )
        note = widest_note(reader, chosen[-1].position + 1)
        for number, leaf in enumerate(chosen, start=1):
            proof = prove_entry(reader, leaf.position, with_leaf=True, note=note)
            self._put(f"proofs/{leaf.position}.tlog-proof", proof.encoded().encode())
            if self._keys is not None:
                self._open_payload(leaf)
            if self._progress and number % PROGRESS_INTERVAL == 0:
                self._progress(number, len(chosen))
        return note, len(chosen)

    def _open_payload(self, leaf: Leaf) -> None:
        if self._keys is None:
            return
        try:
            payload = open_payload(leaf, self._meta[META_ORIGIN], self._keys)
        except KeyDestroyed:
            self._forgotten += 1
            return
        self._payloads.append((leaf.position, payload))

    def _checkpoints(self) -> Iterator[dict[str, Any]]:
        for size, note in self._source.checkpoints():
            yield {"size": size, "note": note}

    def _cosignatures(self) -> Iterator[dict[str, Any]]:
        for item in self._source.cosignatures():
            yield item._asdict()

    def _put(self, name: str, data: bytes) -> None:
        self._archive.writestr(_member(name), data)

    def _put_lines(self, name: str, documents: Iterable[dict[str, Any]]) -> None:
        with self._archive.open(_member(name), "w", force_zip64=True) as file:
            for document in documents:
                file.write(canonical_bytes(document) + b"\n")

    def _readme(self, manifest: Manifest) -> str:
        what = (
            f"the whole log, {count_of(manifest.entries, 'entry')}, and every checkpoint that it"
            " kept."
            if manifest.kind == WHOLE
            else f"{manifest.entries} of {count_of(manifest.size, 'entry')}, each with the proof"
            " that it is in the log."
        )
        opened = f"; {manifest.payloads} of them were opened for you in {PAYLOADS}"
        return _README.format(
            origin=manifest.origin,
            key_member=LOG_KEY,
            what=what,
            payloads=opened if manifest.payloads else "",
        )


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name, _EPOCH)
    member.compress_type = zipfile.ZIP_DEFLATED
    member.external_attr = 0o644 << 16
    return member
