"""The trail of each data subject in the site's journal: what came in, and which plans could use it.

Guarantees:

* An entry about a subject is sealed with that subject's own data key, the one that seals the
  subject's records in the vault. Erasing the subject makes both unreadable, in copies of the
  journal and of the vault too.
* `Trail.record` returns when every subject has its entry, durably: no entry, no training.
* A subject has one entry for each plan, use and version of a dataset, whatever crashes in between:
  what is there already is read from the journal itself, which is the only memory of it.

What the entries say, and what they do not:

* `subject.ingested`: records of the subject are about to show in a version of a dataset.
* `subject.trained`: from now on the subject's records may be sampled under this plan. Sampling is
  at random and leaves no trace of who was drawn: that would undo a part of the privacy it gives.
* `subject.evaluated`: the subject is held out of the plan's training, and counted when its model is
  measured. Those counts are exact, and leave the site without noise.

Clear fields tell that a pseudonym had an event of that kind at that time; plans, datasets, purposes
and approvals are sealed. Decision record: docs/adr/0014-subject-trail.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import islice
from typing import Any, Protocol

from audit.errors import NotFound
from audit.journal import Leaves, newest_first
from audit.leaf import Leaf
from audit.log import Entry
from client.guard import Allowed, Approval
from client.ledger_journal import ACTION_PREFIX
from client.vault.contents import Dataset, HeldSubject

INGESTED = "subject.ingested"

REVEALED = "originals-revealed"
"""Somebody put originals back into the subject's records (`client.originals`)."""

READMITTED = "subject-readmitted"
"""Action of the entry that lets an erased subject come back; it outlives the next erasure."""

RECORDED = "subjects.recorded"
"""Action of the entry after the last subject's: what it names need not be looked through again."""

_RESERVED = ACTION_PREFIX + "reserved"

PAGE_ENTRIES = 500
"""Entries in one transaction: one sync shared by many, and other writers wait milliseconds."""


class Use(StrEnum):
    """What a plan does with a subject's records; the action of its entries."""

    TRAINED = "subject.trained"
    EVALUATED = "subject.evaluated"


class JournalWriter(Protocol):
    """The part of `audit.journal.Journal` that entries go to."""

    def record(self, entry: Entry) -> object:
        """Append an entry, durably."""
        ...

    def record_many(self, entries: Iterable[Entry]) -> object:
        """Append entries in one transaction: all of them are durable, or none is there."""
        ...


class TrailJournal(JournalWriter, Leaves, Protocol):
    """The same, and what was written to it."""

    def read(self, position: int) -> tuple[Leaf, dict[str, Any]]:
        """An entry and its payload."""
        ...


class SubjectKeys(Protocol):
    """The part of the vault that knows which of a subject's keys is in use."""

    def generations(self) -> Mapping[str, int]:
        """The generation of every known subject's key, by pseudonym."""
        ...


def record_ingested(
    journal: JournalWriter, actor: str, dataset: Dataset, held: Iterable[HeldSubject]
) -> None:
    """Say of each subject that records are about to show in a dataset.

    Raises:
        FiduciaryError: When the journal cannot be written; the dataset must then not show.
    """
    sheet = dataset.datasheet
    about = {
        "dataset": dataset.name,
        "version": dataset.version,
        "digest": dataset.digest,
        "purposes": list(sheet.purposes),
        "legal_basis": sheet.legal_basis,
        "deidentification_digest": sheet.deidentification_digest,
    }
    entries = (
        _entry(actor, INGESTED, one.pseudonym, one.generation, {**about, "records": one.records})
        for one in held
    )
    while page := list(islice(entries, PAGE_ENTRIES)):
        journal.record_many(page)


class Trail:
    """Writes which subjects a plan may use, before it does. For one worker.

    Args:
        journal: The site's journal.
        keys: Which of a subject's keys is in use.
        actor: Who writes, such as `site:north`.
    """

    def __init__(self, journal: TrailJournal, keys: SubjectKeys, actor: str) -> None:
        self._journal = journal
        self._keys = keys
        self._actor = actor
        self._complete: set[tuple[Use, str, tuple[str, ...]]] = set()

    def record(
        self,
        use: Use,
        allowed: Allowed,
        subjects: Mapping[str, Sequence[Dataset]],
        between_pages: Callable[[], None] = lambda: None,
    ) -> int:
        """See to it that each subject has its entry for this plan. Repeating it writes nothing.

        Args:
            use: What the plan does with them.
            allowed: The plan, and the approval that this site verified.
            subjects: Pseudonyms, each with the datasets that hold records of the subject.
            between_pages: Called between two transactions; may raise to stop.

        Returns:
            How many entries were written.

        Raises:
            KeyDestroyed: When a subject was erased since the examples were read. What was written
                before stays and is not written again.
            LogUnavailable: When the journal cannot be written.
        """
        plan_id = allowed.terms.reservation.plan_id
        material = _ids({one.id: one for held in subjects.values() for one in held}.values())
        key = (use, plan_id, material)
        if not subjects or key in self._complete:
            return 0
        there = self._find(use, plan_id, material)
        written = 0
        if there is not None:
            generations = self._keys.generations()
            payload = _about_plan(allowed)
            missing = [
                _entry(
                    self._actor,
                    use,
                    subject,
                    generations.get(subject, 1),
                    {**payload, "datasets": [_described(one) for one in held]},
                )
                for subject, held in subjects.items()
                if (subject, _ids(held)) not in there
            ]
            for page in _pages(missing):
                between_pages()
                self._journal.record_many(page)
                written += len(page)
            self._journal.record(
                Entry(
                    actor=self._actor,
                    action=RECORDED,
                    object=self._actor,
                    subject=None,
                    payload={
                        "use": use.value,
                        "plan": plan_id,
                        "datasets": list(material),
                        "subjects": len(subjects),
                    },
                )
            )
        self._complete.add(key)
        return written

    def _find(
        self, use: Use, plan_id: str, material: tuple[str, ...]
    ) -> set[tuple[str, tuple[str, ...]]] | None:
        """Subjects that have their entry, with the datasets it names; None when all have.

        Looks from the newest entry back to the plan's first, its reservation.
        """
        there: set[tuple[str, tuple[str, ...]]] = set()
        for leaf in newest_first(self._journal):
            if leaf.action in (use, RECORDED):
                payload = self._payload(leaf)
                if payload is None or payload["plan"] != plan_id:
                    continue
                if leaf.subject is not None:
                    named = tuple(sorted(one["id"] for one in payload["datasets"]))
                    there.add((leaf.subject, named))
                elif payload["use"] == use and tuple(payload["datasets"]) == material:
                    return None
            elif (leaf.action, leaf.object) == (_RESERVED, f"plan:{plan_id}"):
                break
        return there

    def _payload(self, leaf: Leaf) -> dict[str, Any] | None:
        try:
            return self._journal.read(leaf.position)[1]
        except NotFound:
            return None  # the subject was erased, or the entry's retention has ended


def _about_plan(allowed: Allowed) -> dict[str, Any]:
    plan = allowed.plan
    return {
        "plan": allowed.terms.reservation.plan_id,
        "plan_name": plan.name,
        "purpose": plan.purpose,
        "legal_basis": plan.legal_basis,
        "approval": _approved(allowed.approval),
    }


def _approved(approval: Approval) -> dict[str, Any]:
    return {
        "log": approval.log,
        "plan_position": approval.plan_position,
        "position": approval.position,
        "decision": approval.decision,
        "decided_by": approval.decided_by,
        "decided_at": approval.decided_at,
    }


def _described(dataset: Dataset) -> dict[str, Any]:
    return {
        "id": dataset.id,
        "name": dataset.name,
        "version": dataset.version,
        "digest": dataset.digest,
    }


def _entry(
    actor: str, action: str, subject: str, generation: int, payload: Mapping[str, Any]
) -> Entry:
    return Entry(
        actor=actor,
        action=str(action),
        object=f"subject:{subject}",
        subject=subject,
        payload=payload,
        subject_generation=generation,
    )


def _ids(datasets: Iterable[Dataset]) -> tuple[str, ...]:
    return tuple(sorted(dataset.id for dataset in datasets))


def _pages(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    for start in range(0, len(entries), PAGE_ENTRIES):
        yield entries[start : start + PAGE_ENTRIES]
