"""The `server` command as people run it, from init to a loaded model (`start` as a process)."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import model_signing
import numpy as np
import pytest
from huggingface_hub import ModelCard
from prometheus_client.samples import Sample
from rich.console import Console

from audit.errors import ExitCode
from audit.hpke import load_private_key
from client.arrays import Arrays
from client.learning.base_model import resolve_base_model
from client.learning.plan_model import trained_names
from client.learning.tasks import build_model
from client.learning.tasks.text_classification import TextClassifier
from compliance.api import ComplianceClient
from compliance.statements import ReleaseManifest, TrainingPlan, format_time
from server.federation import Federation
from server.fetch import Fetched
from server.runs import all_runs
from server.watch_screen import screen
from tests.audit.test_watching import on_a_terminal
from tests.client.learning.conftest import logits_of
from tests.scraping import assert_nothing_personal, scrape, value
from tests.server.conftest import Service, command, free_ports, until
from tests.server.desk import REPOSITORY, Desk, desk_at
from tests.server.scripted import Script, ScriptedSite

WAIT_SECONDS = 120.0

PLAN = """
[plan]
name = "message-routing"
labels = ["billing", "clinical", "other"]
sites = ["st-elm", "lakeside"]
purpose = "message-routing"
legal_basis = "legitimate-interests"
retention_days = 365
rounds = 2
max_tokens = 32

[privacy]
epsilon = 8
delta = 1e-5
nominal_subjects = 1000
"""


@pytest.fixture(scope="module")
def desk(shared_service: Service, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    made = desk_at(tmp_path_factory.mktemp("desk"), shared_service, ("st-elm", "lakeside"))
    (made.folder / "plan.toml").write_text(PLAN)
    return made


class _Small:
    """Small updates, of what each round's phase trains, by one site."""

    def __init__(self, plan: TrainingPlan) -> None:
        self._plan = plan
        self._rounds = 0

    def __call__(self, state: Arrays) -> Arrays:
        phase = self._plan.phase_of(min(self._rounds, self._plan.rounds - 1))
        self._rounds += 1
        generator, trained = np.random.default_rng(7), trained_names(phase.kind, state)
        return {
            name: (generator.normal(scale=0.02, size=array.shape) * (name in trained)).astype(
                np.float32
            )
            for name, array in state.items()
        }


@dataclass
class Finished:
    desk: Desk
    submitted: dict[str, Any]
    status: dict[str, Any]
    stopped_status: dict[str, Any]
    output: str
    exit_code: int
    samples: list[Sample]
    watched: list[dict[str, Any]]

    @property
    def plan(self) -> TrainingPlan:
        return TrainingPlan.from_body(self.submitted["plan"])

    @property
    def release_id(self) -> str:
        return str(self.status["plans"][0]["release"]["release_id"])


@pytest.fixture(scope="module")
def finished(desk: Desk) -> Finished:
    """One whole run: submitted, approved, trained, released; the coordinator ended by Ctrl-C."""
    submitted = desk.json("submit", "plan.toml")
    plan = TrainingPlan.from_body(submitted["plan"])
    with desk.service.client("officer") as officer, ExitStack() as stack:
        officer.approve_plan(submitted["plan_id"])
        (port,) = free_ports(1)
        process = stack.enter_context(desk.started("--metrics-port", str(port)))
        watcher = stack.enter_context(desk.watching("--json"))
        initial = build_model(plan, resolve_base_model(plan.base_model.name)).get_state()
        for name in plan.sites:
            script = Script(update=_Small(plan), delivers=True)
            stack.enter_context(ScriptedSite(desk.sites[name], plan, script, initial=initial))

        def released() -> bool:
            return any(view.state == "candidate" for view in officer.releases())

        until(lambda: released() or process.poll() is not None, "a release", WAIT_SECONDS)
        assert process.poll() is None, process.communicate()[1]
        status, samples = desk.json("status"), scrape(port)
        watched = watcher()
        process.send_signal(signal.SIGINT)
        _, output = process.communicate(timeout=30)
    return Finished(
        desk,
        submitted,
        status,
        desk.json("status"),
        output,
        int(process.returncode or 0),
        samples,
        watched,
    )


def test_ctrl_c_ends_cleanly(finished: Finished) -> None:
    assert finished.exit_code == 130
    assert "Traceback" not in finished.output
    assert finished.output.rstrip().endswith("stopped")
    assert not finished.desk.healthy()


def test_progress_is_told_in_plain_lines(finished: Finished) -> None:
    assert "message-routing: round 2 of 2 (probe), 2 of 2 sites" in finished.output
    assert "message-routing: completed after 2 rounds" in finished.output
    assert finished.release_id in finished.output
    assert "\x1b[" not in finished.output
    assert "flwr" not in finished.output.lower()


def test_metrics_tell_rounds_answers_epsilon_and_bytes(finished: Finished) -> None:
    samples = finished.samples
    assert_nothing_personal(samples)
    assert value(samples, "fiduciary_rounds_total", outcome="finished") == 2
    assert value(samples, "fiduciary_rounds_total", outcome="failed") == 0
    assert value(samples, "fiduciary_round_seconds_count", phase="probe") == 2
    assert value(samples, "fiduciary_runs_total", verdict="completed") == 1
    for site in ("st-elm", "lakeside"):
        assert value(samples, "fiduciary_site_online", site=site) == 1
        assert value(samples, "fiduciary_site_epsilon_spent", site=site) == 0.2
        for activity in ("train", "evaluate"):
            labels = {"activity": activity, "site": site, "outcome": "accepted"}
            assert value(samples, "fiduciary_answers_total", **labels) == 2
    # Two sites got the head's weights and sent them back, in each of two rounds.
    weights = 4 * (384 + 1) * 3
    assert (value(samples, "fiduciary_fleet_received_bytes_total") or 0) > 4 * weights
    assert (value(samples, "fiduciary_fleet_sent_bytes_total") or 0) > 4 * weights
    assert value(samples, "fiduciary_compliance_reachable") == 1
    assert value(samples, "fiduciary_run_active") == 0
    assert "metrics at http://127.0.0.1:" in finished.output


def test_watching_shows_the_run_and_what_is_left(finished: Finished) -> None:
    plans = [plan for look in finished.watched for plan in look["plans"]]
    assert plans
    last = plans[-1]
    assert last["rounds_done"] == 2
    assert last["pace"]["seconds_left"] == 0
    assert last["pace"]["seconds_a_round"] > 0
    assert {site["site"]: site["epsilon_spent"] for site in last["sites"]} == {
        "st-elm": "0.2",
        "lakeside": "0.2",
    }
    assert {site["epsilon_left"] for site in last["sites"]} == {"7.8"}
    assert all(plan["pace"]["seconds_left"] is None for plan in plans if not plan["rounds_done"])


def test_watching_in_a_pipe_is_one_line_a_look(finished: Finished) -> None:
    with finished.desk.watching() as lines:
        first, *_ = lines()
    assert "stopped; 0 of 2 sites online; message-routing round 2 of 2 done (probe)" in first


def test_the_status_is_watched_on_a_terminal(finished: Finished) -> None:
    folder = str(finished.desk.folder / "federation")
    with on_a_terminal(*command("server", "status", folder, "--watch")) as terminal:
        terminal.read_until(b"round 2 of 2 done (probe)")
        terminal.read_until(b"q ends this")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(60) == int(ExitCode.INTERRUPTED)
    for said in (b"message-routing", b"round 2 of 2 done (probe)", b"st-elm", b"7.8"):
        assert said in terminal.shown
    assert b"Traceback" not in terminal.shown


@pytest.mark.parametrize("columns", [60, 80, 160])
def test_what_is_watched_fits_a_terminal(finished: Finished, columns: int) -> None:
    shown = io.StringIO()
    Console(file=shown, width=columns).print(screen(finished.stopped_status))
    lines = shown.getvalue().splitlines()
    assert "message-routing  round 2 of 2 done (probe), completed" in lines
    assert finished.stopped_status["plans"][0]["measured"] in " ".join(shown.getvalue().split())
    assert "st-elm" in shown.getvalue()
    assert max(map(len, lines)) <= columns


def test_status_tells_what_happened_with_the_coordinator_running(finished: Finished) -> None:
    status = finished.status
    assert (status["federation"], status["running"]) == ("demo", True)
    assert status["compliance"] == "reachable"
    online = {site["name"]: (site["state"], site["online"]) for site in status["sites"]}
    assert online == {"st-elm": ("approved", True), "lakeside": ("approved", True)}
    (plan,) = status["plans"]
    assert (plan["state"], plan["stage"], plan["rounds_done"]) == ("completed", "completed", 2)
    assert plan["epsilon_by_site"] == {"lakeside": "0.2", "st-elm": "0.2"}
    assert plan["accuracy"] == "0.818182"
    figures = plan["evaluation"]["everybody"]
    low, high = figures["accuracy_interval"]
    assert low < figures["accuracy"] == 0.818182 < high
    assert (figures["examples"], figures["macro"]["f1"]) == (66, 0.818182)
    assert figures["macro_roc_auc"] is not None
    assert figures["expected_calibration_error"] is not None
    rows = plan["evaluation"]["labels"]
    assert [(row["label"], row["support"], row["recall"]) for row in rows] == [
        (label, 22, 0.818182) for label in ("billing", "clinical", "other")
    ]
    assert [0, 0, 18] in plan["evaluation"]["confusion"]
    assert status["errors"] == []


def test_status_works_with_the_coordinator_stopped_and_says_so(finished: Finished) -> None:
    status = finished.stopped_status
    assert status["running"] is False
    assert status["plans"][0]["rounds_done"] == 2
    assert {site["online"] for site in status["sites"]} == {False}
    text = finished.desk.run("status").stdout
    assert "stopped" in text
    assert "round 2 of 2" in text
    assert status["plans"][0]["measured"] in " ".join(text.split())


def test_sites_are_listed(finished: Finished) -> None:
    rows = finished.desk.json("sites")
    assert {(row["name"], row["state"]) for row in rows} == {
        ("st-elm", "approved"),
        ("lakeside", "approved"),
    }
    assert "coordinator stopped" in finished.desk.run("sites").stdout


def test_what_was_submitted_keeps_its_promise(finished: Finished) -> None:
    assert float(finished.submitted["epsilon"]) <= 8
    assert finished.submitted["submitted"] is True
    assert finished.plan.base_model.digest.startswith("sha256:")
    shown = finished.desk.run("submit", "plan.toml", "--dry-run").stdout
    assert finished.plan.base_model.digest in shown
    assert "nothing was handed in" in shown
    again = finished.desk.json("submit", "plan.toml")  # the plan that there is, not a second one
    assert again["plan_id"] == finished.submitted["plan_id"]
    assert (again["submitted"], again["state"]) == (False, "completed")
    finished.desk.folder.joinpath("other.toml").write_text(
        PLAN.replace("epsilon = 8", "epsilon = 4")
    )
    said = finished.desk.run("submit", "other.toml", "--dry-run", expect=ExitCode.CONFLICT).stderr
    assert f"another plan has the name message-routing: {again['plan_id']}, completed" in said
    with finished.desk.service.client("officer") as officer:
        assert len(officer.plans()) == 1


# --- the release ---------------------------------------------------------------------------------


@dataclass
class Consumer:
    finished: Finished
    folder: Path
    token: Path
    key: Path

    def arguments(self, output: str, **changes: str) -> list[str]:
        options = {
            "--out": output,
            "--trust": str(self.finished.desk.service.trust_file),
            "--token-file": str(self.token),
            "--key": str(self.key),
            "--coordinator-key": str(self.finished.status["coordinator_key"]),
        }
        options |= {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
        named = [part for option in options.items() for part in option if option[1]]
        return ["release", "fetch", self.finished.release_id, *named]


def test_keygen_leaves_both_halves_or_neither(desk: Desk) -> None:
    made = desk.json("release", "keygen", "pair.key")
    public = desk.folder / "pair.pub"
    assert made["public_key_file"] == "pair.pub"
    assert public.read_text() == f"{made['public_key']}\n"
    assert load_private_key(desk.folder / "pair.key").public_key().public_bytes_raw() == (
        base64.b64decode(made["public_key"])
    )
    (desk.folder / "other.pub").touch()
    desk.run("release", "keygen", "other.key", expect=int(ExitCode.CONFLICT))
    assert not (desk.folder / "other.key").exists()
    desk.run("release", "keygen", "mine.pub", expect=int(ExitCode.USAGE))
    assert not (desk.folder / "mine.pub").exists()


@pytest.fixture(scope="module")
def consumer(finished: Finished) -> Consumer:
    desk = finished.desk
    public = desk.json("release", "keygen", "consumer.key")["public_key"]
    with desk.service.client("officer") as officer:
        token = officer.add_principal("desk", ["consumer"]).token
        officer.approve_release(finished.release_id)
        officer.grant(
            finished.release_id,
            "desk",
            public_key=base64.b64decode(public),
            purpose="message-routing",
            expires_at=format_time(datetime.now(UTC) + timedelta(days=1)),
        )
    (desk.folder / "consumer.token").write_text(f"{token}\n")
    return Consumer(finished, desk.folder, desk.folder / "consumer.token", Path("consumer.key"))


@pytest.fixture(scope="module")
def model(consumer: Consumer) -> Path:
    done = consumer.finished.desk.run(*consumer.arguments("model"))
    assert "PeftModel.from_pretrained" in done.stdout
    return consumer.folder / "model"


def test_a_release_is_listed(finished: Finished, consumer: Consumer) -> None:
    (row,) = finished.desk.json("release", "list")
    assert (row["release_id"], row["name"]) == (finished.release_id, "message-routing")
    assert finished.release_id in finished.desk.run("release", "list").stdout


def test_a_fetched_release_says_what_it_is(finished: Finished, model: Path) -> None:
    assert sorted(path.name for path in model.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "dp_statement.json",
        "evaluation.json",
        "labels.json",
        "mlbom.cdx.json",
        "model.sig",
        "provenance.intoto.jsonl",
        "provenance.json",
    ]
    assert json.loads((model / "labels.json").read_text()) == ["billing", "clinical", "other"]
    evaluation = json.loads((model / "evaluation.json").read_text())
    assert evaluation["everybody"] == finished.status["plans"][0]["evaluation"]["everybody"]
    assert [row["label"] for row in evaluation["labels"]] == ["billing", "clinical", "other"]
    assert finished.status["plans"][0]["measured"] in (model / "README.md").read_text()
    promise = json.loads((model / "dp_statement.json").read_text())
    assert promise["epsilon_by_site"] == {"lakeside": "0.2", "st-elm": "0.2"}
    assert (promise["unit"], promise["delta"]) == ("subject", "0.00001")
    assert promise["accountant_software"].startswith("dp-accounting 0.")
    assert any("Held-out evaluation" in text for text in promise["does_not_cover"])
    provenance = json.loads((model / "provenance.json").read_text())
    assert provenance["_type"] == "https://in-toto.io/Statement/v1"
    assert len(provenance["predicate"]["rounds"]) == 2
    assert provenance["predicate"]["plan_id"] == finished.submitted["plan_id"]
    digests = {item["name"]: item["digest"]["sha256"] for item in provenance["subject"]}
    assert digests == {
        name: digest.removeprefix("sha256:")
        for name, digest in _manifest(finished).files.items()
        if name not in ("provenance.json", "provenance.intoto.jsonl", "model.sig")
    }
    card = (model / "README.md").read_text()
    front = ModelCard(card).data.to_dict()  # type: ignore[no-untyped-call]
    assert (front["library_name"], front["pipeline_tag"]) == ("peft", "text-classification")
    assert "ε = 8" in card


def _manifest(finished: Finished) -> ReleaseManifest:
    with finished.desk.service.client("officer") as officer:
        return officer.release(finished.release_id).manifest


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_a_fetched_release_loads_with_plain_peft_and_gives_the_same_answers(
    finished: Finished, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = Fetched(finished.release_id, model, _manifest(finished)).load_example()
    assert "fiduciary" not in code.lower().replace(str(model).lower(), "")
    scope: dict[str, Any] = {}
    exec(code, scope)  # noqa: S102 - it is the code that the card tells people to run
    assert capsys.readouterr().out.strip() in {"['billing']", "['clinical']", "['other']"}
    federation = Federation.open(finished.desk.folder / "federation")
    ((folder, state),) = all_runs(federation.runs)
    iterate = folder.model(state)
    assert iterate is not None
    ours = TextClassifier.build(finished.plan, resolve_base_model(finished.plan.base_model.name))
    ours.set_state(iterate.average)
    np.testing.assert_allclose(
        scope["logits"].numpy(), logits_of(ours, scope["texts"]).numpy(), atol=1e-5
    )


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"coordinator_key": ""}, ExitCode.OK),  # the federation in ./federation
        ({"coordinator_key": "another"}, ExitCode.VERIFICATION_FAILED),
        ({"coordinator_key": "no key"}, ExitCode.MALFORMED_INPUT),
        ({"key": "another.key"}, ExitCode.VERIFICATION_FAILED),
        ({"key": "no.key"}, ExitCode.NOT_FOUND),
        ({"token_file": "officer"}, ExitCode.REFUSED),
        ({"out": "."}, ExitCode.CONFLICT),
    ],
)
def test_a_release_is_believed_only_after_every_check(
    finished: Finished, consumer: Consumer, changes: dict[str, str], code: ExitCode, tmp_path: Path
) -> None:
    desk = finished.desk
    if not (desk.folder / "another.key").exists():
        desk.run("release", "keygen", "another.key")
    if changes.get("coordinator_key") == "another":
        changes = {"coordinator_key": desk.service.client("officer").trust.log_key.encoded()}
    if changes.get("token_file") == "officer":
        changes = {"token_file": str(desk.service.folder / "tokens/officer.token")}
    output = str(tmp_path / "model")
    done = desk.run(*consumer.arguments(output, **changes), expect=int(code))
    assert (tmp_path / "model").exists() == (code is ExitCode.OK)
    assert [path.name for path in tmp_path.iterdir()] in ([], ["model"])
    if code is not ExitCode.OK:
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.splitlines()) <= 2


def test_a_tampered_ciphertext_is_refused(
    finished: Finished, consumer: Consumer, tmp_path: Path
) -> None:
    """Somebody with the service's disk changes one byte of what it serves."""
    digits = finished.release_id.removeprefix("sha256:")
    stored = [
        path
        for path in (finished.desk.service.folder / "releases").rglob("*")
        if path.is_file() and digits[:8] in str(path)
    ]
    (content,) = stored or list((finished.desk.service.folder / "releases").iterdir())
    data = content.read_bytes()
    content.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    try:
        done = finished.desk.run(
            *consumer.arguments(str(tmp_path / "model")),
            expect=int(ExitCode.VERIFICATION_FAILED),
        )
    finally:
        content.write_bytes(data)
    assert "digest" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_release_is_fetched_by_its_alias_until_it_is_recalled(
    finished: Finished, consumer: Consumer, tmp_path: Path
) -> None:
    """The last of the tests that fetch: afterwards nobody can."""
    desk = finished.desk
    with desk.service.client("officer") as officer:
        token = officer.add_principal("second", ["officer"]).token
        with ComplianceClient(officer.trust, token) as second:
            second.aliases.set("production", finished.release_id)
        fetch = consumer.arguments(
            str(tmp_path / "model"), save_signing_key=str(tmp_path / "signing.pem")
        )
        fetch[2] = "@production"
        desk.run(*fetch)
        model = tmp_path / "model"
        config = model_signing.verifying.Config()  # type: ignore[no-untyped-call]
        config.use_elliptic_key_verifier(public_key=tmp_path / "signing.pem")
        config.verify(model, model / "model.sig")
        officer.recalls.recall(finished.release_id, reason="wrong labels at one site")
    fetch[4] = str(tmp_path / "again")
    done = desk.run(*fetch, expect=int(ExitCode.CONFLICT))
    assert "was recalled at" in done.stderr
    assert "wrong labels at one site" in done.stderr
    assert not (tmp_path / "again").exists()


# --- faults --------------------------------------------------------------------------------------


def test_a_port_in_use_is_one_clear_error(desk: Desk, finished: Finished) -> None:
    settings = Federation.open(desk.folder / "federation").settings
    for port, name in ((settings.fleet_port, "fleet"), (settings.control_port, "control")):
        with socket.create_server(("127.0.0.1", port)):
            done = desk.run("start", expect=int(ExitCode.CONFLICT))
        assert f"the {name} port 127.0.0.1:{port} is taken" in done.stderr
        assert f"{name}_port" in done.stderr


def test_an_open_key_stops_the_start(desk: Desk, finished: Finished) -> None:
    key = desk.folder / "federation/ca/key.pem"
    key.chmod(0o644)
    try:
        done = desk.run("start", expect=int(ExitCode.MALFORMED_INPUT))
    finally:
        key.chmod(0o600)
    assert "chmod 600" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["submit", "none.toml"], ExitCode.NOT_FOUND, "cannot read"),
        (["admit", "nobody"], ExitCode.NOT_FOUND, "nobody"),
        (["invite", "St Elm"], ExitCode.MALFORMED_INPUT, "'St Elm': a name is 1 to 64"),
        (["status", "nowhere"], ExitCode.NOT_FOUND, "server init"),
        (["frobnicate"], ExitCode.USAGE, "No such command"),
        (["init", "x"], ExitCode.USAGE, "Missing option"),
    ],
)
def test_a_mistake_has_its_own_exit_code(
    desk: Desk, arguments: list[str], code: ExitCode, said: str
) -> None:
    assert said in desk.run(*arguments, expect=int(code)).stderr


def test_a_stop_in_the_middle_of_a_round_leaves_it_for_later(
    desk: Desk, finished: Finished
) -> None:
    (desk.folder / "second.toml").write_text(PLAN.replace("message-routing", "second"))
    submitted = desk.json("submit", "second.toml")
    plan = TrainingPlan.from_body(submitted["plan"])
    with desk.service.client("officer") as officer, ExitStack() as stack:
        officer.approve_plan(submitted["plan_id"])
        process = stack.enter_context(desk.started("--log-format", "json"))
        silent = [
            stack.enter_context(ScriptedSite(desk.sites[name], plan, Script(silent=("train",))))
            for name in plan.sites
        ]
        until(lambda: all(site.seen for site in silent), "both sites to be asked", WAIT_SECONDS)
        live = desk.json("status")
        process.terminate()
        _, output = process.communicate(timeout=30)
        assert officer.plan(submitted["plan_id"]).state == "approved"
    assert process.returncode == 0
    assert "Traceback" not in output
    events = [json.loads(line) for line in output.splitlines()]
    assert {event["process"] for event in events} == {"server"}
    assert [event["event"] for event in events if "site" not in event] == [
        "coordinator-started",
        "run-started",
        "coordinator-stopped",
    ]
    assert {event["plan"] for event in events if "plan" in event} == {submitted["plan_id"]}
    (running,) = [item for item in live["plans"] if item["name"] == "second"]
    assert running["activity"] == "training"
    stopped = [item for item in desk.json("status")["plans"] if item["name"] == "second"]
    assert (stopped[0]["stage"], stopped[0]["rounds_done"]) == ("running", 0)


def test_status_works_with_the_compliance_service_away(desk: Desk, finished: Finished) -> None:
    desk.service.stop()
    try:
        status = desk.json("status")
        text = desk.run("status").stdout
    finally:
        desk.service.start()
    assert status["compliance"] == "unreachable"
    assert {plan["rounds_done"] for plan in status["plans"]} == {0, 2}
    assert status["errors"]
    assert "unreachable" in text


def test_a_revoked_site_is_let_out(desk: Desk, finished: Finished) -> None:
    desk.run("revoke", "lakeside", "--reason", "left the federation")
    with desk.service.client("officer") as officer:
        assert officer.site("lakeside").state == "revoked"
    desk.run("admit", "lakeside", expect=int(ExitCode.REFUSED))


HELP = pytest.mark.parametrize(
    "arguments",
    [
        [],
        *([name] for name in ("init", "invite", "sites", "admit", "revoke", "start", "submit")),
        ["status"],
        ["release"],
        ["release", "fetch"],
        ["release", "keygen"],
        ["release", "list"],
    ],
)


def test_the_installed_command_starts_from_any_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        command("server", "--help"),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "server start" in done.stdout
    assert done.stderr == ""


@HELP
def test_every_help_page_reads_like_a_manual(desk: Desk, arguments: list[str]) -> None:
    text = desk.run(*arguments, "--help").stdout
    assert "Usage: " in text
    assert "--help" in text
    assert "[bold]" not in text
