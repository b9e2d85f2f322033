"""The `server` command as people run it, from init to a loaded model (`start` as a process)."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import numpy as np
import pytest

from audit.errors import ExitCode
from client.arrays import Arrays
from client.learning.base_model import resolve_base_model
from client.learning.tasks.text_classification import TextClassifier
from compliance.statements import ReleaseManifest, TrainingPlan, format_time
from server.cli import main
from server.federation import Federation
from server.fetch import Fetched
from server.runs import all_runs
from tests.client.learning.conftest import logits_of
from tests.server.conftest import Service, command, free_ports, until
from tests.server.scripted import Script, ScriptedSite, SiteFiles, enrol

REPOSITORY = Path(__file__).parents[2]
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


@dataclass(frozen=True)
class Done:
    """What a command printed."""

    stdout: str
    stderr: str


@dataclass
class Desk:
    """A coordinator's desk: commands run in one folder, against one compliance service."""

    folder: Path
    service: Service
    environment: dict[str, str]
    sites: dict[str, SiteFiles] = field(default_factory=dict)

    def run(self, *arguments: str, expect: int = 0) -> Done:
        """Run a command in this process: what it prints, and its exit code."""
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, self.environment, clear=True),
            mock.patch.object(sys, "argv", ["server", *arguments]),
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            main()
        done = Done(out.getvalue(), err.getvalue())
        assert ended.value.code == expect, done
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout)

    @contextmanager
    def started(self) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            command("server", "start"),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            until(lambda: self.healthy() or process.poll() is not None, "server start", 60)
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.communicate(timeout=30)

    def healthy(self) -> bool:
        federation = Federation.open(self.folder / "federation")
        url = f"https://{federation.fleet_address}/health"
        try:
            ca = federation.root / "ca/certificate.pem"
            return httpx.get(url, verify=_trusting(ca), trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False


def _trusting(ca: Path) -> Any:
    return ssl.create_default_context(cafile=str(ca))


@pytest.fixture(scope="module")
def desk(shared_service: Service, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    folder = tmp_path_factory.mktemp("desk")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("FIDUCIARY")
    }
    environment |= {"PYTHONPATH": str(REPOSITORY), "NO_COLOR": "1", "COLUMNS": "200"}
    made = Desk(folder, shared_service, environment)
    fleet, control = (str(port) for port in free_ports(2))
    made.run(
        "init",
        *("--compliance", str(shared_service.trust_file)),
        *("--token-file", str(shared_service.folder / "tokens/coordinator.token")),
        *("--name", "demo", "--fleet-port", fleet, "--control-port", control),
    )
    (folder / "plan.toml").write_text(PLAN)
    for name in ("st-elm", "lakeside"):
        made.run("invite", name)
        made.sites[name] = enrol(folder / f"{name}.kit", folder / "sites" / name)
        made.run("admit", name)
        made.sites[name].fetch_certificate()
    return made


def _small(state: Arrays) -> Arrays:
    generator = np.random.default_rng(7)
    return {
        name: generator.normal(scale=0.02, size=array.shape).astype(np.float32)
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
        process = stack.enter_context(desk.started())
        for name in plan.sites:
            stack.enter_context(ScriptedSite(desk.sites[name], plan, Script(update=_small)))

        def released() -> bool:
            return any(view.state == "candidate" for view in officer.releases())

        until(lambda: released() or process.poll() is not None, "a release", WAIT_SECONDS)
        assert process.poll() is None, process.communicate()[1]
        status = desk.json("status")
        process.send_signal(signal.SIGINT)
        _, output = process.communicate(timeout=30)
    return Finished(
        desk, submitted, status, desk.json("status"), output, int(process.returncode or 0)
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
            purpose="triage",
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
        if name != "provenance.json"
    }
    card = (model / "README.md").read_text()
    assert card.startswith("---\nlibrary_name:")
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
        (["submit", "none.toml"], ExitCode.MALFORMED_INPUT, "cannot read"),
        (["admit", "nobody"], ExitCode.NOT_FOUND, "nobody"),
        (["invite", "St Elm"], ExitCode.MALFORMED_INPUT, "malformed site name"),
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
        process = stack.enter_context(desk.started())
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
