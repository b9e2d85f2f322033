"""Writing bundles (`audit.bundle`), and checking those that hold chosen entries only.

* A bundle is written beside its target, synced, and given its name only when it is complete.
* Everything comes from one moment of the log. No key is needed; opened payloads need the keyring.
* Proofs are made against the checkpoint that most witnesses cosigned among those that cover the
  chosen entries: an outsider who knows the witnesses then needs nobody else.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
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
    README,
    SELECTION,
    WHOLE,
    WITNESS_KEYS,
    Bundle,
    MalformedBundle,
    Manifest,
    open_bundle,
)
from audit.canonical import canonical_bytes
from audit.checkpoint import read_checkpoint, verify_checkpoint
from audit.cosignature import WitnessKey, verify_cosignature, with_lines
from audit.durable import private_temporary, sync_directory
from audit.encoding import encode_base64
from audit.errors import Conflict, FiduciaryError, NotFound, VerificationFailed
from audit.key_manager import DataKeys, KeyDestroyed
from audit.keys import VerifyKey
from audit.leaf import Leaf
from audit.log import open_payload
from audit.note import Note
from audit.proof import MAX_PROOF_BYTES, Proof, verify_proof
from audit.report import Problem, Report, WitnessReport
from audit.search import EntryFilter, streamed_leaves
from audit.source import LogSource, is_bundle
from audit.statement import SignedStatement
from audit.storage import META_FORMAT, META_KEY, META_ORIGIN, LogReader, latest_note, prove_entry
from audit.verifier import UNWITNESSED_HOURS, Progress, verify_log

PROGRESS_INTERVAL: Final = 1000

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
"""The earliest time that ZIP can write: the same log gives the same bytes."""

_STATEMENT: Final = "statement"
"""Field of a payload that quotes a signed statement."""

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
        return latest_note(reader)
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
        note = self._source.reader().latest_checkpoint()
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
                "no entry of the log is wanted", fix="list what there is: audit show LOG"
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
            f"the whole log, {manifest.entries} entries, and every checkpoint that it kept."
            if manifest.kind == WHOLE
            else f"{manifest.entries} of {manifest.size} entries, each with the proof that it is in"
            " the log."
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


# --- checking ------------------------------------------------------------------------------------


def check_payloads(bundle: Bundle) -> tuple[int, list[Problem]]:
    """How many opened payloads the log itself vouches for, and which contradict it.

    A payload that quotes a signed statement must quote the one that its entry is about. The caller
    has verified the entries.
    """
    if not bundle.manifest.payloads:
        return 0, []
    objects = dict(_objects(bundle))
    proven, problems = 0, []
    for position, payload in bundle.payloads():
        if position not in objects:
            problems.append(Problem(position, "a payload is given for it, but it is not here"))
        elif _STATEMENT in payload:
            try:
                quoted = SignedStatement.from_json(payload[_STATEMENT]).log_object
            except FiduciaryError as error:
                problems.append(Problem(position, f"its opened payload is unreadable: {error}"))
                continue
            if quoted == objects[position]:
                proven += 1
            else:
                problems.append(
                    Problem(position, "its opened payload quotes another statement than the entry")
                )
    return proven, problems


def _objects(bundle: Bundle) -> Iterator[tuple[int, str]]:
    """What each entry of a bundle is about; the caller has verified the entries."""
    if bundle.manifest.kind == WHOLE:
        for position, line in enumerate(bundle.lines(ENTRIES, bundle.manifest.entries)):
            yield position, Leaf.parse(line).object
        return
    for name in _proof_names(bundle):
        proof = Proof.parse(bundle.text(name, MAX_PROOF_BYTES))
        yield proof.index, Leaf.parse(proof.extra or b"").object


def _proof_names(bundle: Bundle) -> list[str]:
    return [name for name in bundle.names() if name.startswith("proofs/")]


def verify_selection(
    path: Path,
    key: VerifyKey | None = None,
    *,
    witnesses: Sequence[WitnessKey] = (),
    required_witnesses: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Check a bundle of chosen entries: every proof, against one signed checkpoint.

    It says that each of these entries is in the log. It cannot say that no other entry is.

    Args:
        path: The bundle.
        key: The log's verifier key, from its owner. None takes the one in the bundle.
        witnesses: Keys of witnesses, from their owners.
        required_witnesses: So many of them must have cosigned the checkpoint.
        progress: Called now and then.

    Raises:
        MalformedInput: When it is no such bundle.
    """
    with open_bundle(path) as bundle:
        manifest = bundle.manifest
        if manifest.kind != SELECTION:
            raise MalformedBundle(f"{path} holds a whole log")
        problems: list[Problem] = []
        used = key
        try:
            stated = VerifyKey.parse(manifest.key)
            used = key or stated
            if stated != used:
                problems.append(
                    Problem(None, f"the bundle states another key than the given one: {stated}")
                )
        except FiduciaryError as error:
            problems.append(Problem(None, f"the key that the bundle states is unreadable: {error}"))
        if used is None:
            return _selection_report(manifest, None, False, 0, b"", problems)
        note = bundle.text(CHECKPOINT)
        try:
            head = verify_checkpoint(note, used, manifest.origin)
        except FiduciaryError as error:
            problems.append(Problem(None, f"the checkpoint: {error}"))
            return _selection_report(manifest, used, key is not None, 0, b"", problems)
        names = _proof_names(bundle)
        positions: list[int] = []
        for number, name in enumerate(names, start=1):
            try:
                position = _check_proof(bundle.text(name, MAX_PROOF_BYTES), note, used)
                if name != f"proofs/{position}.tlog-proof":
                    problems.append(Problem(position, f"its proof is filed as {name}"))
                positions.append(position)
            except FiduciaryError as error:
                problems.append(Problem(None, f"{name}: {error}"))
            if progress and number % PROGRESS_INTERVAL == 0:
                progress(number, len(names))
        if manifest.entries != len(names) or manifest.size != head.size:
            problems.append(
                Problem(
                    None,
                    f"the manifest states {manifest.entries} of {manifest.size} entries,"
                    f" {len(names)} of {head.size} are here",
                )
            )
        proven = 0
        if not problems:
            proven, problems = check_payloads(bundle)
        vouched = tuple(_vouching(note, witnesses, problems))
        count = sum(witness.time is not None for witness in vouched)
        if count < required_witnesses:
            problems.append(
                Problem(
                    None,
                    f"{count} of the given witnesses cosigned the checkpoint,"
                    f" {required_witnesses} are demanded",
                )
            )
        return _selection_report(
            manifest,
            used,
            key is not None,
            head.size,
            head.root,
            problems,
            len(positions),
            vouched,
            proven,
        )


def _check_proof(text: str, note: str, key: VerifyKey) -> int:
    proof = Proof.parse(text)
    if proof.checkpoint != note:
        raise VerificationFailed("it proves the entry against another checkpoint than the bundle's")
    leaf = Leaf.parse(proof.extra or b"")
    verify_proof(proof, key)
    if leaf.position != proof.index:
        raise VerificationFailed(f"its entry says that it is entry {leaf.position}")
    return leaf.position


def _vouching(
    note: str, witnesses: Sequence[WitnessKey], problems: list[Problem]
) -> Iterator[WitnessReport]:
    signed = {(item.name, item.key_id) for item in Note.parse(note).signatures}
    for witness in {(item.name, item.raw): item for item in witnesses}.values():
        size, time = 0, None
        if (witness.name, witness.note_id) in signed:
            try:
                head, time = verify_cosignature(note, witness)
                size = head.size
            except FiduciaryError as error:
                problems.append(Problem(None, f"the checkpoint: {error}"))
        yield WitnessReport(witness.name, witness.encoded(), size, time)


def _selection_report(
    manifest: Manifest,
    key: VerifyKey | None,
    pinned: bool,
    size: int,
    root: bytes,
    problems: list[Problem],
    entries: int = 0,
    witnesses: tuple[WitnessReport, ...] = (),
    proven: int = 0,
) -> Report:
    return Report(
        origin=manifest.origin,
        key=key.encoded() if key else "",
        key_pinned=pinned,
        entries=entries,
        root=encode_base64(root),
        signed_entries=size,
        checkpoints=1 if size else 0,
        known_entries=None,
        problems=tuple(problems),
        witnesses=witnesses,
        selection=True,
        payloads_proven=proven,
        payloads_stated=manifest.payloads - proven,
    )


def verify_any(log: str, key: VerifyKey | None = None, **options: Any) -> Report:
    """Verify whatever a person names: a log, or a bundle of either kind; see `verify_log`."""
    if is_bundle(Path(log)):
        return verify_bundle(Path(log), key, **options)
    return verify_log(log, key, **options)


def verify_bundle(
    path: Path,
    key: VerifyKey | None = None,
    *,
    known: str | None = None,
    witnesses: Sequence[WitnessKey] = (),
    required_witnesses: int = 0,
    unwitnessed_hours: int = UNWITNESSED_HOURS,
    progress: Progress | None = None,
) -> Report:
    """Check a bundle of either kind; arguments and errors are those of `verify_log`."""
    with open_bundle(path) as bundle:
        kind = bundle.manifest.kind
    if kind == SELECTION:
        return verify_selection(
            path,
            key,
            witnesses=witnesses,
            required_witnesses=required_witnesses,
            progress=progress,
        )
    report = verify_log(
        path,
        key,
        known=known,
        witnesses=witnesses,
        required_witnesses=required_witnesses,
        unwitnessed_hours=unwitnessed_hours,
        progress=progress,
    )
    with open_bundle(path) as bundle:
        stated = bundle.manifest
        problems = list(report.problems)
        if (stated.entries, stated.size) != (report.entries, report.entries) and report.ok:
            problems.append(
                Problem(
                    None,
                    f"the manifest states {stated.entries} of {stated.size} entries,"
                    f" {report.entries} are here",
                )
            )
        proven = 0
        if not problems:
            proven, problems = check_payloads(bundle)
    return replace(
        report,
        problems=tuple(problems),
        payloads_proven=proven,
        payloads_stated=stated.payloads - proven,
    )
