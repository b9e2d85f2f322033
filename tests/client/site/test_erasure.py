"""Erasure: final here, proven there, and without a trace of the identifier."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from audit.errors import (
    Conflict,
    FiduciaryError,
    MalformedInput,
    NotFound,
    Refused,
    Unauthorised,
    Unreachable,
)
from audit.journal import Journal
from audit.receipt import Receipt, verify_receipt
from audit.storage import LogUnavailable
from client.erasure import Erased, erase_subject, unfinished
from client.ledger import Ledger
from client.outbox import REJECTED, Outbox
from client.site import Site
from client.vault import Vault
from compliance.erasure_views import ErasureRecorded
from tests.client.site.counterparts import FakeCompliance
from tests.client.site.documents import add_dataset, make_limits, make_reservation

FIRST, SECOND, THIRD = (f"sha256:{digit * 64}" for digit in "123")
SUBJECT = "P-003"

Erase = Callable[..., Erased]


@pytest.fixture
def vault(joined: Site) -> Iterator[Vault]:
    add_dataset(joined, "notes")
    with Vault.open(joined.paths, joined.keyring) as opened:
        yield opened


@pytest.fixture
def ledger(joined: Site) -> Iterator[Ledger]:
    with joined.ledger() as opened:
        yield opened


@pytest.fixture
def erase(joined: Site, vault: Vault, ledger: Ledger) -> Erase:
    def call(subject: str = SUBJECT, **options: Any) -> Erased:
        return erase_subject(joined, vault, ledger, subject, **options)

    return call


def read_receipt(path: Path) -> Receipt:
    return Receipt.parse(path.read_bytes())


def everything_written(site: Site) -> bytes:
    """Every byte in the site's folder, names of files included."""
    files = [path for path in sorted(site.paths.root.rglob("*")) if path.is_file()]
    return b"\n".join(str(path).encode() + path.read_bytes() for path in files)


def test_an_erasure_removes_proves_and_reports(
    joined: Site, vault: Vault, compliance: FakeCompliance, erase: Erase
) -> None:
    erased = erase()
    assert vault.is_erased(SUBJECT)
    pseudonym = vault.pseudonym(SUBJECT)
    assert pseudonym not in {record.subject for record in vault.examples("notes")}
    assert erased.receipt.records_removed == 2
    assert erased.receipt.key_destroyed
    assert erased.receipt.datasets == ("notes",)

    own = verify_receipt(
        read_receipt(erased.own_receipt), joined.identity.public, joined.identity.public
    )
    assert own.body["subject"] == pseudonym

    assert not erased.receipt_file.exists()
    delivery = Outbox(joined).send(compliance)
    assert (delivery.sent, delivery.waiting) == (1, 0)
    theirs = verify_receipt(
        read_receipt(erased.receipt_file), compliance.trust.log_key, joined.identity.public
    )
    assert theirs.body == own.body
    assert unfinished(joined) == []


def test_the_identifier_is_nowhere(joined: Site, compliance: FakeCompliance, erase: Erase) -> None:
    erase()
    Outbox(joined).send(compliance)
    with pytest.raises(NotFound):
        erase("P-999-nobody")
    joined.close()
    written = everything_written(joined)
    assert b"P-003" not in written
    assert b"P-999" not in written
    assert b"P-003" not in json.dumps([item.to_json() for item in compliance.erasures]).encode()


def test_an_unknown_subject_leaves_no_trace(
    joined: Site, erase: Erase, compliance: FakeCompliance
) -> None:
    entries = joined.journal.size()
    with pytest.raises(NotFound) as raised:
        erase("P-999-nobody")
    assert "P-999" not in str(raised.value) + raised.value.fix
    assert joined.journal.size() == entries
    assert Outbox(joined).files() == []
    assert unfinished(joined) == []
    assert not joined.paths.receipts.exists() or list(joined.paths.receipts.iterdir()) == []


def test_an_empty_identifier_is_malformed(joined: Site, erase: Erase) -> None:
    with pytest.raises(MalformedInput):
        erase("  ")
    assert unfinished(joined) == []


def test_the_journal_can_still_read_its_evidence(joined: Site, erase: Erase) -> None:
    erased = erase()
    last = joined.journal.leaves()[-1]
    assert last.action == "subject-erased"
    assert last.subject == erased.receipt.subject
    _, payload = joined.journal.read(last.position)
    assert last.object == f"erasure:{erased.statement}"
    assert payload["statement"]


def test_erasing_twice_gives_the_same_receipt(
    joined: Site, compliance: FakeCompliance, erase: Erase
) -> None:
    assert erase().statement == erase().statement
    Outbox(joined).send(compliance)
    assert len(compliance.erasures) == 1


def test_who_came_back_and_is_erased_again_gets_another_receipt(
    joined: Site, vault: Vault, erase: Erase
) -> None:
    first = erase()
    vault.readmit(SUBJECT)
    add_dataset(joined, "more")
    second = erase()
    assert first.receipt.datasets == ("notes",)
    assert second.receipt.datasets == ("more",)
    assert second.statement != first.statement


def test_the_receipt_names_the_plans_that_may_have_used_the_subject(
    joined: Site, vault: Vault, ledger: Ledger, erase: Erase
) -> None:
    add_dataset(joined, "letters", subjects=2)
    for plan_id, datasets in ((FIRST, ("notes",)), (SECOND, ("letters",)), (THIRD, ("notes",))):
        ledger.reserve(make_reservation(plan_id, datasets=datasets, noise="9"), make_limits())
    ledger.start_round(FIRST, 0)
    ledger.start_round(SECOND, 0)
    # THIRD was reserved and never started; `letters` never held the subject.
    assert erase().receipt.plans == (FIRST,)


def test_a_dataset_that_is_gone_may_have_held_the_subject(
    joined: Site, vault: Vault, ledger: Ledger, erase: Erase
) -> None:
    add_dataset(joined, "letters", subjects=2)
    ledger.reserve(make_reservation(SECOND, datasets=("letters",), noise="9"), make_limits())
    ledger.start_round(SECOND, 0)
    vault.remove("letters")
    assert erase().receipt.plans == (SECOND,)


# --- faults -------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [Unreachable("away"), Unauthorised("token")])
def test_a_receipt_waits_for_an_absent_service(
    joined: Site, vault: Vault, compliance: FakeCompliance, erase: Erase, error: FiduciaryError
) -> None:
    erased = erase()
    compliance.fail["report_erasure"] = error
    delivery = Outbox(joined).send(compliance)
    assert (delivery.sent, delivery.waiting, delivery.problem) == (0, 1, error)
    assert vault.is_erased(SUBJECT)
    assert Outbox(joined).send(compliance).sent == 1
    assert erased.receipt_file.exists()


def test_a_lost_answer_is_asked_for_again(
    joined: Site, compliance: FakeCompliance, erase: Erase
) -> None:
    erased = erase()
    compliance.fail_after["report_erasure"] = Unreachable("connection reset")
    assert Outbox(joined).send(compliance).waiting == 1
    assert Outbox(joined).send(compliance).sent == 1
    assert len(compliance.erasures) == 1
    assert erased.receipt_file.exists()


@pytest.mark.parametrize(
    "error", [Conflict("again"), Refused("no"), MalformedInput("bad"), NotFound("no request")]
)
def test_what_the_service_refuses_for_good_is_kept_and_journalled(
    joined: Site, compliance: FakeCompliance, erase: Erase, error: FiduciaryError
) -> None:
    erase("P-001")
    erase("P-002")
    compliance.fail["report_erasure"] = error
    delivery = Outbox(joined).send(compliance)
    assert (delivery.sent, delivery.waiting, delivery.rejected) == (1, 0, [str(error)])
    assert len(list((joined.paths.outbox / REJECTED).iterdir())) == 1
    assert "statement-rejected" in [leaf.action for leaf in joined.journal.leaves()]


def test_a_receipt_that_does_not_verify_is_not_stored(
    joined: Site, compliance: FakeCompliance, erase: Erase, monkeypatch: pytest.MonkeyPatch
) -> None:
    erased = erase()
    honest = compliance.report_erasure

    def forged(*arguments: Any, **options: Any) -> ErasureRecorded:
        answer = honest(*arguments, **options)
        proof = answer.receipt["proof"].replace("index ", "index 1")
        return answer.model_copy(update={"receipt": {**answer.receipt, "proof": proof}})

    monkeypatch.setattr(compliance, "report_erasure", forged)
    delivery = Outbox(joined).send(compliance)
    assert len(delivery.rejected) == 1
    assert not erased.receipt_file.exists()


def test_a_crash_between_erasure_and_receipt_is_noticed_and_finished(
    joined: Site, vault: Vault, erase: Erase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise LogUnavailable("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "record", fail)
        with pytest.raises(LogUnavailable):
            erase()
    assert vault.is_erased(SUBJECT), "nothing may keep what was to be erased"
    assert unfinished(joined) == [vault.pseudonym(SUBJECT)]
    erased = erase()
    assert erased.receipt.records_removed == 2
    assert unfinished(joined) == []
    assert len(Outbox(joined).files()) == 1


def test_statements_are_sent_in_order_and_once(
    joined: Site, compliance: FakeCompliance, erase: Erase
) -> None:
    statements = [erase(f"P-{index:03}").statement for index in (5, 6, 7)]
    assert Outbox(joined).send(compliance).sent == 3
    assert [item.digest for item in compliance.erasures] == statements
    assert Outbox(joined).send(compliance).sent == 0


def test_a_damaged_file_does_not_block_the_rest(
    joined: Site, compliance: FakeCompliance, erase: Erase
) -> None:
    erase()
    (joined.paths.outbox / "0-erasure-broken.json").write_text("{")
    delivery = Outbox(joined).send(compliance)
    assert (delivery.sent, delivery.waiting, len(delivery.rejected)) == (1, 0, 1)


def test_a_wrong_statement_in_a_receipt_is_refused(
    joined: Site, compliance: FakeCompliance, erase: Erase, monkeypatch: pytest.MonkeyPatch
) -> None:
    erase("P-001")
    Outbox(joined).send(compliance)
    answer = compliance.report_erasure(compliance.erasures[0])
    erased = erase("P-002")
    monkeypatch.setattr(compliance, "report_erasure", lambda *_arguments, **_options: answer)
    delivery = Outbox(joined).send(compliance)
    assert delivery.rejected == ["the service's receipt is for another statement"]
    assert not erased.receipt_file.exists()
