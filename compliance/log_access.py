"""Reading the audit log without trusting the service that shows it.

* Every answer is verified before it is returned: the checkpoint with the log's key of `trust.json`,
  each entry by its path to the root, each shown field by its leaf, each quoted statement by the
  leaf's object, and the filters on clear fields by what they let through.
* Pages are of one log: each page's tree must be shown to grow out of the page's before.
* Not proven, and people are told so: the rest of a payload (the service decrypted it), what an
  entry is about beyond its clear fields, and that nothing was left out.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from audit.checkpoint import Checkpoint, verify_checkpoint
from audit.errors import MalformedInput, VerificationFailed
from audit.export_file import verify_export
from audit.leaf import Leaf
from audit.merkle import verify_consistency
from audit.shown import CLEAR_FIELDS, ShownEntry, verify_shown
from audit.words import count_of
from compliance.log_views import LogConsistency, LogEntryView, LogExport, LogPage, LogQuery
from compliance.session import ComplianceSession
from compliance.trust import Trust

ENTRIES_PATH: Final = "/v1/log/entries"
EXPORT_PATH: Final = "/v1/log/export"

COUNT_HEADER: Final = "fiduciary-entries"
"""How many entries an export holds."""

_CHUNK_BYTES: Final = 1 << 16

Progress = Callable[[int, int], None]
"""Called with how many entries have come, and how many will."""


@dataclass(frozen=True)
class VerifiedPage:
    """One page of an answer; everything in it that can be proven was.

    Attributes:
        entries: In the order that was asked for.
        checkpoint: The signed tree that holds them.
        note: Its signed note, with the witnesses' cosignatures.
        size: All pages cover the entries before this position.
        next: Cursor of the next page; None when this is the last.
    """

    entries: tuple[LogEntryView, ...]
    checkpoint: Checkpoint
    note: str
    size: int
    next: str | None


def fetch_page(session: ComplianceSession, trust: Trust, query: LogQuery) -> VerifiedPage:
    """One page, verified.

    Raises:
        VerificationFailed: When the answer shows what the log does not hold, or was not asked for.
    """
    asked: dict[str, Any] = query.model_dump(exclude_none=True)
    return verify_page(session.fetch(ENTRIES_PATH, LogPage, **asked), query, trust)


def verify_page(page: LogPage, query: LogQuery, trust: Trust) -> VerifiedPage:
    """Check a page as it came.

    Raises:
        VerificationFailed: When it shows what the log does not hold, or what was not asked for.
        MalformedInput: When a leaf or a statement in it cannot be read.
    """
    checkpoint = verify_checkpoint(page.checkpoint, trust.log_key, trust.origin)
    if page.size > checkpoint.size:
        raise VerificationFailed(
            f"the answer is about {count_of(page.size, 'entry')}, its checkpoint signs"
            f" {checkpoint.size}"
        )
    if len(page.entries) > query.limit:
        raise VerificationFailed(f"the answer has more than {query.limit} entries")
    last: int | None = None
    for view in page.entries:
        leaf = verify_view(view, checkpoint)
        if not query.accepts(leaf) or leaf.position >= page.size:
            raise VerificationFailed(f"entry {leaf.position} was not asked for")
        if last is not None and not follows(leaf.position, last, query.order):
            raise VerificationFailed(f"entry {leaf.position} follows entry {last}: out of order")
        last = leaf.position
    if page.next is not None and last is None:
        raise VerificationFailed("an empty page says that more follow")
    return VerifiedPage(page.entries, checkpoint, page.checkpoint, page.size, page.next)


def verify_view(view: LogEntryView, checkpoint: Checkpoint) -> Leaf:
    """Check an entry as it is shown (`audit.shown`).

    Raises:
        VerificationFailed: When the log does not hold it so.
    """
    fields = {name: getattr(view, name) for name in CLEAR_FIELDS}
    shown = ShownEntry(fields, view.payload, view.leaf, view.leaf_hash, view.path)
    return verify_shown(shown, checkpoint).leaf


def follows(position: int, last: int, order: str) -> bool:
    """Whether an entry comes behind another one in an order."""
    return position < last if order == "newest" else position > last


def fetch_pages(
    session: ComplianceSession, trust: Trust, query: LogQuery
) -> Iterator[VerifiedPage]:
    """Every page of an answer, verified, each tree shown to contain the one before.

    Raises:
        VerificationFailed: As `fetch_page`, and when two pages are of different histories.
    """
    before: VerifiedPage | None = None
    while True:
        page = fetch_page(session, trust, query)
        if before is not None:
            _check_continued(session, before, page, query)
        yield page
        if page.next is None:
            return
        before, query = page, query.model_copy(update={"cursor": page.next})


def _check_continued(
    session: ComplianceSession, before: VerifiedPage, page: VerifiedPage, query: LogQuery
) -> None:
    if page.size != before.size:
        raise VerificationFailed(
            f"the first pages are about {count_of(before.size, 'entry')}, the next about"
            f" {page.size}"
        )
    if page.entries and not follows(
        page.entries[0].position, before.entries[-1].position, query.order
    ):
        raise VerificationFailed(
            f"entry {page.entries[0].position} was shown before, or is too late"
        )
    old, new = before.checkpoint, page.checkpoint
    if old.size > new.size:
        raise VerificationFailed(
            f"the log had {count_of(old.size, 'entry')} and now has {new.size}"
        )
    proof = session.fetch("/v1/log/consistency", LogConsistency, first=old.size, second=new.size)
    verify_consistency(old.size, new.size, old.root, new.root, proof.hashes)


def save_export(
    session: ComplianceSession,
    trust: Trust,
    wanted: LogExport,
    destination: Path,
    progress: Progress | None = None,
) -> int:
    """Write an export to a file, which appears complete (JSON Lines: and verified) or not at all.

    The file is readable by its owner alone: it holds decrypted payloads.

    Args:
        session: The connection.
        trust: Whose log it is.
        wanted: The question and the format.
        destination: The file.
        progress: Called while entries come.

    Returns:
        The number of entries.

    Raises:
        VerificationFailed: When a JSON Lines file does not verify.
        MalformedInput: When it was cut off, or answers another question.
        Unreachable: When the service stopped sending.
    """
    handle, name = tempfile.mkstemp(dir=destination.parent, prefix=f".{destination.name}.")
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            received, announced = _receive(session, wanted, file.write, progress)
            file.flush()
            os.fsync(file.fileno())
        if received != announced:
            raise MalformedInput(
                f"{count_of(received, 'entry')} came, not the {announced} announced",
                fix="export again",
            )
        if wanted.format == "jsonl":
            _verify_file(partial, trust, wanted)
        partial.replace(destination)
    finally:
        partial.unlink(missing_ok=True)
    return announced


def _receive(
    session: ComplianceSession,
    wanted: LogExport,
    write: Callable[[bytes], object],
    progress: Progress | None,
) -> tuple[int, int]:
    """Entries that came, and entries that were announced."""
    lines = 0
    try:
        with session.stream(EXPORT_PATH, **wanted.model_dump(exclude_none=True)) as response:
            count = response.headers.get(COUNT_HEADER, "")
            announced = int(count) if count.isascii() and count.isdigit() else -1
            for chunk in response.iter_bytes(_CHUNK_BYTES):
                write(chunk)
                lines += chunk.count(b"\n")
                if progress is not None:
                    progress(max(lines - 1, 0), announced)
    except httpx.HTTPError as error:
        raise session.unreachable(error) from error
    return lines - 1, announced  # the first line is the header, in either format


def _verify_file(path: Path, trust: Trust, wanted: LogExport) -> None:
    verified = verify_export(path, trust.log_key, trust.origin)
    if verified.filters != wanted.conditions():
        raise VerificationFailed(
            f"the export answers {verified.filters}, asked for was {wanted.conditions()}"
        )
