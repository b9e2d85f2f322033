"""Retention of a site's own journal: the same rules and steps, and what the site must not lose."""

from __future__ import annotations

import json
import shutil
import sys
from datetime import UTC, datetime

import pytest

from audit.errors import VerificationFailed
from audit.key_manager import KeyDestroyed
from audit.log import Entry, subject_key_name
from audit.verifier import verify_log
from client import cli
from client.ledger_journal import journalled_sequence
from client.retention import RetentionTimer, site_retention
from client.site import Site
from compliance.retention import CHECK_SECONDS
from compliance.rules.months import Month
from tests.client.site.documents import make_limits, make_reservation
from tests.client.site.world import World

PLAN = f"sha256:{'1' * 64}"

FAR = datetime(2090, 1, 1, tzinfo=UTC)
"""Past every period."""


def configure(site: Site, *jurisdictions: str) -> None:
    named = ", ".join(f'"{name}"' for name in jurisdictions)
    (site.paths.root / "retention.toml").write_text(
        f'format = "fiduciary.retention/1"\njurisdictions = [{named}]\n'
    )


def write_entry(site: Site, action: str) -> int:
    entry = Entry(site.principal, action, "outbox:1", None, {"code": "x", "reason": "y"})
    return site.journal.record(entry).position


def actions(site: Site) -> list[str]:
    return [leaf.action for leaf in site.journal.leaves()]


def month() -> str:
    return str(Month.of(datetime.now(UTC)))


def test_a_month_that_is_due_is_shredded_and_the_journal_verifies(local: Site) -> None:
    position = write_entry(local, "statement-rejected")
    key = f"action:statement-rejected:{month()}"
    configure(local, "gdpr")
    with local.ledger() as ledger:
        assert site_retention(local, ledger).run().shredded == ()
        retention = site_retention(local, ledger, lambda: FAR)
        counts = {
            j.key.name: retention.show().counts[j.key.name] for j in retention.show().judgements
        }
        assert counts[key] == 1
        assert [judgement.key.name for judgement in retention.run().shredded] == [key]
        assert retention.run().shredded == ()
    assert actions(local)[-2:] == ["retention.ordered", "retention.shredded"]
    with pytest.raises(KeyDestroyed):
        local.journal.read(position)
    assert local.journal.read(0)[1]["federation"] == "hospitals"
    report = verify_log(local.paths.journal, local.identity.public)
    assert report.ok, report


def test_without_a_file_nothing_is_ever_shredded(local: Site) -> None:
    write_entry(local, "statement-rejected")
    with local.ledger() as ledger:
        assert site_retention(local, ledger, lambda: FAR).run().shredded == ()
    assert not [action for action in actions(local) if action.startswith("retention.")]


def test_retention_does_not_weaken_what_notices_a_budget_put_back(local: Site) -> None:
    """A hundred years later, under every jurisdiction, an older ledger is still refused."""
    configure(local, "gdpr", "ccpa", "hipaa", "ai-act")
    older = local.paths.root / "older.sqlite"
    with local.ledger():
        pass
    shutil.copy(local.paths.ledger, older)
    with local.ledger() as ledger:
        ledger.reserve(make_reservation(PLAN), make_limits())
        ledger.start_round(PLAN, 0)
        ledger.settle(PLAN)
        sequence = journalled_sequence(local.journal)
        assert sequence >= 3
        write_entry(local, "task-refused")
        assert site_retention(local, ledger, lambda: FAR).run().shredded
        assert journalled_sequence(local.journal) == sequence
    for path in local.paths.root.glob("ledger.sqlite*"):
        path.unlink()
    shutil.copy(older, local.paths.ledger)
    with pytest.raises(VerificationFailed, match="put back"):
        local.ledger()


def test_a_subjects_key_is_no_matter_of_retention(local: Site) -> None:
    subject = "ab" * 32
    entry = Entry(local.principal, "statement-rejected", "thing:1", subject, {"note": "kept"})
    position = local.journal.record(entry).position
    configure(local, "gdpr", "ccpa", "hipaa", "ai-act")
    with local.ledger() as ledger:
        site_retention(local, ledger, lambda: FAR).run()
    assert subject_key_name(subject) in set(local.keyring.names())
    assert local.journal.read(position)[1] == {"note": "kept"}


def test_a_report_is_kept_until_its_plan_is_settled(world: World) -> None:
    """Real entries of a real worker, which trained a plan to its end."""
    configure(world.site, "gdpr")
    world.train(0)
    world.run()
    key = f"action:round-train:{month()}"
    with world.ledger() as ledger:
        assert ledger.open_plans() == [world.plan_id]
        retention = site_retention(world.site, ledger, lambda: FAR)
        shown = {judgement.key.name: judgement for judgement in retention.show().judgements}
        assert shown[key].status == "in-effect"
        ledger.settle(world.plan_id)
        assert key in [judgement.key.name for judgement in retention.run().shredded]
    kept = {name.rpartition(":")[0] for name in world.site.keyring.names() if "action:" in name}
    assert "action:round-train" not in kept
    assert {"action:budget-reserved", "action:site-enrolled", "action:site-created"} <= kept


def test_a_hold_keeps_until_it_is_released(local: Site) -> None:
    configure(local, "gdpr")
    write_entry(local, "task-refused")
    with local.ledger() as ledger:
        retention = site_retention(local, ledger, lambda: FAR)
        retention.hold("case-17", reason="inquiry", action="task-refused")
        assert retention.run().shredded == ()
        # Holds are read from the journal: another process sees them too.
        assert site_retention(local, ledger, lambda: FAR).run().shredded == ()
        retention.release("case-17", reason="closed")
        assert len(retention.run().shredded) == 1


def test_the_worker_looks_at_once_and_then_daily(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(world.site, "gdpr")
    write_entry(world.site, "statement-rejected")
    seconds = [0.0]
    now = [datetime.now(UTC)]
    with world.ledger() as ledger:
        timer = RetentionTimer(
            site_retention(world.site, ledger, lambda: now[0]), world.notes, lambda: seconds[0]
        )
        timer.tend()
        now[0] = FAR
        seconds[0] = CHECK_SECONDS - 1
        timer.tend()
        assert "retention.ordered" not in actions(world.site)
        seconds[0] = CHECK_SECONDS
        timer.tend()
    assert actions(world.site)[-2:] == ["retention.ordered", "retention.shredded"]
    assert any("shredded action:statement-rejected" in line for line in world.notes.lines)


def test_a_broken_file_is_said_and_the_worker_serves(world: World) -> None:
    (world.site.paths.root / "retention.toml").write_text("jurisdictions = [")
    world.train(0)
    world.run()
    assert any("retention did not run: malformed" in line for line in world.notes.lines)
    assert world.started() == 1


def test_the_worker_confirms_what_a_killed_run_destroyed(world: World) -> None:
    configure(world.site, "gdpr")
    key = "action:statement-rejected:2020-01"
    world.site.journal.record(Entry(world.site.principal, "retention.ordered", key, None, {}))
    world.site.keyring.destroy(key)
    world.train(0)
    world.run()
    found = [leaf for leaf in world.site.journal.leaves() if leaf.action == "retention.shredded"]
    assert [leaf.object for leaf in found] == [key]


def test_the_command(
    local: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> str:
        folder = ["--dir", str(local.paths.root)]
        monkeypatch.setattr(sys, "argv", ["client", "retention", *arguments, *folder])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert int(str(ended.value.code or 0)) == 0
        return capsys.readouterr().out

    assert "none named, so nothing is shredded" in run("show")
    configure(local, "gdpr")
    write_entry(local, "statement-rejected")
    shown = json.loads(run("show", "--json"))
    (key,) = [key for key in shown["keys"] if key["action"] == "statement-rejected"]
    assert (key["status"], key["rule"], key["entries"]) == ("waiting", "gdpr-security", 1)
    assert "nothing is due" in run("run", "--dry-run")
    assert json.loads(run("run", "--json"))["shredded"] == []
    assert "held by case-17" in run("hold", "case-17", "--reason", "inquiry", "--from", "2026-01")
    assert "case-17" in run("show")
    assert "released case-17" in run("release", "case-17", "--reason", "closed")
