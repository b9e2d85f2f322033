"""`server simulate` as an operator meets it; the engine itself where Ray is installed."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from audit.errors import ExitCode
from server.simulation import engine
from tests.server.simulation.small import PLAN, SEED, records

PROGRAM = "from server.cli import main; main()"

HAS_RAY = importlib.util.find_spec("ray") is not None

WITHOUT_RAY = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ray":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "ray" else found(name, *rest)
from server.cli import main
main()
"""


def _simulate(
    *arguments: str, program: str = PROGRAM, temporary: Path | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    if temporary is not None:
        environment["TMPDIR"] = str(temporary)
    return subprocess.run(
        [sys.executable, "-c", program, "simulate", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=280,
    )


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN, encoding="utf-8")
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "age", "ward", "risk"))
        for record in records(120):
            cells = json.loads(record.text)
            writer.writerow((record.subject, cells["age"], cells["ward"], record.label))
    return path


def test_without_the_extra_the_command_says_what_to_install(plan: Path) -> None:
    done = _simulate(str(plan), "--synthetic", program=WITHOUT_RAY)
    assert done.returncode == ExitCode.NOT_FOUND
    assert "pip install 'fiduciary[simulation]'" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give a file, or --synthetic"),
        (("--synthetic", "--data", "x.csv"), "give a file, or --synthetic"),
        (("--synthetic", "--site-column", "ward"), "synthetic records have none"),
        (("--data", "x.csv", "--site-column", "ward", "--sites", "3"), "it says who is where"),
        (("--data", "x.csv", "--site-column", "ward", "--skew", "1"), "it says who is where"),
        (("--synthetic", "--dropout", "1"), "from 0 to below 1"),
        (("--synthetic", "--bandwidth-mbit", "0"), "a number above 0"),
        (("--synthetic", "--plot", "sweep.png"), "ends in .svg"),
        (("--synthetic", "--sites", "1001"), "1001"),
    ],
)
def test_options_that_contradict_each_other_are_usage_errors(
    plan: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = _simulate(str(plan), *arguments, program=WITHOUT_RAY)
    assert done.returncode == ExitCode.USAGE
    assert said in " ".join(done.stderr.replace("│", " ").split())


def test_ray_is_pinned_to_what_flower_asks_for() -> None:
    from importlib.metadata import requires

    asked = [line for line in requires("flwr") or () if line.startswith("ray==")]
    pinned = (Path(__file__).parents[3] / "constraints.txt").read_text(encoding="utf-8")
    (version,) = {line.partition(";")[0].strip() for line in asked}
    assert f"\n{version}\n" in pinned


def test_a_run_s_processes_listen_on_loopback_and_want_a_token() -> None:
    assert engine._ENVIRONMENT["RAY_AUTH_MODE"] == "token"
    assert engine._ENVIRONMENT["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"


@pytest.mark.skipif(not HAS_RAY, reason="needs the extra: pip install 'fiduciary[simulation]'")
def test_a_sweep_on_ray_says_what_each_epsilon_achieves_and_leaves_nothing(
    plan: Path, table: Path, tmp_path: Path
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    picture = tmp_path / "sweep.svg"
    columns = ("--data", str(table), "--subject", "id", "--label", "risk")
    done = _simulate(
        str(plan),
        *columns,
        *("--sites", "3", "--epsilon", "1", "--epsilon", "8", "--rounds", "2"),
        *("--workers", "1", "--seed", str(SEED), "--json", "--plot", str(picture)),
        temporary=temporary,
    )
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    assert (document["sites"], document["subjects"], document["private"]) == (3, 120, False)
    assert [each["epsilon"] for each in document["variants"]] == [1.0, 8.0]
    for each in document["variants"]:
        assert each["verdict"] == "completed"
        assert [one["participants"] for one in each["history"]] == [3, 3]
        assert 0.9 * each["epsilon"] < each["epsilon_spent"] <= each["epsilon"]
        assert each["bytes_to_site"] > 0
    assert "nothing was de-identified" in done.stderr
    assert picture.read_text(encoding="utf-8").startswith("<svg")
    assert not list(temporary.glob("fiduciary-simulation-*"))
