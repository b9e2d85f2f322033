"""The `client` command as an operator or a script sees it: output, exit codes, remedies."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from audit.checkpoint import Checkpoint, sign_checkpoint
from audit.cosignature import WitnessKey
from audit.errors import Unreachable
from audit.log import Entry
from audit.receipt import Receipt
from client import budget_cli, erasure_cli, network, policy_cli, preflight
from client.budget import Reservation
from client.cli import main
from client.review import notes_on
from client.site import SITE_ENVIRONMENT, Site
from tests.client.site.counterparts import Coordinator, FakeCompliance, make_kit, write_kit
from tests.client.site.documents import (
    ZERO_DIGEST,
    add_dataset,
    make_limits,
    make_plan,
    make_policy,
    policy_toml,
    submit,
)
from tests.client.site.fleet import FakeFleet
from tests.client.site.test_preflight import FakeProbe
from tests.client.site.world import World


@dataclass
class Done:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Done]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    compliance: FakeCompliance,
) -> Run:
    """Run `client …` in this process, with the fake service in place of the network."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv(SITE_ENVIRONMENT, raising=False)
    for module in (network, policy_cli, budget_cli, erasure_cli):
        monkeypatch.setattr(module, "open_service", lambda _site: compliance)
    monkeypatch.setattr(network, "connect_service", compliance.connect)
    monkeypatch.setattr(network, "NetworkProbe", lambda _site: FakeProbe(compliance))
    # The embedded model takes seconds to load; `test_base_models` loads one for real.
    monkeypatch.setattr("client.base_models.load_base_model", lambda _folder: ZERO_DIGEST)

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["client", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Done(int(ended.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture
def folder(joined: Site) -> Path:
    """An admitted site's folder, ready to train."""
    add_dataset(joined)
    joined.paths.policy.write_text(policy_toml(make_policy()))
    joined.close()
    return joined.paths.root


def test_help_explains_itself(run: Run) -> None:
    done = run("--help")
    assert done.code == 0
    commands = ("join", "check", "start", "budget", "witness", "erase", "status", "policy", "data")
    for command in commands:
        assert command in done.out
    assert run("--version").out.startswith("fiduciary ")


# --- join -----------------------------------------------------------------------------------------


def test_join_shows_the_fingerprint_and_that_the_policy_refuses(
    run: Run, kit: Path, tmp_path: Path, compliance: FakeCompliance
) -> None:
    pending = run("join", kit, "--dir", tmp_path / "s", "--wait", 0, "--json")
    assert pending.code == 0
    assert pending.json["stage"] == "pending"
    fingerprint = pending.json["fingerprint"]
    assert len(fingerprint) == 64
    compliance.admit("north")
    joined = run("join", kit, "--dir", tmp_path / "s", "--fingerprint", fingerprint)
    assert joined.code == 0
    assert fingerprint[:4] in joined.out
    assert "refuses every plan" in joined.out


def test_join_by_the_environment(
    run: Run, kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SITE_ENVIRONMENT, str(tmp_path / "by-environment"))
    assert run("join", kit, "--wait", 0).code == 0
    assert (tmp_path / "by-environment" / "config.toml").exists()


def test_each_failure_of_join_has_its_code(
    run: Run,
    kit: Path,
    tmp_path: Path,
    coordinator: Coordinator,
    compliance: FakeCompliance,
) -> None:
    def at(name: str) -> tuple[str, Path, str, int]:
        return "--dir", tmp_path / name, "--wait", 0

    expired = write_kit(tmp_path / "old.kit", make_kit(coordinator, compliance.trust, hours=-1))
    altered = tmp_path / "altered.kit"
    altered.write_text(kit.read_text().replace('"payload": "ey', '"payload": "eZ'))
    nonsense = tmp_path / "nonsense.kit"
    nonsense.write_text("hello")
    assert run("join", tmp_path / "none.kit", *at("a")).code == 4
    assert run("join", nonsense, *at("b")).code == 5
    assert run("join", expired, *at("c")).code == 3
    assert run("join", altered, *at("d")).code == 6
    assert run("join", kit, "--fingerprint", "00" * 32, *at("e")).code == 6
    assert run("join", kit, *at("f")).code == 0
    reused = run("join", kit, *at("g"))
    assert reused.code == 9
    assert "fix:" in reused.err
    compliance.fail["enrol"] = Unreachable("no route", fix="start it")
    again = write_kit(
        tmp_path / "again.kit",
        make_kit(coordinator, compliance.trust, token="a-second-one-time-token"),
    )
    assert run("join", again, *at("h")).code == 7
    left = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert left == {"compliance", "f", "h"}


# --- check ----------------------------------------------------------------------------------------


def test_check_exits_with_the_first_failure(run: Run, folder: Path) -> None:
    assert run("check", "--dir", folder).code == 0
    (folder / "policy.toml").write_text(policy_toml(make_policy(purposes=[])))
    failed = run("check", "--dir", folder, "--json")
    assert failed.code == failed.json["exit_code"] == 26
    assert [check["name"] for check in failed.json["checks"] if check["outcome"] == "failed"] == [
        "policy"
    ]
    table = run("check", "--dir", folder)
    assert "fix: name the purposes" in table.out


def test_check_fetches_a_certificate_that_is_ready(
    run: Run, kit: Path, tmp_path: Path, compliance: FakeCompliance
) -> None:
    run("join", kit, "--dir", tmp_path / "s", "--wait", 0)
    compliance.admit("north")
    run("check", "--dir", tmp_path / "s")
    assert (tmp_path / "s" / "keys" / "certificate.pem").exists()


def test_check_says_when_the_certificate_is_not_ours(
    run: Run, kit: Path, tmp_path: Path, compliance: FakeCompliance, coordinator: Coordinator
) -> None:
    run("join", kit, "--dir", tmp_path / "s", "--wait", 0)
    compliance.certify = lambda key, _name: coordinator.certify(key, "south")
    compliance.admit("north")
    done = run("check", "--dir", tmp_path / "s")
    assert "names south, not north" in done.err
    assert done.code == 22


def test_no_site_is_not_found(run: Run, tmp_path: Path) -> None:
    for command in ("check", "budget", "status", "start"):
        done = run(command, "--dir", tmp_path / "nowhere")
        assert done.code == 4
        assert "client join KIT" in done.err


# --- policy and budget ----------------------------------------------------------------------------


def test_policy_show_and_init(run: Run, folder: Path) -> None:
    assert run("policy", "show", "--dir", folder, "--json").json["purposes"] == ["triage"]
    assert "triage" in run("policy", "show", "--dir", folder).out
    assert "kept" in run("policy", "init", "--dir", folder).out
    assert 'format = "fiduciary.policy/4"' in run("policy", "init", "--print").out
    (folder / "policy.toml").unlink()
    assert run("policy", "show", "--dir", folder).code == 4
    assert "wrote" in run("policy", "init", "--dir", folder).out
    shown = run("policy", "show", "--dir", folder)
    assert "every plan is refused" in shown.out
    (folder / "policy.toml").write_text("purposes = 7")
    assert run("policy", "show", "--dir", folder).code == 5


def test_policy_check_of_a_draft(run: Run, folder: Path, tmp_path: Path) -> None:
    draft = tmp_path / "plan.toml"
    draft.write_text(
        '[plan]\npurpose = "billing"\n[privacy]\nepsilon = 2\ndelta = 1e-5\nnominal_subjects = 9\n'
    )
    refused = run("policy", "check", draft, "--dir", folder, "--json")
    assert refused.code == 3
    rules = {item["rule"]: item["passed"] for item in refused.json["findings"]}
    assert [rule for rule, passed in rules.items() if not passed] == ["purpose"]
    draft.write_text(draft.read_text().replace("billing", "triage"))
    allowed = run("policy", "check", draft, "--dir", folder)
    assert allowed.code == 0
    assert "allowed" in allowed.out


def test_policy_check_of_a_submitted_plan(run: Run, world: World) -> None:
    folder = world.site.paths.root
    by_id = run("policy", "check", world.plan_id, "--dir", folder, "--json")
    assert by_id.code == 0
    assert by_id.json["allowed"] is True
    assert len(by_id.json["findings"]) == 25
    assert run("policy", "check", world.plan_id[7:15], "--dir", folder).code == 0
    assert run("policy", "check", "triage-2026", "--dir", folder).code == 0
    assert run("policy", "check", "no-such-plan", "--dir", folder).code == 4
    world.allow(max_epsilon_per_plan="0.5")
    assert run("policy", "check", "triage-2026", "--dir", folder).code == 3
    with world.ledger() as ledger:
        assert ledger.open_plans() == [], "asking reserves nothing"


def test_policy_check_tells_when_only_the_budget_refuses(run: Run, world: World) -> None:
    other = world.plan.model_copy(update={"name": "other"})
    with world.ledger() as ledger:
        for digit in "1234567":
            reservation = Reservation.of(f"sha256:{digit * 64}", other, ["notes"])
            ledger.reserve(reservation, make_limits("30"))
    world.allow(max_epsilon_total="8")
    assert run("policy", "check", "triage-2026", "--dir", world.site.paths.root).code == 10


def test_policy_check_explains_rules_that_ask_others_for_protection(run: Run, world: World) -> None:
    folder = world.site.paths.root
    world.allow(
        require_secure_aggregation=True, training_hours=["22:00-06:00"], timezone="Europe/Berlin"
    )
    refused = run("policy", "check", "triage-2026", "--dir", folder, "--json")
    assert refused.code == 3
    found = {item["rule"]: item for item in refused.json["findings"]}
    assert [rule for rule, item in found.items() if not item["passed"]] == ["secure-aggregation"]
    assert "secure_aggregation = true" in found["secure-aggregation"]["fix"]
    assert "22:00-06:00 Europe/Berlin" in found["training-hours"]["detail"]
    assert found["distributed-noise"]["passed"]
    shown = run("policy", "show", "--dir", folder).out
    for key in ("training_hours", "timezone", "require_secure_aggregation", "period_days"):
        assert key in shown


def test_policy_check_and_budget_tell_of_the_period(run: Run, world: World) -> None:
    folder = world.site.paths.root
    other = world.plan.model_copy(update={"name": "other"})
    with world.ledger() as ledger:
        for digit in "123456789":
            reservation = Reservation.of(f"sha256:{digit * 64}", other, ["notes"])
            if ledger.cost_of(reservation, make_limits("30")).total > 8:
                break
            ledger.reserve(reservation, make_limits("30"))
        committed = float(ledger.budget(world.plan.privacy.delta).committed)
    world.allow(max_epsilon_per_period="8", max_epsilon_total="20")
    refused = run("policy", "check", "triage-2026", "--dir", folder, "--json")
    assert refused.code == 10
    found = [item for item in refused.json["findings"] if not item["passed"]]
    assert [item["rule"] for item in found] == ["budget-period"]
    assert "wait until earlier rounds are older" in found[0]["fix"]
    cost = run("budget", "--dir", folder, "--plan", "triage-2026", "--json")
    assert cost.code == 10
    assert cost.json["epsilon_period"] == cost.json["epsilon_total"] > 8
    assert "within 30 days" in cost.json["refusal"]
    period = run("budget", "--dir", folder, "--json").json["period"]
    assert period["days"] == 30
    assert period["epsilon_committed"] == committed
    assert period["epsilon_left"] == pytest.approx(8 - committed)
    shown = run("budget", "--dir", folder).out
    assert "within 30 days: spent 0" in shown
    world.allow()
    assert run("budget", "--dir", folder, "--json").json["period"] is None
    assert "within" not in run("budget", "--dir", folder).out


def test_a_name_that_two_plans_have_is_ambiguous(
    run: Run, folder: Path, compliance: FakeCompliance
) -> None:
    submit(compliance)
    submit(compliance, created_at="2026-11-03T09:00:00Z")
    done = run("policy", "check", "triage-2026", "--dir", folder)
    assert done.code == 5
    assert "could be any of" in done.err


def test_budget(run: Run, world: World) -> None:
    folder = world.site.paths.root
    world.train(0)
    world.run()
    found = run("budget", "--dir", folder, "--json").json
    assert found["epsilon_spent"] > 0
    assert found["epsilon_committed"] == found["plans"][0]["epsilon_committed"]
    assert found["epsilon_left"] == pytest.approx(10 - found["epsilon_committed"])
    assert found["plans"][0]["rounds_started"] == 1
    shown = run("budget", "--dir", folder).out
    assert "triage-2026" in shown
    assert "1 of 4" in shown


def test_budget_tells_what_a_plan_would_cost(run: Run, world: World) -> None:
    folder = world.site.paths.root
    cost = run("budget", "--dir", folder, "--plan", "triage-2026", "--json")
    assert cost.code == 0
    assert cost.json["epsilon_plan"] == cost.json["epsilon_total"]
    assert cost.json["reserved"] is False
    world.allow(max_epsilon_per_plan="0.1", max_epsilon_total="0.1")
    assert run("budget", "--dir", folder, "--plan", "triage-2026").code == 10


def test_budget_says_what_would_be_left_and_why_not(run: Run, world: World) -> None:
    folder = world.site.paths.root
    cost = run("budget", "--dir", folder, "--plan", "triage-2026", "--json").json
    assert cost["epsilon_left_after"] == pytest.approx(10 - cost["epsilon_total"])
    assert (cost["allowed"], cost["refusal"]) == (True, None)
    shown = run("budget", "--dir", folder, "--plan", "triage-2026").out
    assert f"{cost['epsilon_left_after']:.4f} of 10 would be left: allowed" in shown
    world.allow(max_epsilon_per_plan="0.1", max_epsilon_total="0.1")
    refused = run("budget", "--dir", folder, "--plan", "triage-2026", "--json")
    assert refused.code == 10
    assert refused.json["allowed"] is False
    assert refused.json["epsilon_left_after"] == 0
    assert "more than the 0.1" in refused.json["refusal"]


DRAFT = """
[plan]
name = "spring"
labels = ["urgent", "routine"]
sites = ["north", "south"]
purpose = "triage"
[privacy]
epsilon = 3
delta = 1e-5
nominal_subjects = 20
"""

PHASES = """
[[phases]]
kind = "probe"
rounds = 3
steps_per_round = 2
sampling_rate = 0.5
learning_rate = 1
max_grad_norm = 1
"""


@pytest.mark.parametrize("phases", ["", PHASES, PHASES + "relative_noise = 0.5\n"])
def test_budget_tells_what_a_draft_would_cost(
    run: Run, folder: Path, tmp_path: Path, phases: str
) -> None:
    draft = tmp_path / "plan.toml"
    draft.write_text(DRAFT + phases)
    found = run("budget", "--dir", folder, "--plan", draft, "--json")
    assert found.code == 0
    assert 2.9 < found.json["epsilon_plan"] <= 3
    assert found.json["epsilon_total"] == pytest.approx(found.json["epsilon_plan"], abs=1e-3)
    assert found.json["plan_id"] is None
    assert "plan spring: epsilon" in run("budget", "--dir", folder, "--plan", draft).out


def test_a_draft_whose_epsilon_is_out_of_reach_is_refused(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    draft = tmp_path / "plan.toml"
    many = PHASES.replace("= 3", "= 10000").replace("= 2", "= 10000").replace("0.5", "1")
    draft.write_text(DRAFT.replace("epsilon = 3", "epsilon = 0.0001") + many)
    found = run("budget", "--dir", folder, "--plan", draft)
    assert found.code == 5
    assert "cannot be reached in the steps asked" in found.err
    draft.write_text(DRAFT + PHASES.replace("sampling_rate = 0.5", "sampling_rate = 1.5"))
    found = run("budget", "--dir", folder, "--plan", draft)
    assert found.code == 5
    assert "phases: sampling_rate" in found.err


def test_budget_is_shown_as_a_bar_with_what_its_figures_are(run: Run, world: World) -> None:
    folder = world.site.paths.root
    world.train(0)
    world.run()
    shown = run("budget", "--dir", folder).out
    bar = next(line.strip() for line in shown.splitlines() if "█" in line)
    assert len(bar) == 60
    assert set(bar) == set("█▒·")
    assert "limit      filter: " in shown
    assert "spent      odometer: " in shown
    assert "every data subject of this site" in shown


LIMITED = {"noise_multiplier": "4", "batch_limit": {"subjects": 12, "max_population": 60}}


def test_budget_tells_batch_limits_and_whom_a_plan_protects(run: Run, world: World) -> None:
    folder = world.site.paths.root
    plan_id = world.approve(name="limited", format="fiduciary.plan/2", phase=LIMITED)
    cost = run("budget", "--dir", folder, "--plan", "limited", "--json").json
    world.approve(name="unlimited", phase={"noise_multiplier": "4"})
    plain = run("budget", "--dir", folder, "--plan", "unlimited", "--json").json
    assert cost["batch_limits"] == [LIMITED["batch_limit"]]
    assert cost["epsilon_plan"] >= plain["epsilon_plan"]
    assert "a random 12 take part" in run("budget", "--dir", folder, "--plan", "limited").out
    world.train(0, plan_id=plan_id)
    world.run()
    assert world.codes() == []
    (found,) = run("budget", "--dir", folder, "--json").json["plans"]
    assert (found["batch_limits"], found["unit"]) == ([LIMITED["batch_limit"]], "subject")
    assert "sites of at most 60 subjects" in run("budget", "--dir", folder).out


def test_budget_tells_what_a_record_level_plan_costs_a_subject(run: Run, world: World) -> None:
    folder = world.site.paths.root
    world.allow(privacy_units=["subject", "record"])
    terms = {"unit": "record", "epsilon": "2", "max_records_per_subject": 2}
    plan_id = world.approve(
        name="records",
        format="fiduciary.plan/2",
        privacy=terms,
        phase={"noise_multiplier": "8", "rounds": 2},
    )
    cost = run("budget", "--dir", folder, "--plan", "records", "--json").json
    assert 2 * cost["epsilon_plan"] < cost["epsilon_of_subject"]
    assert cost["epsilon_total"] == cost["epsilon_of_subject"]
    world.train(0, plan_id=plan_id)
    world.run()
    assert world.codes() == []
    found = run("budget", "--dir", folder, "--json").json
    (part,) = found["plans"]
    assert (part["unit"], part["epsilon_committed"]) == ("record", cost["epsilon_plan"])
    assert found["epsilon_committed"] == part["epsilon_of_subject"] == cost["epsilon_of_subject"]
    assert "promises its epsilon to single records" in run("budget", "--dir", folder).out
    world.allow()
    world.train(1, plan_id=plan_id)
    world.run()
    assert world.codes() == ["privacy-unit"], "a tightened policy is obeyed"


def test_a_picture_of_the_budget_needs_a_folder(run: Run, world: World, tmp_path: Path) -> None:
    asked = run("budget", "--dir", world.site.paths.root, "--plot", tmp_path / "no" / "x.svg")
    assert asked.code == 1
    assert "lies in no folder that exists" in asked.err


def test_budget_is_drawn(run: Run, world: World, tmp_path: Path) -> None:
    folder = world.site.paths.root
    world.train(0)
    world.train(1)
    world.run()
    picture = tmp_path / "budget.svg"
    done = run("budget", "--dir", folder, "--plot", picture, "--json")
    assert done.code == 0
    history = done.json["history"]
    assert [reading["rounds"] for reading in history] == [1, 2]
    assert history[-1]["epsilon_spent"] == done.json["epsilon_spent"]
    root = ElementTree.fromstring(picture.read_text())  # noqa: S314  our own picture
    texts = [text for element in root.iter() if (text := element.text)]
    assert f"spent {done.json['epsilon_spent']:.4f}" in texts
    assert "limit 10" in texts
    assert "triage-2026" in texts
    assert len([element for element in root.iter() if element.tag.endswith("circle")]) == 2
    assert run("budget", "--dir", folder, "--plot", tmp_path / "budget.gif").code == 2
    assert run("budget", "--dir", folder, "--plot", picture, "--plan", "x").code == 2
    assert "wrote" in run("budget", "--dir", folder, "--plot", picture).out


def test_policy_check_notes_what_fits_a_population_badly(run: Run, world: World) -> None:
    folder = world.site.paths.root
    assert run("policy", "check", "triage-2026", "--dir", folder, "--json").json["notes"] == []
    add_dataset(world.site, "notes", subjects=12, replace=True)
    found = run("policy", "check", "triage-2026", "--dir", folder, "--json").json
    assert found["allowed"] is True, "it costs accuracy and no privacy"
    assert len(found["notes"]) == 1
    assert "as if there were 20 subjects here, there are 12" in found["notes"][0]
    assert "no privacy" in run("policy", "check", "triage-2026", "--dir", folder).out


def test_a_promise_that_may_fail_for_a_whole_subject_is_noted() -> None:
    plan = make_plan(privacy={"delta": "0.05"})
    assert any("at least one in your 24 subjects" in note for note in notes_on(plan, 24))
    assert notes_on(make_plan(), 24) == ()


def test_an_empty_budget_says_so(run: Run, folder: Path) -> None:
    assert "no plan has used" in run("budget", "--dir", folder).out


# --- erase ----------------------------------------------------------------------------------------


def test_erase_prints_no_identifier(run: Run, folder: Path) -> None:
    done = run("erase", "P-003", "--dir", folder, "--yes")
    assert done.code == 0
    assert "P-003" not in done.out + done.err
    assert "2 records" in done.out


def test_erase_as_json_names_both_receipts(run: Run, folder: Path) -> None:
    done = run("erase", "P-003", "--dir", folder, "--yes", "--json").json
    assert done["erased"]["records_removed"] == 2
    assert (done["sent"], done["waiting"]) == (1, 0)
    for name in ("receipt", "site_receipt"):
        Receipt.parse(Path(done[name]).read_bytes())


def test_erase_works_while_the_service_is_away(
    run: Run, folder: Path, compliance: FakeCompliance
) -> None:
    compliance.fail["report_erasure"] = Unreachable("no route", fix="start it")
    done = run("erase", "P-003", "--dir", folder, "--yes")
    assert done.code == 0
    assert "the receipt waits" in done.err
    assert "1 statement;" in run("status", "--dir", folder).out
    assert "1 statement sent, 0 waiting" in run("erase", "--send-pending", "--dir", folder).out
    assert run("status", "--dir", folder, "--json").json["waiting_statements"] == 0


def test_erase_asks_first(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("erase", "P-003", "--dir", folder).code == 2, "nobody is there to answer"
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda *_, **__: False)
    assert run("erase", "P-003", "--dir", folder).code == 3
    monkeypatch.setattr("typer.confirm", lambda *_, **__: True)
    assert run("erase", "P-003", "--dir", folder).code == 0


def test_erase_of_nobody(run: Run, folder: Path) -> None:
    done = run("erase", "P-999", "--dir", folder, "--yes")
    assert done.code == 4
    assert "P-999" not in done.err
    assert run("erase", "--dir", folder).code == 2


def test_erase_at_a_site_without_a_federation(run: Run, local: Site) -> None:
    add_dataset(local)
    done = run("erase", "P-003", "--dir", local.paths.root, "--yes", "--json")
    assert done.code == 0
    assert (done.json["sent"], done.json["waiting"]) == (0, 1)


# --- status and start -----------------------------------------------------------------------------


def test_status_of_a_fresh_site(run: Run, local: Site) -> None:
    found = run("status", "--dir", local.paths.root, "--json").json
    assert found["stage"] == "local"
    assert found["worker"]["running"] is False
    assert found["budget"]["problem"]
    shown = run("status", "--dir", local.paths.root).out
    assert "no dataset yet" in shown


def test_witness_vouches_for_the_log_and_status_says_how_far(
    run: Run, folder: Path, compliance: FakeCompliance
) -> None:
    assert "has not seen the audit log yet" in run("status", "--dir", folder).out
    compliance.log.record(Entry("test", "noise", "thing:1", None, {}))
    found = run("witness", "--dir", folder, "--json").json
    assert set(found) == {"log", "size", "cosigned_at", "delivered"}
    assert (found["log"], found["size"], found["delivered"]) == (compliance.trust.origin, 1, True)
    assert run("witness", "--dir", folder).out.startswith("cosigned 1 entry of compliance.test")
    shown = run("status", "--dir", folder, "--json").json["witness"]
    assert shown["alarms"] == []
    assert (shown["size"], shown["cosigned_at"]) == (1, found["cosigned_at"])
    assert WitnessKey.parse(shown["vkey"]).name == "hospitals/site/north"
    assert "witness: 1 entry of compliance.test/log" in run("status", "--dir", folder).out
    compliance.fail["log_head"] = Unreachable("away", fix="start it")
    assert run("witness", "--dir", folder).code == 7


def test_an_alarm_is_exit_code_6_and_stays_in_status(
    run: Run, folder: Path, compliance: FakeCompliance
) -> None:
    run("witness", "--dir", folder)
    compliance.head = sign_checkpoint(
        Checkpoint(compliance.trust.origin, 0, bytes(32)), compliance.log_key
    )
    done = run("witness", "--dir", folder)
    assert done.code == 6
    assert "error: the audit log of the compliance service misbehaved (forked)" in done.err
    compliance.head = None
    assert run("witness", "--dir", folder).code == 0
    (alarm,) = run("status", "--dir", folder, "--json").json["witness"]["alarms"]
    assert alarm["reason"] == "forked"
    shown = run("status", "--dir", folder).out
    assert "ALARM" in shown
    assert alarm["file"] in shown
    Path(alarm["file"]).write_text("damaged")
    assert "it cannot be read" in run("status", "--dir", folder).out


def test_status_names_an_interrupted_erasure(run: Run, folder: Path) -> None:
    (folder / f"{'ab' * 32}.erasing").touch()
    assert "an erasure was interrupted" in run("status", "--dir", folder).out


def test_start_serves_until_ctrl_c(run: Run, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def look_then_press() -> None:
        seen.append(run("status", "--dir", world.site.paths.root, "--json").json["worker"])
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(network, "fleet_connector", lambda _site: world.fleet.connect)
    world.train(0)
    world.fleet.tasks.append(look_then_press)
    done = run("start", "--dir", world.site.paths.root)
    assert done.code == 130
    assert seen[0]["running"] is True
    assert seen[0]["rounds_trained"] == 1
    assert world.started() == 1


@pytest.mark.parametrize(
    ("outcome", "code"), [("completed", 0), ("failed", 1), ("refused", 3), ("terminated", 0)]
)
def test_start_once_tells_how_the_plan_ended(
    run: Run, world: World, monkeypatch: pytest.MonkeyPatch, outcome: Any, code: int
) -> None:
    monkeypatch.setattr("client.worker.TEND_SECONDS", 0.0)
    monkeypatch.setattr(network, "fleet_connector", lambda _site: world.fleet.connect)
    if outcome == "refused":
        world.allow(purposes=[])
        world.train(0)
    elif outcome == "terminated":
        world.fleet.tasks.append(lambda: signal.raise_signal(signal.SIGTERM))
    else:
        world.train(0)
        world.fleet.tasks.append(lambda: world.compliance.end(world.plan_id, outcome))
    assert run("start", "--once", "--dir", world.site.paths.root).code == code


def test_start_needs_an_admitted_site(
    run: Run, kit: Path, tmp_path: Path, compliance: FakeCompliance
) -> None:
    run("join", kit, "--dir", tmp_path / "s", "--wait", 0)
    done = run("start", "--dir", tmp_path / "s")
    assert done.code == 4
    assert "has no certificate yet" in done.err
    assert "server admit north" in done.err


def test_start_fetches_a_certificate_that_is_ready(
    run: Run,
    kit: Path,
    tmp_path: Path,
    compliance: FakeCompliance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet = FakeFleet()
    fleet.tasks = [lambda: signal.raise_signal(signal.SIGTERM)]
    monkeypatch.setattr(network, "fleet_connector", lambda _site: fleet.connect)
    run("join", kit, "--dir", tmp_path / "s", "--wait", 0)
    compliance.admit("north")
    (tmp_path / "s" / f"{'ab' * 32}.erasing").touch()
    done = run("start", "--dir", tmp_path / "s")
    assert done.code == 0
    assert (tmp_path / "s" / "keys" / "certificate.pem").exists()
    assert "an erasure was interrupted" in done.err


def test_every_check_is_documented_in_its_help(run: Run) -> None:
    help_text = run("check", "--help").out
    for number in range(20, 29):
        assert str(number) in help_text
    assert preflight.MAX_CLOCK_SKEW.seconds == 30
    assert "30 s" in help_text
