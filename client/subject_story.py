"""What the site can tell of one data subject: its answer to a request for access (GDPR Art. 15).

* Everything comes from the site's own folder: the vault tells what is here now, the journal what
  happened, decrypted with the subject's key.
* After an erasure the entries that were sealed with that key stay in the journal, unreadable; the
  story then says when the subject was forgotten, from the evidence that outlives it.
* A story names the keyed pseudonym and never the identifier.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from audit.errors import NotFound
from audit.leaf import Leaf
from audit.statement import SignedStatement
from client.erasure import ACTION as ERASED
from client.outbox import own_receipt_path, receipt_path
from client.site import Site
from client.subject_trail import INGESTED, PAGE_ENTRIES, READMITTED, Use
from client.vault.contents import SubjectHoldings
from client.vault.store import Vault
from compliance.statements import ErasureReceipt


class JournalReader(Protocol):
    """The part of the site's journal that is read."""

    def size(self) -> int:
        """Number of entries."""
        ...

    def leaves(self, after: int = -1, limit: int = 1000) -> list[Leaf]:
        """Entries that follow a position, in order."""
        ...

    def read(self, position: int) -> tuple[Leaf, dict[str, Any]]:
        """An entry and its payload."""
        ...


@dataclass(frozen=True)
class Event:
    """An entry about the subject that can be read.

    Attributes:
        position: In the site's journal.
        time: When it was recorded, RFC 3339.
        action: What happened: `subject.ingested`, a `Use`, or a readmission.
        details: As the entry holds them.
    """

    position: int
    time: str
    action: str
    details: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Position, time and details as one object."""
        return {"position": self.position, "time": self.time, **self.details}


@dataclass(frozen=True)
class Forgetting:
    """The last erasure.

    Attributes:
        erased_at: RFC 3339 time.
        records_removed: How many records were deleted.
        plans: Plans that may have used them, as the signed receipt names them.
        receipts: Files that verify with `audit verify-receipt`; none when the erasure was
            interrupted before its receipt was written.
    """

    erased_at: str
    records_removed: int
    plans: tuple[str, ...]
    receipts: tuple[Path, ...]

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "erased_at": self.erased_at,
            "records_removed": self.records_removed,
            "plans": list(self.plans),
            "receipts": [str(path) for path in self.receipts],
        }


State = Literal["held", "no-records", "forgotten"]


@dataclass(frozen=True)
class Story:
    """What is known of one subject.

    Attributes:
        site: The site's name.
        holdings: What the vault holds now.
        events: What the journal tells, in order.
        forgetting: The last erasure; also of a subject who was readmitted since.
        unreadable_entries: Entries about the subject that nobody can read any more.
    """

    site: str
    holdings: SubjectHoldings
    events: tuple[Event, ...]
    forgetting: Forgetting | None
    unreadable_entries: int

    @property
    def state(self) -> State:
        """Whether records are held, were forgotten, or went with their dataset."""
        if self.holdings.erasure is not None:
            return "forgotten"
        return "held" if self.holdings.datasets else "no-records"

    def of(self, action: str) -> list[Event]:
        """The events of one kind."""
        return [event for event in self.events if event.action == action]

    def to_json(self) -> dict[str, Any]:
        """As `client subject --json` prints it."""
        return {
            "site": self.site,
            "pseudonym": self.holdings.pseudonym,
            "state": self.state,
            "held": [
                {
                    "dataset": dataset.name,
                    "version": dataset.version,
                    "digest": dataset.digest,
                    "records": records,
                    "purposes": list(dataset.datasheet.purposes),
                    "legal_basis": dataset.datasheet.legal_basis,
                }
                for dataset, records in self.holdings.datasets
            ],
            "ingested": [event.to_json() for event in self.of(INGESTED)],
            "trained": [event.to_json() for event in self.of(Use.TRAINED)],
            "evaluated": [event.to_json() for event in self.of(Use.EVALUATED)],
            "readmitted": [event.to_json() for event in self.of(READMITTED)],
            "forgotten": None if self.forgetting is None else self.forgetting.to_json(),
            "unreadable_entries": self.unreadable_entries,
        }


def tell_story(site: Site, vault: Vault, subject_id: str) -> Story:
    """Everything that the site can tell of a subject.

    Args:
        site: Whose journal and receipts.
        vault: The site's data.
        subject_id: As it stood in the file's subject column.

    Raises:
        NotFound: When the vault has never held a record of the subject.
        MalformedInput: When the identifier is empty.
    """
    holdings = vault.about(subject_id)
    events: list[Event] = []
    erasures: list[ErasureReceipt] = []
    unreadable = 0
    for leaf in _leaves_about(site.journal, holdings.pseudonym):
        try:
            _, payload = site.journal.read(leaf.position)
        except NotFound:  # the key was destroyed
            unreadable += 1
            continue
        if leaf.action == ERASED:
            statement = SignedStatement.from_json(payload["statement"])
            erasures.append(ErasureReceipt.from_body(statement.body))
        else:
            events.append(Event(leaf.position, leaf.time, leaf.action, payload))
    return Story(
        site=site.name,
        holdings=holdings,
        events=tuple(events),
        forgetting=_forgetting(site, holdings, erasures),
        unreadable_entries=unreadable,
    )


def _forgetting(
    site: Site, holdings: SubjectHoldings, erasures: list[ErasureReceipt]
) -> Forgetting | None:
    done = holdings.erasure
    receipt = erasures[-1] if erasures else None
    if done is not None and (receipt is None or receipt.erased_at != done.erased_at):
        # Interrupted between the erasure and its receipt.
        return Forgetting(done.erased_at, done.records_removed, (), ())
    if receipt is None:
        return None
    files = (
        own_receipt_path(site, holdings.pseudonym),
        receipt_path(site, holdings.pseudonym),
    )
    return Forgetting(
        receipt.erased_at,
        receipt.records_removed,
        receipt.plans,
        tuple(path for path in files if path.exists()),
    )


def _leaves_about(journal: JournalReader, pseudonym: str) -> Iterator[Leaf]:
    after, size = -1, journal.size()
    while after < size - 1:
        page = journal.leaves(after, PAGE_ENTRIES)
        yield from (leaf for leaf in page if leaf.subject == pseudonym)
        after += len(page)
