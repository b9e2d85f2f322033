"""docs/deployment.md, typed line by line: every service of the compose files as plain processes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pytest

from tests.compliance.running import wait_for
from tests.deployment.compose import FEDERATION, SITE
from tests.deployment.engine import Engine, Stopped
from tests.deployment.terminal import PAGE, Terminal, typed
from tests.postgresql import MISSING, find_programs
from tests.scraping import scrape, value
from tests.test_documentation import COMMANDS, command_tree

pytestmark = [
    pytest.mark.timeout(2400),  # the whole story is one fixture; a busy machine is slow
    pytest.mark.skipif(find_programs() is None, reason=MISSING),
    pytest.mark.skipif(
        "FIDUCIARY_LONG" not in os.environ,
        reason="keeps two cores busy for minutes; run it with: make long",
    ),
]

RUN_SECONDS = 400
LONG_RUNNING = ("compliance", "coordinator", "north", "south")
ELSEWHERE = "fiduciary-site/site"


@dataclass
class Told:
    """What happened."""

    terminal: Terminal
    printed: dict[str, str] = field(default_factory=dict)
    online: dict[str, bool] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    verified: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    kept_by_second_up: dict[str, str] = field(default_factory=dict)
    open_secrets: list[str] = field(default_factory=list)
    metrics: dict[str, float | None] = field(default_factory=dict)
    stopped: dict[str, Stopped] = field(default_factory=dict)
    migrated: str = ""

    @property
    def engine(self) -> Engine:
        return self.terminal.engine()

    def type(self, line: str) -> str:
        self.printed[line] = self.terminal.type(line)
        return self.printed[line]

    def status(self) -> dict[str, Any]:
        found = self.terminal.type("docker compose exec coordinator server status --json")
        return dict(json.loads(found))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """The page's story, from nothing to the end of every process."""
    folder = tmp_path_factory.mktemp("deployment")
    (folder / "logs").mkdir()
    settings = {
        "FIDUCIARY_SECRETS": str(folder / "secrets"),
        "FIDUCIARY_COMPLIANCE_HOST": "127.0.0.1",
        "FIDUCIARY_COORDINATOR_HOST": "127.0.0.1",
        "FIDUCIARY_DEMO_SUBJECTS": "50",
    }
    terminal = Terminal(folder, settings)
    told = Told(terminal)
    try:
        _from_nothing_to_a_run(told)
        for line in typed("Health"):
            told.type(line)
        _a_site_elsewhere(told)
        _again(told)
        _secrets_in_processes(told)
        _metrics(told)
        terminal.type("docker compose -f deploy/site/docker-compose.yml stop")
        _stopped_and_upgraded(told)
        yield told
    finally:
        terminal.close()


def _from_nothing_to_a_run(told: Told) -> None:
    for line in typed("From nothing to a run"):
        if "audit verify" in line:
            told.terminal.words["LOG_KEY"] = _trust(told)["log_key"]
            told.verified = json.loads(told.type(f"{line} --json"))
            continue
        printed = told.type(line)
        submitted = re.search(r"submitted as (sha256:[0-9a-f]{64})", printed)
        if submitted is not None:
            told.terminal.words["PLAN_ID"] = submitted[1]
        if "compliance approve" in line:
            wait_for(lambda: _run_ended(told.engine), RUN_SECONDS)


def _run_ended(engine: Engine) -> bool:
    events = engine.log("coordinator").read_text("utf-8")
    return '"release-published"' in events or '"failed"' in events


def _trust(told: Told) -> dict[str, Any]:
    return dict(
        json.loads((told.engine.volume("compliance") / "compliance/trust.json").read_text())
    )


def _a_site_elsewhere(told: Told) -> None:
    """The page's section, without the intake of a file of records, which north and south had."""
    for line in typed("Sites on other machines"):
        if "/srv/notes" in line or "client check" in line:
            continue
        line = line.replace("/srv/fiduciary", str(told.terminal.folder))
        printed = told.type(line.replace("3fa2 77b0 …", told.terminal.words.get("SPOKEN", "")))
        if "server invite east" in line:
            found = re.search(r"fingerprint ([0-9a-f ]+)", printed)
            assert found is not None
            told.terminal.words["SPOKEN"] = found[1].strip()
    status = told.status()
    (told.plan,) = status["plans"]
    told.online = {site["name"]: site["online"] for site in status["sites"]}


def _again(told: Told) -> None:
    """`up` once more, and what must not have changed."""
    told.kept = _identities(told)
    told.type("docker compose up -d north-admit")  # for which it needs every step before
    told.kept_by_second_up = _identities(told)


def _identities(told: Told) -> dict[str, str]:
    places = {
        "compliance": ("compliance/trust.json", "compliance/tokens/officer.token"),
        "handover": ("trust.json", "coordinator.token"),
        "coordinator": ("federation/identity.pem", "federation/sites/north.json"),
        "north-kit": ("site.kit",),
        "north": ("site/keys/identity.pem", "site/keys/certificate.pem", "site/policy.toml"),
    }
    return {
        f"{volume}/{file}": hashlib.sha256(
            (told.engine.volume(volume) / file).read_bytes()
        ).hexdigest()
        for volume, files in places.items()
        for file in files
    }


def _secrets_in_processes(told: Told) -> None:
    """Where the secrets are that must be in files alone (Linux tells of its own processes)."""
    engine = told.engine
    secrets = [(told.terminal.folder / "secrets/database_password").read_text().strip()]
    tokens = engine.volume("compliance") / "compliance/tokens"
    secrets += [path.read_text().strip() for path in tokens.iterdir()]
    assert len(secrets) == 4
    for name, pid in engine.running().items():
        for kind in ("environ", "cmdline"):
            text = Path(f"/proc/{pid}/{kind}").read_text("utf-8", "replace")
            told.open_secrets += [f"{name} {kind}" for secret in secrets if secret in text]
    places = [
        *(told.terminal.folder / "logs").iterdir(),
        engine.volume("compliance") / "compliance/compliance.toml",
    ]
    for place in places:
        text = place.read_text("utf-8", "replace")
        told.open_secrets += [place.name for secret in secrets if secret in text]


def _metrics(told: Told) -> None:
    for name, number in (("coordinator", "9464"), ("north", "9465"), ("compliance", "9466")):
        samples = scrape(told.engine.port(name, number))
        told.metrics[name] = value(samples, "process_start_time_seconds")
        if name == "coordinator":
            told.metrics["north online"] = value(samples, "fiduciary_site_online", site="north")


def _stopped_and_upgraded(told: Told) -> None:
    """The page's section up to the last line, which would start everything once more."""
    build, stop, dry_run, migrate, _ = typed("Upgrading")
    assert build == "docker compose build"
    told.type(stop)
    told.stopped = dict(told.terminal.stopped)
    told.type(dry_run)
    told.migrated = told.type(migrate)
    told.type(stop)


# --- what must hold --------------------------------------------------------------------------


def test_both_sites_and_the_one_elsewhere_are_online(told: Told) -> None:
    assert told.online == {"north": True, "south": True, "east": True}


def test_the_plan_ran_to_its_end(told: Told) -> None:
    assert told.plan["stage"] == "completed", told.plan["reason"]
    assert told.plan["rounds_done"] == told.plan["rounds"] == 3
    assert set(told.plan["epsilon_by_site"]) == {"north", "south"}
    assert float(told.plan["epsilon_by_site"]["north"]) <= 8


def test_the_log_in_postgresql_verifies(told: Told) -> None:
    assert told.verified["verified"] is True
    assert told.verified["entries"] > 20
    assert told.verified["problems"] == []


def test_a_health_check_fails_before_its_service_runs(told: Told) -> None:
    for name in LONG_RUNNING:
        done = told.engine.unwell[name]
        assert done.returncode == 7, (name, done)
        assert "fix:" in done.stderr
        assert "Traceback" not in done.stderr


def test_starting_again_changes_nothing(told: Told) -> None:
    assert told.kept == told.kept_by_second_up


def test_the_coordinator_was_handed_two_files(told: Told) -> None:
    handed = {
        path.name: path.stat().st_mode & 0o777 for path in told.engine.volume("handover").iterdir()
    }
    assert handed == {"trust.json": 0o400, "coordinator.token": 0o400}


def test_no_secret_is_in_an_environment_a_command_line_or_a_log(told: Told) -> None:
    assert told.open_secrets == []


def test_metrics_are_served_inside_each_container(told: Told) -> None:
    assert all(told.metrics.values()), told.metrics
    assert told.metrics["north online"] == 1


def test_the_database_is_of_this_version_already(told: Told) -> None:
    assert "nothing to do" in told.migrated


def test_every_line_that_a_process_logged_is_one_json_object(told: Told) -> None:
    kinds = {"compliance": "compliance", "coordinator": "server", "north": "client"}
    for name, kind in kinds.items():
        lines = told.engine.log(name).read_text("utf-8").splitlines()
        events = [json.loads(line) for line in lines]
        assert {event["process"] for event in events} == {kind}
        assert len(events) > 2


def test_everything_ended_in_time_with_its_documented_exit_code(told: Told) -> None:
    names = {name.partition("/")[2] for name in told.stopped}
    assert names == {"postgresql", *LONG_RUNNING, "site"}
    assert {name: stopped.exit_code for name, stopped in told.stopped.items()} == dict.fromkeys(
        told.stopped, 0
    )
    # Well before an engine would have killed it: `Engine.stop` fails where it had to.
    assert ELSEWHERE in told.stopped


def test_taking_records_in_asks_nobody_on_the_internet(told: Told) -> None:
    for site in ("north", "south"):
        said = told.engine.log(f"{site}-demo").read_text("utf-8")
        assert "stored messages" in said
        assert "://" not in said
        assert "Traceback" not in said


def test_nothing_wrote_outside_its_volumes(told: Told) -> None:
    """A refused write ends as this error (`read_only_root`)."""
    for log in (told.terminal.folder / "logs").iterdir():
        assert "Read-only file system" not in log.read_text("utf-8", "replace"), log.name


# --- the page --------------------------------------------------------------------------------


def composed() -> list[str]:
    """Every line of the page that runs a command in a service."""
    lines = re.findall(r"(?m)^\$ (docker compose .*)$", PAGE.read_text("utf-8"))
    return [line for line in lines if " exec " in line or " run " in line]


@pytest.mark.parametrize("line", composed())
def test_a_command_in_a_service_is_one_that_its_image_has(line: str) -> None:
    words = shlex.split(line)
    words = words[: min(words.index(word) if word in words else len(words) for word in "<>")]
    file = SITE if "deploy/site/docker-compose.yml" in words else FEDERATION
    words = words[words.index("exec" if "exec" in words else "run") + 1 :]
    while words[0].startswith("-"):
        words = words[2:] if words[0] == "-v" else words[1:]  # an option and its value
    name, program, *arguments = words
    engine_names = {FEDERATION: {*LONG_RUNNING, "postgresql"}, SITE: {"site"}}
    assert name in engine_names[file]
    images = {
        "compliance": {"compliance", "audit"},
        "coordinator": {"server", "audit"},
        "north": {"client"},
        "south": {"client"},
        "site": {"client"},
        "postgresql": {"psql"},
    }
    plain = {"cat", "rm", "sh", "tar"}
    assert program in images[name] | plain
    if program in COMMANDS:
        command = command_tree(program)
        while isinstance(command, click.Group):
            command = command.commands[arguments.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in arguments if word.startswith("--")} <= known
