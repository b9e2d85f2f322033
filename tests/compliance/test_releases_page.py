"""The officer's commands in docs/releases.md, run in the page's order against a real service."""

from __future__ import annotations

import base64
import re
import shlex
from pathlib import Path

import pytest

from audit.errors import ExitCode
from tests.compliance.federation import Consumer, Coordinator, Site
from tests.compliance.running import RunningService
from tests.compliance.test_cli import Run, run

__all__ = ["run"]

PAGE = Path(__file__).parents[2] / "docs" / "releases.md"


def commands() -> list[list[str]]:
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return [shlex.split(line) for line in lines]


@pytest.fixture
def desk(
    service: RunningService,
    coordinator: Coordinator,
    north: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Run,
) -> Path:
    """A folder as the page assumes it: two candidates, the files that commands name."""
    plan_id = coordinator.approved_plan()
    coordinator.run(plan_id, north)
    for name in ("triage-1", "triage-2"):
        release = coordinator.release(plan_id, name=name)
        coordinator.api.submit_release(release.manifest, sealed_key=release.sealed_key)
        coordinator.api.upload_release(release.release_id, release.file(tmp_path))
    consumer = Consumer(service)
    second = service.as_("officer").add_principal("second", ["officer"]).token
    (tmp_path / "consumer.pub").write_text(base64.b64encode(consumer.public_key).decode())
    (tmp_path / "triage-desk.token").write_text(consumer.token)
    (tmp_path / "second.token").write_text(second)
    service.trust.save(tmp_path / "trust.json")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FIDUCIARY_TRUST", "trust.json")
    monkeypatch.setenv("FIDUCIARY_TOKEN_FILE", str(service.folder.token("officer")))
    return tmp_path


def test_the_pages_commands_do_what_it_says(service: RunningService, desk: Path, run: Run) -> None:
    officer, shown = service.as_("officer"), {}
    told = [words for words in commands() if words[0] == "compliance"]
    assert len(told) == 14
    for words in told:
        code, out, err = run(*words[1:])
        assert code == 0, f"{shlex.join(words)}: {err}"
        shown[shlex.join(words)] = out
        if words[1] == "approve":  # of the second release the page says nothing
            second = next(v for v in officer.releases() if v.manifest.name == "triage-2")
            officer.approve_release(second.release_id)
    assert "candidate" in shown["compliance releases"]
    assert "safetensors" in shown["compliance gates triage-1"]
    assert "0 (3 left)" in shown["compliance releases triage-1"]
    assert "triage-1" in shown["compliance compare @production triage-1"]
    assert "triage-desk" in shown["compliance notices list"]
    (notice,) = officer.recalls.notices()
    mine = ("--token-file", str(desk / "triage-desk.token"))
    code, _, err = run("notices", "acknowledge", notice.notice_id, *mine)
    assert code == 0, err
    code, _, err = run("approve", "release", "triage-1")
    assert code == ExitCode.CONFLICT
    assert "recalled already" in err


def test_the_page_names_every_gate(service: RunningService, desk: Path) -> None:
    officer = service.as_("officer")
    gates = officer.gates(officer.releases()[0].release_id).gates
    named = re.findall(r"^\| `([a-z-]+)` \| [a-z]", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [gate.name for gate in gates] == named
