"""The gates of a release: each can fail, says why, and names the entries that it rests on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit.errors import Conflict, ExitCode, MalformedInput, Unreachable
from compliance.rules.release_gates import (
    Evidence,
    Gate,
    Logged,
    OpenErasure,
    default_thresholds,
    judge,
    may_pass,
    read_thresholds,
)
from compliance.rules.ruling import ALLOWED, Refused
from compliance.statements import (
    ReleaseManifest,
    RoundReport,
    RunOutcome,
    SiteReport,
    TrainingPlan,
)
from tests.compliance.federation import DIGEST, METRICS, Coordinator, Site, plan_body
from tests.compliance.running import RunningService
from tests.compliance.test_cli import Run, officer, run

__all__ = ["officer", "run"]

SITES = ("north", "south")
AT = "2026-11-02T10:00:00Z"


def manifest_body(**changes: Any) -> dict[str, Any]:
    return {
        "name": "triage",
        "plan_id": DIGEST,
        "base_model": {"name": "m", "digest": DIGEST},
        "files": {"adapter_model.safetensors": DIGEST, "README.md": DIGEST, "model.sig": DIGEST},
        "ciphertext_digest": DIGEST,
        "ciphertext_bytes": 1,
        "delta": "0.00001",
        "epsilon_by_site": {"north": "1.5", "south": "2"},
        "metrics": METRICS,
        "created_at": AT,
        **changes,
    }


def site_report(site: str, number: int, **changes: Any) -> SiteReport:
    body = {
        "plan_id": DIGEST,
        "site": site,
        "round": number,
        "activity": "train",
        "steps": 5,
        "epsilon_spent": "1.5",
        "update_digest": DIGEST,
        "dataset_digest": DIGEST,
        "base_model_digest": DIGEST,
        "deidentification_digest": DIGEST,
        "software": "x",
        "reported_at": AT,
        **changes,
    }
    return SiteReport.from_body(body)


def round_report(number: int, participants: tuple[str, ...] = SITES) -> RoundReport:
    body = {
        "plan_id": DIGEST,
        "round": number,
        "phase": "probe",
        "participants": list(participants),
        "absent": {site: "late" for site in SITES if site not in participants},
        "update_norm": "1",
        "state_digest": DIGEST,
        "epsilon_by_site": {},
        "finished_at": AT,
    }
    return RoundReport.from_body(body)


def evidence(
    *,
    plan: dict[str, Any] | None = None,
    manifest: dict[str, Any] | None = None,
    outcome: dict[str, Any] | None = None,
    rounds: tuple[RoundReport, ...] | None = None,
    reports: tuple[SiteReport, ...] | None = None,
    erasures: tuple[OpenErasure, ...] = (),
    audited: str | None = None,
) -> Evidence:
    """A release of which every gate is passed or not asked for, but for what is given."""
    planned = TrainingPlan.from_body(
        plan_body(SITES, **{"format": "fiduciary.plan/4", **(plan or {})})
    )
    ended = {
        "plan_id": DIGEST,
        "verdict": "completed",
        "rounds_done": 2,
        "metrics": METRICS,
        "finished_at": AT,
        **(outcome or {}),
    }
    rounds = rounds or (round_report(0), round_report(1, ("north",)))
    if reports is None:
        pairs = (("north", 0), ("south", 0), ("north", 1))
        reports = tuple(site_report(*pair, audited_epsilon=audited) for pair in pairs)
    return Evidence(
        manifest=Logged(ReleaseManifest.from_body(manifest_body(**(manifest or {}))), 40),
        plan=Logged(planned, 10),
        outcome=Logged(RunOutcome.from_body(ended), 30),
        rounds=[Logged(each, 12 + n) for n, each in enumerate(rounds)],
        reports=[Logged(each, 20 + n) for n, each in enumerate(reports)],
        open_erasures=erasures,
    )


def verdict(name: str, found: Evidence) -> Gate:
    return next(gate for gate in judge(found, default_thresholds()) if gate.name == name)


def group(name: str, accuracy: str, low: str, high: str) -> dict[str, Any]:
    return {"group": name, "examples": 30, "accuracy": accuracy, "low": low, "high": high}


def measured(*groups: dict[str, Any]) -> dict[str, Any]:
    return {"evaluation": {"accuracy_low": "0.8", "accuracy_high": "0.95", "groups": list(groups)}}


TWO = {"groups": ["f", "m"]}
AUDITED = {"privacy_audit": True}
ASKED = {"deidentification": {"minimum_recall": "0.95"}}


def recall(at_least: str, measured_at: str = "2026-10-02T10:00:00Z") -> dict[str, Any]:
    """What a site's report says of its de-identification."""
    figures = {
        "method": "evaluation",
        "recall": "0.99",
        "recall_at_least": at_least,
        "leak_share": "0.01",
        "leak_share_at_most": "0.05",
        "measured_at": measured_at,
    }
    return {"deidentification": [figures]}


def recalled(**north: Any) -> dict[str, Any]:
    """Reports of a run in which south's de-identification found enough; `north` is of its last."""
    pairs = (("north", 0), ("south", 0))
    early = [site_report(*pair, **recall("0.96")) for pair in pairs]
    return {"reports": (*early, site_report("north", 1, **north))}


FAILING: list[tuple[str, dict[str, Any], str]] = [
    ("epsilon", {"manifest": {"epsilon_by_site": {"north": "8.1"}}}, "over .* 8: north 8.1"),
    (
        "epsilon",
        {"reports": (site_report("north", 0, epsilon_spent="9"),)},
        "over the plan's ε 8: north 9",
    ),
    ("epsilon", {"manifest": {"epsilon_by_site": {}}, "reports": ()}, "not said"),
    (
        "site-reports",
        {"reports": (site_report("north", 0), site_report("north", 1))},
        "no report by south of round 1",
    ),
    ("site-reports", {"rounds": (round_report(0),)}, "no report of rounds: 2"),
    ("site-reports", {"rounds": (round_report(0, ()), round_report(1, ()))}, "rounds: all"),
    ("metrics", {"outcome": {"metrics": {**METRICS, "accuracy": "0.8"}}}, "not those of"),
    (
        "metrics",
        {
            "outcome": {"metrics": {**METRICS, "examples": 0}},
            "manifest": {"metrics": {**METRICS, "examples": 0}},
        },
        "no held-out example",
    ),
    ("privacy-audit", {"plan": AUDITED}, "no audit of its own trainer by north, south"),
    (
        "privacy-audit",
        {"plan": AUDITED, "audited": "8.5"},
        "attacks measured more than the plan's ε 8: north 8.5",
    ),
    (
        "privacy-audit",  # of a site the worst counts, and one such site is enough
        {
            "plan": AUDITED,
            "reports": (
                site_report("north", 0, audited_epsilon="8.5"),
                site_report("south", 0, audited_epsilon="2"),
                site_report("north", 1, audited_epsilon="2"),
            ),
        },
        "more than the plan's ε 8: north 8.5, south 2",
    ),
    ("deidentification", {"plan": ASKED}, "north: it was not measured; south: it was not"),
    (
        "deidentification",  # the last round counts, whenever its report came
        {
            "plan": ASKED,
            "reports": (
                site_report("south", 0, **recall("0.96")),
                site_report("north", 1, **recall("0.94")),
                site_report("north", 0, **recall("0.96")),
            ),
        },
        "^north: evaluation shows a recall of at least 0.94, 0.95 is asked$",
    ),
    (
        "deidentification",
        {"plan": ASKED, **recalled(**recall("0.94"))},
        "^north: evaluation shows a recall of at least 0.94, 0.95 is asked$",
    ),
    ("deidentification", {"plan": ASKED, **recalled()}, "^north: it was not measured$"),
    (
        "deidentification",
        {"plan": ASKED, **recalled(**recall("0.96", "2025-10-02T10:00:00Z"))},
        "^north: it was not measured within 365 days$",
    ),
    (
        "deidentification",
        {"plan": ASKED, "reports": recalled(**recall("0.96"))["reports"][::2]},
        "^south: did not report$",
    ),
    ("fairness", {"plan": TWO}, "f: not measured, .*; m: not measured"),
    (
        "fairness",
        {
            "plan": TWO,
            "manifest": measured(group("f", "0.79", "0.6", "0.9"), group("m", "0.95", "0.9", "1")),
        },
        r"^f: accuracy 0.79 \(95 % interval 0.6 to 0.9, 30 examples\), 0.11 below everybody's 0.9; "
        "at most 0.10 below is allowed$",
    ),
    ("erasure", {"erasures": (OpenErasure("a request", 55),)}, "1 open: a request"),
    ("safetensors", {"manifest": {"files": {"a.onnx": DIGEST}}}, "neither .*: a.onnx"),
    ("safetensors", {"manifest": {"files": {"README.md": DIGEST}}}, "no weights"),
]


def test_a_recall_that_is_asked_and_measured_passes_and_is_told() -> None:
    gate = verdict("deidentification", evidence(plan=ASKED, **recalled(**recall("0.97"))))
    assert gate.verdict == "passed"
    assert "north: at least 0.97, texts with a leak at most 0.05 (evaluation of" in gate.why
    assert gate.positions == (21, 22)
    # What was evaluated afterwards trained nothing.
    reports = recalled(**recall("0.97"))["reports"]
    later = (*reports, site_report("north", 1, activity="evaluate"))
    assert verdict("deidentification", evidence(plan=ASKED, reports=later)).verdict == "passed"
    # Where nothing is asked, what was measured is told all the same.
    assert verdict("deidentification", evidence(**recalled())).verdict == "passed"


def test_an_operators_thresholds_ask_for_a_recall_where_the_plan_does_not(tmp_path: Path) -> None:
    head = 'format = "fiduciary.release-gates/1"\n[deidentification]\n'
    (tmp_path / "release-gates.toml").write_text(head + 'minimum_recall = "0.97"\n')

    def of(**changes: Any) -> Gate:
        found = judge(evidence(**changes), read_thresholds(tmp_path))
        return next(gate for gate in found if gate.name == "deidentification")

    assert of().verdict == "not-asked"
    gate = of(**recalled(**recall("0.99")))
    assert gate.verdict == "failed"
    assert gate.why == "south: evaluation shows a recall of at least 0.96, 0.97 is asked"
    (tmp_path / "release-gates.toml").write_text(head + 'maximum_leak_share = "0.04"\n')
    assert "at most 0.05 of texts with a leak, 0.04 is allowed" in of(**recalled()).why
    (tmp_path / "release-gates.toml").write_text(head + 'unmeasured = "refuse"\n')
    assert of().why == "north: it was not measured; south: it was not measured"
    assert of(**recalled(**recall("0.99"))).verdict == "passed"
    table = {"task": "tabular-classification", "features": [
        {"name": "age", "kind": "number", "low": "0", "high": "100"}]}  # fmt: skip
    phases = [{**plan_body(SITES)["phases"][0], "kind": "full", "rounds": 2}]
    assert of(plan={**table, "phases": phases}).verdict == "not-asked"


@pytest.mark.parametrize(("name", "changes", "why"), FAILING)
def test_each_gate_can_fail_alone(name: str, changes: dict[str, Any], why: str) -> None:
    found = evidence(**changes)
    gate = verdict(name, found)
    assert gate.verdict == "failed"
    assert re.search(why, gate.why), gate.why
    ruling = may_pass(judge(found, default_thresholds()))
    assert isinstance(ruling, Refused)
    assert (ruling.code, ruling.status) == ("gate-failed", "conflict")
    assert f"{name}: {gate.why}" in ruling.reason


def test_a_good_release_passes_and_says_what_it_rests_on() -> None:
    gates = {gate.name: gate for gate in judge(evidence(), default_thresholds())}
    assert {name: gate.verdict for name, gate in gates.items()} == {
        "epsilon": "passed",
        "site-reports": "passed",
        "metrics": "passed",
        "privacy-audit": "not-asked",
        "deidentification": "not-asked",
        "fairness": "not-asked",
        "erasure": "passed",
        "safetensors": "passed",
    }
    assert may_pass(tuple(gates.values())) == ALLOWED
    assert gates["site-reports"].positions == (12, 13, 20, 21, 22)
    assert gates["metrics"].positions == (40, 30)
    asked = evidence(
        plan={**TWO, **AUDITED},
        audited="2.5",
        manifest=measured(group("f", "0.85", "0.7", "0.9"), group("m", "0.95", "0.9", "1")),
    )
    assert may_pass(judge(asked, default_thresholds())) == ALLOWED
    assert verdict("privacy-audit", asked).positions == (20, 21)
    assert "its interval reaches over" in verdict("fairness", asked).why


def test_what_is_just_within_its_limit_passes() -> None:
    spent = evidence(manifest={"epsilon_by_site": {"north": "8", "south": "2"}})
    assert verdict("epsilon", spent).verdict == "passed"
    groups = measured(group("f", "0.80", "0.7", "0.9"), group("m", "0.95", "0.9", "1"))
    assert verdict("fairness", evidence(plan=TWO, manifest=groups)).verdict == "passed"


def test_a_missed_round_needs_no_report_and_the_last_report_of_a_round_counts() -> None:
    rounds = (round_report(0), round_report(1), round_report(1, ("north",)))
    assert verdict("site-reports", evidence(rounds=rounds)).verdict == "passed"
    missed = (round_report(0), round_report(1, ()))
    assert verdict("site-reports", evidence(rounds=missed)).verdict == "passed"


def test_an_operator_sets_thresholds_in_a_file(tmp_path: Path) -> None:
    assert read_thresholds(tmp_path) == default_thresholds()
    path = tmp_path / "release-gates.toml"
    head = 'format = "fiduciary.release-gates/1"\n'
    path.write_text(head + '[fairness]\nunmeasured_groups = "accept"\nmax_accuracy_gap = "0.2"\n')
    limits = read_thresholds(tmp_path)
    assert limits.fairness.unmeasured_groups == "accept"
    found = evidence(plan=TWO, manifest=measured(group("f", "0.75", "0.5", "0.9")))
    fairness = next(gate for gate in judge(found, limits) if gate.name == "fairness")
    assert fairness.verdict == "passed"
    assert "m: not measured" in fairness.why
    for text, reason in (
        ("", "format is not"),
        (head + "[fairness]\nmax_accuracy_gap = 2", "fairness.max_accuracy_gap"),
        (head + '[fairness]\nmax_gap = "0.2"', "unknown field"),
        (head + "[other]\nx = 1", "unknown field"),
        ("[", "malformed release-gates.toml"),
    ):
        path.write_text(text)
        with pytest.raises(MalformedInput, match=reason):
            read_thresholds(tmp_path)


@pytest.fixture
def candidate(coordinator: Coordinator, north: Site, tmp_path: Path) -> str:
    """A release whose site reported its first round only."""
    plan_id = coordinator.approved_plan()
    api = north.client(coordinator.service)
    api.report_site(plan_id, north.report(plan_id, 0))
    for index in range(2):
        coordinator.api.report_round(plan_id, coordinator.round_report(plan_id, index))
    coordinator.api.report_outcome(plan_id, coordinator.outcome(plan_id))
    release = coordinator.release(plan_id)
    coordinator.api.submit_release(release.manifest, sealed_key=release.sealed_key)
    coordinator.api.upload_release(release.release_id, release.file(tmp_path))
    return release.release_id


def test_no_release_is_approved_while_a_gate_fails(
    officer: Run, service: RunningService, north: Site, candidate: str
) -> None:
    client, site = service.as_("officer"), north.client(service)
    with pytest.raises(Conflict, match="site-reports: no report by north of round 2"):
        client.approve_release(candidate)
    assert service.last_entry()[3]["reason"] == "gate-failed"
    code, out, _ = officer("gates", candidate)
    assert code == ExitCode.REFUSED
    assert "no report by north of round 2" in out
    plan_id = client.release(candidate).plan_id
    late = site.report_site(plan_id, north.report(plan_id, 1))
    view = client.gates(candidate)
    assert view.passes
    assert late.position in view.gates[1].positions
    code, out, _ = officer("gates", candidate, "--json")
    assert code == 0
    assert json.loads(out)["gates"][1]["verdict"] == "passed"

    site.report_erasure(north.erasure())  # of somebody who took no part
    assert client.gates(candidate).passes
    site.report_erasure(north.erasure("cd" * 32, plans=[plan_id]))
    (case,) = client.erasures.cases()
    (gate,) = (gate for gate in client.gates(candidate).gates if gate.name == "erasure")
    assert (gate.verdict, gate.positions) == ("failed", (case.position,))
    assert gate.why == f"1 open: case {case.case_id[:12]} is open"
    with pytest.raises(Conflict, match="nothing is decided yet"):
        client.approve_release(candidate)


def test_a_release_whose_gates_pass_is_approved(
    service: RunningService, north: Site, candidate: str
) -> None:
    client = service.as_("officer")
    plan_id = client.release(candidate).plan_id
    north.client(service).report_site(plan_id, north.report(plan_id, 1))
    assert client.approve_release(candidate).state == "approved"
    assert client.gates(candidate).passes


def test_thresholds_that_cannot_be_read_stop_approvals(
    service: RunningService, north: Site, candidate: str
) -> None:
    path = service.folder.path / "release-gates.toml"
    path.write_text("format = 1")
    ask: Callable[[str], object]
    for ask in (service.as_("officer").gates, service.as_("officer").approve_release):
        with pytest.raises(Unreachable, match=r"release-gates\.toml"):
            ask(candidate)
