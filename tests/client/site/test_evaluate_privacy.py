"""`client evaluate-privacy`: verdict, exit code, journal, picture; the attack on own records."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from audit.canonical import canonical_bytes
from audit.keys import SigningKey
from audit.statement import sign_statement
from client import network
from client.arrays import pack_arrays
from client.cli import main
from client.learning import private_sgd
from client.learning.tasks.text_classification import TextClassifier
from client.plots import PlotNotWritten, write_plot
from client.privacy_evaluation import ACTION
from client.site import Site
from tests.client.learning.broken_trainers import NoNoise
from tests.client.site.documents import add_dataset
from tests.client.site.world import World

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `client evaluate-privacy … --dir SITE` in this process: exit code, output, errors."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(network, "open_service", lambda _site: world.compliance)

    def call(*arguments: object) -> tuple[int, str, str]:
        words = ["client", "evaluate-privacy", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", [*words, "--dir", str(world.site.paths.root)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def trained(world: World) -> World:
    """A site with enough subjects, that has trained a round."""
    add_dataset(world.site, "more", subjects=400)
    world.train(0)
    world.run()
    assert world.codes() == []
    return world


def journalled(site: Site) -> list[dict[str, Any]]:
    """What the journal holds of evaluations."""
    leaves = site.journal.leaves()
    return [site.journal.read(leaf.position)[1] for leaf in leaves if leaf.action == ACTION]


def test_a_right_installation_keeps_the_promise(world: World, run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "canaries.svg"
    code, out, _ = run("triage-2026", "--canaries", 200, "--plot", picture)
    assert code == 0
    assert "no bound contradicts the promise" in out
    assert "gaussian" in out
    assert "name one with --model" in out
    (found,) = journalled(world.site)
    assert (found["plan_id"], found["passes"], found["attack"]) == (world.plan_id, True, None)
    assert found["audit"]["canaries"] == 200
    texts = [element.text or "" for element in ElementTree.parse(picture).iter()]  # noqa: S314 ours
    assert any("canaries of plan triage-2026" in text for text in texts)


def test_json_is_what_the_journal_holds(world: World, run: Run) -> None:
    code, out, _ = run(world.plan_id[7:17], "--canaries", 200, "--json")
    assert code == 0
    assert json.loads(out) == journalled(world.site)[0]


def test_a_broken_installation_is_journalled_and_has_its_own_exit_code(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_sgd, "SubjectOptimizer", NoNoise)
    code, out, err = run("triage-2026", "--canaries", 200)
    assert code == 6
    assert "the promise is broken" in out
    assert "promises epsilon 8, and at least 100" in err
    assert "fix: stop training" in err
    assert [entry["passes"] for entry in journalled(world.site)] == [False]


def test_a_signed_plan_in_a_file(world: World, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(world.compliance.plan(world.plan_id).statement.to_json()))
    code, out, _ = run(path, "--canaries", 200, "--json")
    assert code == 0
    assert json.loads(out)["plan_id"] == world.plan_id
    for text in ("nonsense", "[]", "{}"):
        path.write_text(text)
        assert run(path)[0] == 5
    assert len(journalled(world.site)) == 1, "what cannot be read is not evaluated"


def test_a_plan_that_the_coordinator_has_not_signed_is_not_evaluated(
    world: World, run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "plan.json"
    signed = world.compliance.plan(world.plan_id).statement
    forged = sign_statement(signed.body, SigningKey.generate("hospitals/coordinator"))
    changed = {**signed.body, "name": "another-name"}
    altered = replace(signed, payload=canonical_bytes(changed))
    for statement in (forged, altered):
        path.write_text(json.dumps(statement.to_json()))
        assert run(path, "--canaries", 50)[0] == 6
    assert journalled(world.site) == []


def test_each_engine_can_be_audited(world: World, run: Run) -> None:
    assert json.loads(run("triage-2026", "--canaries", 50, "--json")[1])["audit"]["engine"] == (
        "one_backward"
    )
    world.site.paths.compute.write_text('format = "fiduciary.compute/1"\nengine = "hooks"\n')
    found = [
        json.loads(run("triage-2026", "--canaries", 50, "--json", *words)[1])["audit"]["engine"]
        for words in ((), ("--engine", "one_backward"))
    ]
    assert found == ["hooks", "one_backward"]
    assert run("triage-2026", "--engine", "ghost")[0] == 2


@pytest.mark.parametrize("where", ["missing/canaries.svg", "folder.svg"])
def test_a_picture_that_cannot_be_written_is_told_before_the_work(
    world: World, run: Run, tmp_path: Path, where: str
) -> None:
    (tmp_path / "folder.svg").mkdir()
    code, _, err = run("triage-2026", "--canaries", 50, "--plot", tmp_path / where)
    assert code == 1
    assert "fix: name another file with --plot" in err
    assert journalled(world.site) == []


def test_a_picture_that_fails_at_the_end_has_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(PlotNotWritten, match="cannot write") as failed:
        write_plot(tmp_path / "gone" / "x.svg", "<svg/>")
    assert "everything else was done" in failed.value.fix


def test_a_draft_before_anybody_has_signed_it(world: World, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(
        '[plan]\nname = "draft-1"\npurpose = "triage"\nlabels = ["a", "b"]\nsites = ["north"]\n'
        "rounds = 2\n[privacy]\nepsilon = 3\ndelta = 1e-5\nnominal_subjects = 90\n"
    )
    code, out, _ = run(path, "--canaries", 100, "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["plan_id"], found["plan_name"], found["claimed"]) == ("draft", "draft-1", "3")
    assert found["audit"]["steps"] == 40
    assert run(path, "--model", tmp_path)[0] == 4, "nobody has trained it"
    path.write_text("[plan]")
    assert run(path)[0] == 5


def test_wrong_words(run: Run, tmp_path: Path) -> None:
    assert run("no-such-plan")[0] == 4
    assert run("triage-2026", "--plot", tmp_path / "canaries.png")[0] == 2
    assert run("triage-2026", "--canaries", 5)[0] == 2


def test_the_attack_on_a_state(trained: World, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    path.write_bytes(pack_arrays(trained.state))
    code, out, _ = run("triage-2026", "--canaries", 200, "--model", path, "--json")
    assert code == 0
    found = json.loads(out)["attack"]
    assert found["members"] + found["others"] == 400
    assert found["members"] > found["others"] >= 20
    assert {bound["method"] for bound in found["bounds"]} == {
        "membership-one-run",
        "membership-clopper-pearson",
    }
    shown = run("triage-2026", "--canaries", 200, "--model", path)[1]
    assert "ROC-AUC" in shown
    assert "P-0" not in shown
    assert all(word not in json.dumps(journalled(trained.site)) for word in ("P-0", "urgent"))


def test_the_attack_on_a_release_reads_the_same_model(
    trained: World, run: Run, tmp_path: Path
) -> None:
    model = TextClassifier.build(trained.plan, trained.model)
    rng = np.random.default_rng(0)
    state = {
        name: array + rng.normal(size=array.shape).astype(np.float32)
        for name, array in trained.state.items()
    }
    model.set_state(state)
    model.save(tmp_path / "release")
    (tmp_path / "state").write_bytes(pack_arrays(state))
    areas = [
        json.loads(run("triage-2026", "--canaries", 20, "--model", tmp_path / name, "--json")[1])[
            "attack"
        ]["area_under_curve"]
        for name in ("release", "state")
    ]
    assert areas[0] == areas[1]


def test_a_model_that_cannot_be_attacked(
    world: World, run: Run, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / "state.safetensors"
    path.write_bytes(pack_arrays(world.state))
    code, _, err = run("triage-2026", "--model", path)
    assert code == 4
    assert "no records that the plan was trained on" in err
    request.getfixturevalue("trained")
    path.write_bytes(pack_arrays({"head.weight": world.state["head.weight"]}))
    assert run("triage-2026", "--model", path)[0] == 5
    path.write_bytes(b"nonsense")
    assert run("triage-2026", "--model", path)[0] == 5
    assert run("triage-2026", "--model", tmp_path / "none")[0] == 4
    assert journalled(world.site) == []
