"""Erasing a data subject (GDPR Art. 17) and proving it.

* The rows and the key go first (`Vault.erase`, which is final and may be repeated); evidence
  follows. No missing service and no full disk may keep a record that was to be erased.
* The receipt names every plan that may have sampled the subject before, and from which round on
  (`client.erased_rounds`). It holds the site's keyed pseudonym, never the identifier, and neither
  does anything else that is written or printed.
* One erasure has one receipt: repeating the command finds the statement in the journal, and gets
  what the compliance service has found and decided about releases since.
* Answers that wait to be asked for again (`client.kept_answers`) go with the rows: an update that
  was trained with the subject and did not arrive before the erasure does not leave after it.
* The identifier is never written to disk. Before the vault is touched, a note with the pseudonym
  says that an erasure is under way; it stays until the signed receipt is in the outbox, so an
  interrupted erasure is noticed (`unfinished`) and finished by running the command again.
* A running `client start` reads its examples anew each round, and so trains without the subject.
  What it was computing meanwhile does not leave the site (`client.rounds`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from audit.durable import sync_directory, write_durably
from audit.errors import NotFound
from audit.journal import newest_first
from audit.leaf import Leaf
from audit.log import Entry
from audit.receipt import Receipt
from audit.statement import SignedStatement, sign_statement
from client.erased_rounds import first_rounds
from client.kept_answers import KeptAnswers
from client.ledger import Ledger
from client.outbox import Outbox, own_receipt_path, receipt_path, write_receipt
from client.site import Site
from client.vault.contents import ErasureResult
from client.vault.store import Vault
from compliance.statements import ErasureReceipt

ACTION = "subject-erased"

_UNDER_WAY = ".erasing"


@dataclass(frozen=True)
class Erased:
    """What an erasure did.

    Attributes:
        receipt: The signed statement's content.
        statement: Its digest.
        own_receipt: File that verifies against the site's journal key.
        receipt_file: File with the compliance service's receipt, once it answered.
    """

    receipt: ErasureReceipt
    statement: str
    own_receipt: Path
    receipt_file: Path


def erase_subject(site: Site, vault: Vault, ledger: Ledger, subject_id: str) -> Erased:
    """Erase a subject here and put the signed receipt into the outbox.

    Args:
        site: Whose subject it is.
        vault: The site's data.
        ledger: Knows which plans trained on it.
        subject_id: As it stood in the file's subject column.

    Raises:
        NotFound: When the vault never held a record of the subject.
        MalformedInput: When the identifier is empty.
    """
    pseudonym = vault.pseudonym(subject_id)
    note = _note(site, pseudonym)
    write_durably(note, b"")
    try:
        result = vault.erase(subject_id)
    except NotFound:
        _remove(note)
        raise
    KeptAnswers(site.paths.answers, site.keyring, site.name).drop_all()
    known = _stated_before(site, result)
    if known is None:
        statement, leaf = _state(site, vault, ledger, result)
    else:
        statement, leaf = known
    receipt = ErasureReceipt.from_body(statement.body)
    own = own_receipt_path(site, result.pseudonym)
    proof = site.journal.prove(leaf.position)
    write_receipt(own, Receipt(statement, leaf.encoded(), proof))
    Outbox(site).put("erasure", statement)
    _remove(note)
    return Erased(receipt, statement.digest, own, receipt_path(site, result.pseudonym))


def _state(
    site: Site, vault: Vault, ledger: Ledger, result: ErasureResult
) -> tuple[SignedStatement, Leaf]:
    """Sign what was done and journal it."""
    present = {dataset.name for dataset in vault.datasets()}
    ledger.flush_journal()
    first = first_rounds(
        site.journal,
        result.pseudonym,
        plans_concerned(ledger, result.datasets, present),
        len(result.datasets),
    )
    receipt = ErasureReceipt(
        site=site.name,
        subject=result.pseudonym,
        datasets=result.datasets,
        records_removed=result.records_removed,
        key_destroyed=result.key_destroyed,
        plans=tuple(first),
        erased_at=result.erased_at,
        first_rounds={plan_id: number for plan_id, number in first.items() if number},
    )
    statement = sign_statement(receipt.body(), site.identity)
    appended = site.journal.record(
        Entry(
            actor=site.principal,
            action=ACTION,
            object=statement.log_object,
            subject=result.pseudonym,
            payload={"statement": statement.to_json()},
            # The subject's own key is destroyed; the evidence of that must stay readable.
            outlives_subject=True,
        )
    )
    return statement, Leaf.parse(appended.leaf)


def _stated_before(site: Site, result: ErasureResult) -> tuple[SignedStatement, Leaf] | None:
    """The statement of this very erasure, if it was journalled already."""
    for leaf in newest_first(site.journal):
        if leaf.action == ACTION and leaf.subject == result.pseudonym:
            statement = SignedStatement.from_json(site.journal.read(leaf.position)[1]["statement"])
            same = ErasureReceipt.from_body(statement.body).erased_at == result.erased_at
            return (statement, leaf) if same else None
    return None


def plans_concerned(ledger: Ledger, datasets: Iterable[str], present: Iterable[str]) -> list[str]:
    """Plans that may have sampled a subject who was found in `datasets`.

    A plan that trained on a dataset which no longer exists here counts too: the subject may have
    been in it.
    """
    found, existing = set(datasets), set(present)
    return [
        plan_id
        for plan_id, names in ledger.started_plans()
        if found & set(names) or not existing >= set(names)
    ]


def unfinished(site: Site) -> list[str]:
    """Pseudonyms of erasures that were interrupted; running `client erase` again finishes them."""
    return sorted(
        path.name.removesuffix(_UNDER_WAY) for path in site.paths.root.glob(f"*{_UNDER_WAY}")
    )


def _note(site: Site, pseudonym: str) -> Path:
    return site.paths.root / f"{pseudonym}{_UNDER_WAY}"


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    sync_directory(path.parent)
