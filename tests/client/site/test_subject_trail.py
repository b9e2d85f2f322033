"""What the journal says to each subject, before it happens, and what is left of it after."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from audit.errors import NotFound
from audit.journal import Journal, newest_first
from audit.key_manager import KeyDestroyed
from audit.leaf import Leaf
from audit.log import Entry
from audit.storage import LogUnavailable
from audit.verifier import verify_log
from client import subject_trail, worker
from client.erasure import erase_subject
from client.guard import Allowed
from client.learning.private_sgd import RoundResult, SiteTrainer
from client.site import Site
from client.subject_cli import subject as subject_command
from client.subject_story import tell_story
from client.subject_trail import INGESTED, RECORDED, Trail, Use, record_ingested
from client.vault import ErasureResult, Provenance, Record, Staging, Vault
from tests.client.site.documents import (
    PURPOSE,
    ZERO_DIGEST,
    add_dataset,
    make_allowed,
)
from tests.client.site.fleet import make_task
from tests.client.site.world import World

SUBJECT = "P-003"


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "TEND_SECONDS", 0.0)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, world: World) -> list[set[str]]:
    """The subjects whom each round's trainer really had, and what the journal said before it."""
    rounds: list[set[str]] = []
    made: dict[int, set[str]] = {}
    build, train = SiteTrainer.__init__, SiteTrainer.train_round

    def building(
        self: SiteTrainer, model: Any, plan: Any, examples: Sequence[Any], **options: Any
    ) -> None:
        made[id(self)] = {example.subject for example in examples}
        build(self, model, plan, examples, **options)

    def training(self: SiteTrainer, *arguments: Any) -> RoundResult:
        subjects = made[id(self)]
        assert subjects <= set(entries(world.site, Use.TRAINED)), "no entry, no training"
        rounds.append(subjects)
        return train(self, *arguments)

    monkeypatch.setattr(SiteTrainer, "__init__", building)
    monkeypatch.setattr(SiteTrainer, "train_round", training)
    return rounds


def entries(site: Site, action: str) -> Counter[str | None]:
    """How many entries of that kind each subject has."""
    leaves = site.journal.leaves(limit=100_000)
    return Counter(leaf.subject for leaf in leaves if leaf.action == action)


def leaf_of(site: Site, action: str, pseudonym: str) -> Leaf:
    found = [x for x in site.journal.leaves() if (x.action, x.subject) == (action, pseudonym)]
    return found[-1]


def pseudonyms(site: Site, *subjects: str) -> set[str]:
    with Vault.open(site.paths, site.keyring) as vault:
        return {vault.pseudonym(subject) for subject in subjects}


def ingest(site: Site, vault: Vault, name: str = "notes", *, replace: bool = False) -> None:
    """`add_dataset`, announced in the journal as `client data add` does."""
    with Staging(vault, name, replace=replace) as staging:
        staging.add(
            Record(vault.pseudonym(f"P-{index:03}"), f"note {record}", "urgent")
            for index in range(5)
            for record in range(2)
        )
        staging.publish(
            Provenance(ZERO_DIGEST, (PURPOSE,), "public-task"),
            lambda dataset: record_ingested(site.journal, site.principal, dataset, staging.held()),
        )


# --- before the first gradient ------------------------------------------------------------------


def test_every_subject_that_may_be_sampled_has_one_entry(
    world: World, trained: list[set[str]]
) -> None:
    for round_index in range(3):
        world.train(round_index)
        world.evaluate(round_index)
    world.run()
    assert len(trained) == 3
    told = entries(world.site, Use.TRAINED)
    assert set(told) == trained[0]
    evaluated = entries(world.site, Use.EVALUATED)
    assert set(evaluated) == pseudonyms(world.site, *(f"P-{n:03}" for n in range(24))) - trained[0]
    assert set((told + evaluated).values()) == {1}


def test_an_entry_tells_plan_data_and_approval(world: World, trained: list[set[str]]) -> None:
    world.train(0)
    world.run()
    pseudonym = next(iter(trained[0]))
    leaf = leaf_of(world.site, Use.TRAINED, pseudonym)
    assert leaf.key == f"subject:{pseudonym}", "the key that the vault seals the records with"
    _, payload = world.site.journal.read(leaf.position)
    view = world.compliance.plan(world.plan_id)
    assert view.approval is not None
    assert payload["plan"] == world.plan_id
    assert payload["approval"] == {
        "log": world.site.trust.origin,
        "plan_position": view.submitted_position,
        "position": view.approved_position,
        "decision": view.approval.digest,
        "decided_by": "officer",
        "decided_at": view.approval.body["decided_at"],
    }
    (dataset,) = payload["datasets"]
    assert (dataset["name"], dataset["version"]) == ("notes", 1)


def test_clear_fields_name_neither_plan_nor_dataset(world: World) -> None:
    world.train(0)
    world.evaluate(0)
    world.run()
    with Vault.open(world.site.paths, world.site.keyring) as vault:
        told = [vault.dataset("notes").digest, world.plan_id, world.plan.name, "notes", PURPOSE]
    leaves = [x for x in world.site.journal.leaves() if x.action.startswith(("subject.", RECORDED))]
    assert len(leaves) == 24 + 2
    for leaf in leaves:
        clear = json.dumps([leaf.actor, leaf.action, leaf.object, leaf.subject, leaf.key])
        assert not any(word.removeprefix("sha256:") in clear for word in told)


def test_without_a_journal_nothing_is_spent_and_nothing_trained(
    world: World, trained: list[set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise LogUnavailable("disk full")

    monkeypatch.setattr(Journal, "record_many", full)
    world.train(0)
    with pytest.raises(LogUnavailable):
        world.run()
    assert trained == []
    assert world.started() == 0


def test_a_restarted_worker_writes_only_what_is_missing(
    world: World, trained: list[set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit of the third page is stored, but its answer is lost: nobody knows."""
    monkeypatch.setattr(subject_trail, "PAGE_ENTRIES", 4)
    honest, pages = Journal.record_many, []

    def lost(self: Journal, page: Iterable[Entry]) -> object:
        pages.append(list(page))
        appended = honest(self, pages[-1])
        if len(pages) == 3:
            raise LogUnavailable("answer lost")
        return appended

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "record_many", lost)
        world.train(0)
        with pytest.raises(LogUnavailable):
            world.run()
    assert sum(entries(world.site, Use.TRAINED).values()) == 12
    world.fleet.tasks.clear()
    for round_index in (0, 1):
        world.train(round_index)
        world.run()
    assert len(trained) == 2
    assert entries(world.site, Use.TRAINED) == Counter(trained[0])
    assert len(entries(world.site, RECORDED)) == 1


def test_a_long_journal_is_not_read_for_a_plan_that_was_reserved_just_now(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.site.journal.record_many(
        Entry(world.site.principal, "note.kept", world.site.principal, payload={}, subject=None)
        for _ in range(2000)
    )
    read: list[Leaf] = []

    def counting(journal: Journal) -> Iterator[Leaf]:
        for leaf in newest_first(journal):
            read.append(leaf)
            yield leaf

    monkeypatch.setattr(subject_trail, "newest_first", counting)
    world.train(0)
    world.evaluate(0)
    world.run()
    told = entries(world.site, Use.TRAINED) + entries(world.site, Use.EVALUATED)
    assert len(told) == 24
    assert 0 < len(read) < 100


def test_two_plans_have_an_entry_each(world: World, trained: list[set[str]]) -> None:
    other = world.approve(name="triage-2027", privacy={"epsilon": "4"}, phase={"rounds": 1})
    for plan_id in (world.plan_id, other):
        world.train(0, plan_id=plan_id)
    world.run()
    assert len(trained) == 2, world.codes()
    assert set(entries(world.site, Use.TRAINED).values()) == {2}


# --- data that changes --------------------------------------------------------------------------


def test_another_subjects_erasure_writes_nothing_new(world: World, trained: list[set[str]]) -> None:
    def erase() -> None:
        with Vault.open(world.site.paths, world.site.keyring) as vault:
            vault.erase(SUBJECT)

    world.train(0)
    world.fleet.tasks.append(erase)
    world.train(1)
    world.run()
    assert len(trained[0] - trained[1]) <= 1
    assert set(entries(world.site, Use.TRAINED).values()) == {1}


def test_a_new_version_is_told_again(world: World, trained: list[set[str]]) -> None:
    world.train(0)
    world.fleet.tasks.append(lambda: add_dataset(world.site, replace=True))
    world.train(1)
    world.run()
    assert set(entries(world.site, Use.TRAINED).values()) == {2}


def test_of_several_datasets_only_those_of_the_subject_are_named(local: Site) -> None:
    allowed = make_allowed(datasets=("notes", "letters"))
    add_dataset(local, "notes", subjects=4)
    add_dataset(local, "letters", subjects=2)
    with Vault.open(local.paths, local.keyring) as vault:
        first, second = vault.dataset("notes"), vault.dataset("letters")
        few = {record.subject for record in vault.examples("letters")}
        subjects = {
            record.subject: (first, second) if record.subject in few else (first,)
            for record in vault.examples("notes")
        }
        trail = Trail(local.journal, vault, local.principal)
        assert trail.record(Use.TRAINED, allowed, subjects) == 4
        for pseudonym in subjects:
            _, payload = local.journal.read(leaf_of(local, Use.TRAINED, pseudonym).position)
            named = [one["name"] for one in payload["datasets"]]
            assert named == (["notes", "letters"] if pseudonym in few else ["notes"])
        # Only the dataset that changed is told again, to those who are in it.
        add_dataset(local, "letters", subjects=2, replace=True)
        third = vault.dataset("letters")
        changed = {who: (first, third) if who in few else (first,) for who in subjects}
        assert trail.record(Use.TRAINED, allowed, changed) == 2


def test_a_removed_dataset_that_is_added_again_is_another(local: Site) -> None:
    with Vault.open(local.paths, local.keyring) as vault:
        written = []
        for _ in range(2):
            add_dataset(local, subjects=3)
            subjects = dict.fromkeys(vault.generations(), (vault.dataset("notes"),))
            trail = Trail(local.journal, vault, local.principal)
            written.append(trail.record(Use.TRAINED, make_allowed(), subjects))
            assert vault.remove("notes").version == 1
    assert written == [3, 3]


def test_a_subject_erased_before_the_entry_is_not_trained_on(
    world: World, trained: list[set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Erased after the examples were read: the entry is refused, and the examples read again."""
    honest = Trail.record
    erased: list[ErasureResult] = []

    def racing(
        self: Trail, use: Use, allowed: Allowed, subjects: Mapping[str, Any], *more: Any
    ) -> int:
        if not erased:
            with Vault.open(world.site.paths, world.site.keyring) as vault:
                everybody = [f"P-{number:03}" for number in range(24)]
                victim = next(who for who in everybody if vault.pseudonym(who) in subjects)
                erased.append(vault.erase(victim))
        return honest(self, use, allowed, subjects, *more)

    monkeypatch.setattr(Trail, "record", racing)
    world.train(0)
    world.run()
    assert (world.codes(), len(trained)) == ([], 1)
    assert erased[0].pseudonym not in trained[0]
    assert erased[0].pseudonym not in entries(world.site, Use.TRAINED)
    assert set(entries(world.site, Use.TRAINED)) == trained[0]


# --- what came in, and what is left -------------------------------------------------------------


def test_what_came_in_is_told_to_each_subject(local: Site) -> None:
    with Vault.open(local.paths, local.keyring) as vault:
        ingest(local, vault)
        pseudonym = vault.pseudonym(SUBJECT)
        dataset = vault.dataset("notes")
    _, payload = local.journal.read(leaf_of(local, INGESTED, pseudonym).position)
    assert payload == {
        "dataset": "notes",
        "version": 1,
        "digest": dataset.digest,
        "purposes": [PURPOSE],
        "legal_basis": "public-task",
        "deidentification_digest": ZERO_DIGEST,
        "records": 2,
    }


def test_an_erased_story_is_unreadable_in_every_copy(world: World, tmp_path: Path) -> None:
    site = world.site
    with Vault.open(site.paths, site.keyring) as vault, site.ledger() as ledger:
        ingest(site, vault, "letters")
        world.train(0)
        world.evaluate(0)
    world.run()
    with Vault.open(site.paths, site.keyring) as vault, site.ledger() as ledger:
        pseudonym = vault.pseudonym(SUBJECT)
        told = [x.position for x in site.journal.leaves() if x.subject == pseudonym]
        assert len(told) == 2
        before = [site.journal.read(position)[1] for position in told]
        assert before[1]["plan"] == world.plan_id
        backup = tmp_path / "backup.sqlite"
        with (
            closing(sqlite3.connect(site.paths.journal)) as source,
            closing(sqlite3.connect(backup)) as target,
        ):
            source.backup(target)
        erased = erase_subject(site, vault, ledger, SUBJECT)
        assert erased.receipt.plans == (world.plan_id,)
        with Journal.open(backup, site.identity, site.keyring) as copy:
            for position in told:
                for journal in (site.journal, copy):
                    with pytest.raises(KeyDestroyed):
                        journal.read(position)
            others = [x for x in copy.leaves() if x.subject not in (None, pseudonym)]
            assert all(copy.read(leaf.position)[1] for leaf in others)
    for path in (site.paths.journal, backup):
        assert verify_log(path, site.identity.public).ok


def test_a_readmitted_subject_begins_a_new_story(local: Site) -> None:
    with Vault.open(local.paths, local.keyring) as vault:
        ingest(local, vault)
        pseudonym = vault.pseudonym(SUBJECT)
        first = leaf_of(local, INGESTED, pseudonym)
        vault.erase(SUBJECT)
        vault.readmit(SUBJECT)
        ingest(local, vault, replace=True)
        second = leaf_of(local, INGESTED, pseudonym)
        assert second.key == f"subject:{pseudonym}:2"
        assert local.journal.read(second.position)[1]["version"] == 2
        with pytest.raises(KeyDestroyed):
            local.journal.read(first.position)
        subjects = {pseudonym: (vault.dataset("notes"),)}
        Trail(local.journal, vault, local.principal).record(Use.TRAINED, make_allowed(), subjects)
        assert leaf_of(local, Use.TRAINED, pseudonym).key == f"subject:{pseudonym}:2"
        story = tell_story(local, vault, SUBJECT)
    assert (story.state, story.unreadable_entries) == ("held", 1)
    assert [event.action for event in story.events] == [INGESTED, Use.TRAINED]


# --- the command --------------------------------------------------------------------------------


Told = tuple[dict[str, Any], str]


def tell(site: Site, capsys: pytest.CaptureFixture[str], who: str = SUBJECT) -> Told:
    """What `client subject` prints, as JSON and to people."""
    capsys.readouterr()
    subject_command(who, site.paths.root, json=True)
    document = json.loads(capsys.readouterr().out)
    subject_command(who, site.paths.root, json=False)
    text = capsys.readouterr().out
    assert who not in text + json.dumps(document), "the identifier is never printed"
    return document, " ".join(text.split())


def test_the_command_tells_the_story_and_then_that_it_is_forgotten(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    site = world.site
    with Vault.open(site.paths, site.keyring) as vault:
        ingest(site, vault, replace=True)
        pseudonym = vault.pseudonym(SUBJECT)
    world.allow(minimum_subjects=1)
    plan_id = world.approve(name="small", minimum_subjects=5)
    world.train(0, plan_id=plan_id)
    world.fleet.tasks.append(
        make_task("evaluate", plan_id, 0, world.travelling("evaluate", 0, plan_id))
    )
    world.run()
    document, text = tell(site, capsys)
    assert (document["pseudonym"], document["state"]) == (pseudonym, "held")
    assert [one["records"] for one in document["held"]] == [2]
    assert [one["dataset"] for one in document["ingested"]] == ["notes"]
    # Trained on or held out, by the site's secret; never both.
    assert [one["plan"] for one in document["trained"] + document["evaluated"]] == [plan_id]
    assert document["forgotten"] is None
    view = world.compliance.plan(plan_id)
    assert f"approved by officer at {view.approval.body['decided_at']}" in text  # type: ignore[union-attr]
    with Vault.open(site.paths, site.keyring) as vault, site.ledger() as ledger:
        erased = erase_subject(site, vault, ledger, SUBJECT)
    document, text = tell(site, capsys)
    assert document["state"] == "forgotten"
    assert [document[key] for key in ("held", "ingested", "trained", "evaluated")] == [[]] * 4
    assert document["unreadable_entries"] == 2
    assert document["forgotten"]["erased_at"] == erased.receipt.erased_at
    assert document["forgotten"]["receipts"] == [str(erased.own_receipt)]
    assert "forgotten" in text
    assert plan_id in document["forgotten"]["plans"]


def test_an_interrupted_erasure_says_that_its_receipt_is_missing(
    local: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    with Vault.open(local.paths, local.keyring) as vault:
        ingest(local, vault)
        vault.erase(SUBJECT)
    document, text = tell(local, capsys)
    assert (document["state"], document["forgotten"]["receipts"]) == ("forgotten", [])
    assert "client erase" in text


def test_a_subject_whose_dataset_is_gone_is_still_known(
    local: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    with Vault.open(local.paths, local.keyring) as vault:
        ingest(local, vault)
        vault.remove("notes")
    document, text = tell(local, capsys)
    assert (document["state"], len(document["ingested"])) == ("no-records", 1)
    assert "removed or replaced" in text


def test_nobody_is_not_found(local: Site) -> None:
    with pytest.raises(NotFound) as raised:
        subject_command("P-999-nobody", local.paths.root, json=False)
    assert "P-999" not in str(raised.value) + raised.value.fix
