"""Checks bundles of either kind (`audit.bundle`).

* A whole log is verified as every log is (`audit.verifier`), its manifest against what is there.
* A selection is verified proof by proof, against one signed checkpoint. It says that each of these
  entries is in the log; it cannot say that no other entry is.
* An opened payload is proven when it quotes the statement that its entry is about.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from audit.bundle import (
    CHECKPOINT,
    ENTRIES,
    PROGRESS_INTERVAL,
    SELECTION,
    WHOLE,
    Bundle,
    MalformedBundle,
    Manifest,
    open_bundle,
)
from audit.checkpoint import verify_checkpoint
from audit.cosignature import WitnessKey, verify_cosignature
from audit.encoding import encode_base64
from audit.errors import FiduciaryError, VerificationFailed
from audit.keys import VerifyKey
from audit.leaf import Leaf
from audit.note import Note
from audit.proof import MAX_PROOF_BYTES, Proof, verify_proof
from audit.report import Problem, Report, WitnessReport
from audit.source import is_bundle
from audit.statement import SignedStatement
from audit.verifier import UNWITNESSED_HOURS, Progress, verify_log
from audit.words import count_of

_STATEMENT: Final = "statement"
"""Field of a payload that quotes a signed statement."""


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
                    f"the manifest states {manifest.entries} of {count_of(manifest.size, 'entry')},"
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
                    f"the manifest states {stated.entries} of {count_of(stated.size, 'entry')},"
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
