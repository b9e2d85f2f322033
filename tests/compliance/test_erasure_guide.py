"""docs/erasure.md: its commands run in its order against a real service, its figures are right."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from audit import cli as audit_cli
from audit.receipt import Receipt
from client.learning.accounting import Event, reported_epsilon
from compliance import cli
from compliance.rules.unlearning import group_by_lemma, group_by_mechanism
from tests.compliance.erasing import Ground
from tests.compliance.federation import Coordinator, Site
from tests.compliance.running import RunningService
from tests.compliance.test_unlearning import plan

GUIDE = (Path(__file__).parents[2] / "docs" / "erasure.md").read_text(encoding="utf-8")
COMMANDS = [
    line.removeprefix("$ ")
    for block in re.findall(r"```console\n(.*?)```", GUIDE, re.DOTALL)
    for line in block.splitlines()
]


@pytest.fixture
def ground(
    service: RunningService,
    coordinator: Coordinator,
    north: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Ground:
    for name in ("TRUST", "TOKEN_FILE", "COMPLIANCE", "LOG_KEY"):
        monkeypatch.delenv(f"FIDUCIARY_{name}", raising=False)
    service.trust.save(service.folder.path / "trust.json")
    monkeypatch.chdir(service.folder.path.parent)
    return Ground(service, coordinator, north, tmp_path)


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], str]:
    """Run one line of the guide in this process; it must succeed."""

    def run(line: str) -> str:
        name, *arguments = shlex.split(line)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(SystemExit) as ended:
            (cli if name == "compliance" else audit_cli).main()
        captured = capsys.readouterr()
        assert not ended.value.code, f"{line}: {captured.err}"
        return captured.out

    return run


def test_every_command_of_the_guide(ground: Ground, run: Callable[[str], str]) -> None:
    trained = ground.plan()
    for number in (1, 2, 3):
        ground.release(trained, name=f"triage-{number}")
    desk = ground.grant(ground.release(trained, name="granted"))
    recorded = ground.erase(trained)
    digest = Receipt.from_json(recorded.receipt).statement.digest
    again = ground.coordinator.api.submit_plan(ground.coordinator.plan(name="triage-again")).plan_id
    ground.officer.approve_plan(again)
    keys = {
        "sha256:" + "0" * 64: digest,
        "$LOG_KEY": ground.service.trust.log_key.encoded(),
        "$SITE_KEY": ground.north.identity.public.encoded(),
    }
    said = {}
    for command in COMMANDS:
        if command.startswith(("client ", "server ")):
            continue  # others', which tests/client/site/test_cli.py and tests/server run
        if " conclude " in command:
            ground.coordinator.run(again, ground.north)
            ground.release(again, name="triage-4")
        line = command
        for placeholder, value in keys.items():
            line = line.replace(placeholder, value)
        said[command] = run(line)
    assert [view.state for view in ground.officer.erasures.cases()] == ["closed"] * 3 + ["open"]
    shown = said[next(line for line in COMMANDS if " show " in line)]
    assert "from the base model" in shown
    assert "ε 1.5 at δ 0.00001" in shown
    told = said[COMMANDS[-1]]
    assert told.count("follow-up: entry") == 5
    assert "retrain" in told
    listed = json.loads(run("compliance erasures list --dir compliance --json"))
    assert [case["choice"] for case in listed] == ["withdraw", "rely", "retrain", None]
    assert desk.api.recalls.notices() == ()


@pytest.mark.parametrize(
    ("line", "code", "reason"),
    [
        ("erasures show nothing", 4, "no case nothing"),
        ("erasures decide triage-1 forget --reason x", 2, "retrain, rely or withdraw"),
        ("erasures list --state lost", 2, "open, retraining or closed"),
        ("erasures decide triage-1 rely --reason x", 3, "measured evidence"),
        ("erasures decide triage-1 rely --reason x --evidence report", 5, "digest"),
        ("erasures conclude triage-1 --release triage-1", 9, "no retraining is under way"),
    ],
)
def test_what_is_refused_says_why_and_has_its_exit_code(
    ground: Ground,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: str,
    code: int,
    reason: str,
) -> None:
    trained = ground.plan()
    ground.release(trained, name="triage-1")
    ground.erase(trained)
    monkeypatch.setattr(sys, "argv", ["compliance", *shlex.split(line), "--dir", "compliance"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code
    assert reason in capsys.readouterr().err


def test_the_figures_of_the_guide() -> None:
    one = float(reported_epsilon([Event(1.1, 0.1, 10)], 1e-5))
    assert f"| by the lemma, from ε = {one:.2f} for one |" in GUIDE
    for count in (1, 2, 3, 5):
        epsilon = group_by_mechanism(plan(1.1, 0.1, 10), count).epsilon
        lemma = group_by_lemma(one, 1e-5, count)
        row = next(line for line in GUIDE.splitlines() if line.startswith(f"| {count} | "))
        _, _, mechanism, stated, _ = (cell.strip() for cell in row.split("|"))
        assert mechanism.split()[0] == f"{epsilon:.2f}"
        assert stated.split(",")[0] == f"{lemma.epsilon:.2f}"
        if count > 1:
            assert float(stated.rsplit(" ", 1)[1]) == pytest.approx(lemma.delta, rel=0.06)
