"""Erasure beside a running worker: from which round on, and nothing of the subject afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from audit.receipt import Receipt, verify_receipt
from audit.statement import sign_statement
from client.erased_rounds import first_rounds
from client.erasure import Erased, erase_subject
from client.learning.private_sgd import SiteTrainer
from client.lessons import Lessons
from client.outbox import Outbox
from client.refusals import Declined
from client.subject_trail import Use, record_ingested
from client.vault import Provenance, Record, Staging, Vault
from compliance.erasure_views import ErasureRecorded
from compliance.statements import AffectedRelease, ErasureFollowUp, utc_now
from tests.client.site.documents import LABELS, PURPOSE, ZERO_DIGEST
from tests.client.site.test_secure_sums import Ours, summed
from tests.client.site.world import World, report_of

LATE = "P-late"


def ingest(world: World, *subjects: str, name: str = "notes") -> None:
    """A new version of a dataset, announced in the journal as `client data add` does."""
    site = world.site
    with (
        Vault.open(site.paths, site.keyring) as vault,
        Staging(vault, name, replace=True) as staging,
    ):
        staging.add(
            Record(vault.pseudonym(subject), f"note {record}", LABELS[record])
            for subject in (*(f"P-{index:03}" for index in range(24)), *subjects)
            for record in range(2)
        )
        staging.publish(
            Provenance(ZERO_DIGEST, (PURPOSE,), "public-task"),
            lambda dataset: record_ingested(site.journal, site.principal, dataset, staging.held()),
        )


def erase(world: World, subject: str) -> Erased:
    with Vault.open(world.site.paths, world.site.keyring) as vault, world.ledger() as ledger:
        return erase_subject(world.site, vault, ledger, subject)


def pseudonym(world: World, subject: str) -> str:
    with Vault.open(world.site.paths, world.site.keyring) as vault:
        return vault.pseudonym(subject)


# --- from which round on -------------------------------------------------------------------------


def test_a_subject_who_came_later_counts_from_the_next_round_that_began(world: World) -> None:
    ingest(world)
    world.train(0)
    world.fleet.tasks.append(lambda: ingest(world, LATE))
    world.train(1)
    world.train(2)
    world.run()
    early = erase(world, "P-001").receipt
    late = erase(world, LATE).receipt
    assert (early.plans, early.first_rounds) == ((world.plan_id,), {})
    assert (late.plans, late.first_rounds) == ((world.plan_id,), {world.plan_id: 1})
    assert late.body()["first_rounds"] == {world.plan_id: 1}


def test_a_plan_whose_rounds_were_over_when_the_subject_came_is_not_named(world: World) -> None:
    ingest(world)
    world.train(0)
    world.run()
    ingest(world, LATE)
    assert erase(world, LATE).receipt.plans == ()


def test_what_the_journal_does_not_tell_counts_from_the_first_round(world: World) -> None:
    world.train(0)
    world.run()  # `notes` came in without the journal's knowing
    ingest(world, name="letters")
    receipt = erase(world, "P-001").receipt
    assert (receipt.plans, receipt.first_rounds) == ((world.plan_id,), {})
    journal = world.site.journal
    subject = pseudonym(world, "P-001")
    assert first_rounds(journal, subject, [world.plan_id], 1) == {}
    assert first_rounds(journal, subject, [world.plan_id], 2) == {world.plan_id: 0}
    assert first_rounds(journal, "0" * 64, [world.plan_id], 0) == {world.plan_id: 0}


def test_a_repeated_erasure_finds_its_statement_and_journals_nothing(world: World) -> None:
    ingest(world)
    world.train(0)
    world.run()
    first = erase(world, "P-001")
    size = world.site.journal.size()
    world.train(1)
    world.run()
    grown = world.site.journal.size()
    assert grown > size
    again = erase(world, "P-001")
    assert (again.statement, again.receipt) == (first.statement, first.receipt)
    assert world.site.journal.size() == grown
    own = Receipt.parse(again.own_receipt.read_bytes())
    verify_receipt(own, world.site.identity.public, world.site.identity.public)


# --- nothing of the subject afterwards -----------------------------------------------------------


def while_it(
    monkeypatch: pytest.MonkeyPatch, owner: type, method: str, act: Callable[[], object]
) -> None:
    """Act once while a method is under way: after it did its work, before it returns."""
    honest, acted = getattr(owner, method), list[object]()

    def watched(self: Any, *arguments: Any, **options: Any) -> Any:
        result = honest(self, *arguments, **options)
        if not acted:
            acted.append(act())
        return result

    monkeypatch.setattr(owner, method, watched)


def test_what_was_trained_with_somebody_who_is_erased_meanwhile_stays_here(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(world)
    everybody = [f"P-{index:03}" for index in range(24)]
    erased: list[str] = []

    def leave() -> None:
        with Vault.open(world.site.paths, world.site.keyring) as vault:
            used = leaves_of(world, Use.TRAINED)
            subject = next(name for name in everybody if vault.pseudonym(name) in used)
        erased.append(erase(world, subject).receipt.subject)

    while_it(monkeypatch, SiteTrainer, "train_round", leave)
    for round_index in range(3):
        world.train(round_index)
    world.run()
    first, second, third = world.fleet.replies
    assert (first.code, first.arrays) == ("subject-erased", None)
    assert [report_of(reply).round for reply in (second, third)] == [1, 2]
    assert world.started() == 3, "the first round may have used the records: it is spent"
    # The journal proves it: after the erasure nothing was recorded that uses the subject.
    journal = world.site.journal.leaves()
    end = next(leaf.position for leaf in journal if leaf.action == "subject-erased")
    assert [leaf.action for leaf in journal[end + 1 :] if leaf.subject == erased[0]] == []
    Outbox(world.site).send(world.compliance)
    digests = [report.body["dataset_digest"] for report in world.compliance.reports]
    assert len(set(digests)) == 2
    assert digests[1] == digests[2] != digests[0]


def leaves_of(world: World, action: str) -> set[str | None]:
    return {leaf.subject for leaf in world.site.journal.leaves() if leaf.action == action}


def test_nobody_is_declined_for_somebody_whom_the_plan_did_not_use(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(world)
    ingest(world, "P-else", name="unrelated")
    with Vault.open(world.site.paths, world.site.keyring) as vault:
        vault.remove("unrelated")
    while_it(monkeypatch, SiteTrainer, "train_round", lambda: erase(world, "P-else"))
    world.train(0)
    world.run()
    assert world.codes() == []


def test_counts_of_somebody_who_is_erased_meanwhile_stay_here(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(world)
    world.train(0)
    world.evaluate(0)
    gone: list[Erased] = []

    def leave() -> None:
        held_out = leaves_of(world, Use.EVALUATED)
        with Vault.open(world.site.paths, world.site.keyring) as vault:
            names = [f"P-{n:03}" for n in range(24)]
            subject = next((n for n in names if vault.pseudonym(n) in held_out), None)
        if subject is not None:  # by chance, once in 200 times, nobody is held out
            gone.append(erase(world, subject))

    while_it(monkeypatch, Lessons, "evaluate", leave)
    world.run()
    assert world.codes() == ["subject-erased"] * len(gone)


def test_a_vector_of_somebody_who_was_erased_is_not_summed(world: World) -> None:
    ours = Ours(world)
    kept = ours.work()

    def check() -> None:
        raise Declined("subject-erased", "gone")

    ours.work = lambda stretch=1.0: type(kept)(kept.plan, kept.answer, stretch, check)  # type: ignore[method-assign]
    with pytest.raises(Declined, match="gone"):
        summed(ours, ours.session())


# --- the receipt ---------------------------------------------------------------------------------


def test_the_stored_receipt_tells_what_was_found_of_releases(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(world)
    erased = erase(world, "P-001")
    compliance = world.compliance
    honest = compliance.report_erasure
    follows = [erased.statement]

    def with_findings(*arguments: Any, **options: Any) -> ErasureRecorded:
        answer = honest(*arguments, **options)
        statement = ErasureFollowUp(
            follows=follows[0],
            site=world.site.name,
            subject=erased.receipt.subject,
            stage="found",
            releases=(
                AffectedRelease(
                    release_id=ZERO_DIGEST,
                    plan_id=world.plan_id,
                    state="approved",
                    first_round=0,
                    case="0" * 32,
                ),
            ),
            stated_at=utc_now(),
        )
        signed = sign_statement(statement.body(), compliance.log_key)
        shown = compliance.log_proof(compliance._log("erasure.told", signed))
        told = Receipt(signed, shown.leaf, shown.proof)
        return answer.model_copy(update={"follow_ups": (told.to_json(),)})

    monkeypatch.setattr(compliance, "report_erasure", with_findings)
    assert Outbox(world.site).send(compliance).sent == 1
    receipt = Receipt.parse(erased.receipt_file.read_bytes())
    verified = verify_receipt(receipt, compliance.trust.log_key, world.site.identity.public)
    assert [one.body["stage"] for one in verified.follow_ups] == ["found"]

    follows[0] = world.plan_id
    erase(world, "P-001")
    delivery = Outbox(world.site).send(compliance)
    assert delivery.rejected == ["a follow-up is about another statement"]
    assert Receipt.parse(erased.receipt_file.read_bytes()) == receipt
