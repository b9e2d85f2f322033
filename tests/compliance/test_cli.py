"""The `compliance` command against a real service: what it prints, and its exit codes."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit.errors import ExitCode
from compliance import cli
from tests.compliance.federation import Coordinator, Site
from tests.compliance.running import RunningService

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process: exit code, standard output, standard error."""
    for name in ("TRUST", "TOKEN_FILE", "COMPLIANCE"):
        monkeypatch.delenv(f"FIDUCIARY_{name}", raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["compliance", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return int(str(ended.value.code or 0)), captured.out, captured.err

    return run


@pytest.fixture
def officer(run: Run, service: RunningService, tmp_path: Path) -> Run:
    """The same as the officer of the running service; another token file may follow."""
    service.trust.save(tmp_path / "trust.json")

    def as_officer(*arguments: str, name: str = "officer") -> tuple[int, str, str]:
        return run(
            *arguments,
            "--trust",
            str(tmp_path / "trust.json"),
            "--token-file",
            str(service.folder.token(name)),
        )

    return as_officer


def test_an_officers_day(
    officer: Run, service: RunningService, coordinator: Coordinator, north: Site, tmp_path: Path
) -> None:
    plan_id = coordinator.api.submit_plan(coordinator.plan()).plan_id
    digits = plan_id.removeprefix("sha256:")[:12]

    code, out, _ = officer("plans", "--state", "submitted")
    assert code == 0
    assert digits in out
    assert "triage" in out
    code, out, _ = officer("plans", digits)
    for fact in (plan_id, "hospitals", "public-task", "embedded:all-MiniLM-L6-v2", "dr-lead"):
        assert fact in out

    code, _, err = officer("approve", "plan", digits, name="coordinator")
    assert code == ExitCode.UNAUTHORISED
    assert "needs the role officer" in err
    code, out, _ = officer("approve", "plan", digits, "--reason", "DPIA 12")
    assert code == 0
    assert "approved" in out
    code, _, err = officer("reject", "plan", "triage")
    assert code == ExitCode.CONFLICT
    assert "approved already" in err

    coordinator.run(plan_id, north)
    release = coordinator.release(plan_id)
    coordinator.api.submit_release(release.manifest, sealed_key=release.sealed_key)
    coordinator.api.upload_release(release.release_id, release.file(tmp_path))
    code, out, _ = officer("releases")
    assert "candidate" in out
    code, out, _ = officer("approve", "release", "triage-1")
    assert code == 0
    assert "compliance grant" in out

    code, out, _ = officer("principals", "add", "desk", "--role", "consumer", "--json")
    token = json.loads(out)["token"]
    key_file = tmp_path / "key.pub"
    key_file.write_text(base64.b64encode(b"\x09" + bytes(31)).decode() + "\n")
    grant = ("grant", "triage-1", "--to", "desk", "--public-key", str(key_file))
    code, _, err = officer(*grant, "--purpose", "research")
    assert code == ExitCode.REFUSED
    assert "the release was trained for triage, not for research" in err
    code, out, err = officer(*grant, "--purpose", "triage", "--days", "3")
    assert code == 0, err
    assert service.client(token).release_key(release.release_id).principal == "desk"
    code, out, _ = officer("releases", release.release_id)
    assert "desk" in out
    assert "live until" in out
    code, out, _ = officer("revoke", "grant", "triage-1", "--from", "desk")
    assert code == 0
    code, out, _ = officer("releases", "triage-1", "--json")
    assert json.loads(out)["grants"][0]["revoked_at"]

    code, out, _ = officer("sites")
    assert north.identity.public.encoded() in out
    code, out, _ = officer("revoke", "site", "north", "--reason", "key lost")
    assert code == 0
    code, out, _ = officer("principals", "revoke", "desk")
    assert code == 0
    code, out, _ = officer("principals", "list")
    assert re.search(r"desk\s+consumer\s+revoked", out)
    code, out, _ = officer("log", "--action", "plan.approved")
    assert digits not in out  # it is about the decision
    assert "plan.approved" in out
    code, out, _ = officer("log", "--checkpoint")
    assert out == service.as_("officer").checkpoint()
    code, out, _ = officer("log", "--limit", "5", "--after", "2", "--order", "oldest", "--json")
    shown = json.loads(out)
    assert [entry["position"] for entry in shown["entries"]] == [3, 4, 5, 6, 7]
    assert (shown["verified"], shown["more"]) == (True, True)


@pytest.mark.parametrize(
    "command",
    [
        ("plans",),
        ("releases",),
        ("sites",),
        ("requests",),
        ("principals", "list"),
        ("log",),
        ("log", "--checkpoint"),
    ],
)
def test_every_reading_command_has_json(officer: Run, command: tuple[str, ...]) -> None:
    code, out, _ = officer(*command, "--json")
    assert code == 0
    assert isinstance(json.loads(out), list | dict)
    code, out, _ = officer(*command)
    assert code == 0
    assert out


def test_json_of_a_plan_says_what_was_signed(
    officer: Run, coordinator: Coordinator, north: Site
) -> None:
    plan_id = coordinator.approved_plan()
    _, out, _ = officer("plans", plan_id, "--json")
    shown: dict[str, Any] = json.loads(out)
    assert shown["statement_body"]["name"] == "triage"
    assert shown["approval_body"]["verdict"] == "approved"
    assert shown["outcome"] is None


def test_what_an_id_may_be(officer: Run, coordinator: Coordinator, north: Site) -> None:
    first = coordinator.api.submit_plan(coordinator.plan(quorum=1)).plan_id
    assert officer("reject", "plan", first, "--reason", "two labels only")[0] == 0
    coordinator.api.submit_plan(coordinator.plan(labels=["a", "b"]))
    code, _, err = officer("plans", "triage")
    assert code == ExitCode.MALFORMED_INPUT
    assert "2 plans are called triage" in err
    assert officer("plans", first.removeprefix("sha256:")[:20])[0] == 0
    for text in ("none", "sha256:" + "f" * 64, "abcdef"):
        code, _, err = officer("plans", text)
        assert code == ExitCode.NOT_FOUND
        assert "compliance plans" in err


def test_wrong_input_is_said_before_anything_is_sent(officer: Run) -> None:
    code, _, err = officer("principals", "add", "x", "--role", "king")
    assert code == ExitCode.MALFORMED_INPUT
    assert "no such role: king" in err
    code, _, err = officer("principals", "add", "Not A Name", "--role", "auditor")
    assert code == ExitCode.MALFORMED_INPUT
    code, _, err = officer("grant", "x", "--to", "y", "--public-key", "?", "--purpose", "z")
    assert code == ExitCode.MALFORMED_INPUT
    assert "keygen" in err
    code, _, err = officer("plans", "--state", "pending")
    assert code == ExitCode.MALFORMED_INPUT


def test_a_file_that_names_nobody_is_no_request(run: Run, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text(" \n\n")
    code, _, err = run(
        "requests", "new", "--right", "erasure", "--law", "gdpr", "--site", "north",
        "--identifiers", str(tmp_path / "ids.txt"),
    )  # fmt: skip
    assert code == ExitCode.MALFORMED_INPUT
    assert "names nobody" in err
    assert "one on each line" in err


def test_files_that_are_missing_or_wrong(run: Run, service: RunningService, tmp_path: Path) -> None:
    trust, token = tmp_path / "trust.json", tmp_path / "token"
    code, _, err = run("plans", "--trust", str(trust), "--token-file", str(token))
    assert (code, "no trust file" in err) == (ExitCode.NOT_FOUND, True)
    service.trust.save(trust)
    code, _, err = run("plans", "--trust", str(trust), "--token-file", str(token))
    assert (code, "no token file" in err) == (ExitCode.NOT_FOUND, True)
    token.write_text("two words")
    code, _, err = run("plans", "--trust", str(trust), "--token-file", str(token))
    assert (code, "holds no token" in err) == (ExitCode.MALFORMED_INPUT, True)
    token.write_text("0123456789abcdef0123456789abcdef")
    code, _, err = run("plans", "--trust", str(trust), "--token-file", str(token))
    assert code == ExitCode.UNAUTHORISED
    assert "0123456789abcdef" not in err


def test_the_environment_names_files_and_folder(
    run: Run, service: RunningService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.trust.save(service.folder.trust)
    monkeypatch.setenv("FIDUCIARY_COMPLIANCE", str(service.folder.path))
    assert run("plans")[0] == 0
    monkeypatch.setenv("FIDUCIARY_TOKEN_FILE", str(service.folder.token("auditor")))
    assert run("log")[0] == 0
    monkeypatch.setenv("FIDUCIARY_TRUST", str(tmp_path / "nowhere.json"))
    assert run("plans")[0] == ExitCode.NOT_FOUND


def test_init_says_what_to_do_next_and_is_done_once(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "compliance"
    code, out, _ = run("init", str(folder), "--port", "0")
    assert code == 0
    assert f"compliance start {folder}" in out
    assert "coordinator.token" in out
    code, _, err = run("init", str(folder))
    assert code == ExitCode.CONFLICT
    code, out, _ = run("init", str(tmp_path / "second"), "--port", "0", "--json")
    assert json.loads(out)["url"].startswith("https://127.0.0.1:")
    code, _, err = run("start", str(tmp_path / "third"))
    assert code == ExitCode.NOT_FOUND
    assert "compliance init" in err


def _commands(group: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [path]
    for name, command in getattr(group, "commands", {}).items():
        found += _commands(command, (*path, name))
    return found


def test_every_command_explains_itself(run: Run) -> None:
    import typer.main

    commands = _commands(typer.main.get_command(cli.app))
    assert ("approve", "release") in commands
    for command in commands:
        code, out, _ = run(*command, "--help")
        assert code == 0
        if len(out.splitlines()) < 5:
            pytest.fail(f"{command} has no help")
    leaves = [c for c in commands if not any(d[: len(c)] == c and d != c for d in commands)]
    for command in leaves:
        assert "Example" in run(*command, "--help")[1], command
