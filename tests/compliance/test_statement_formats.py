"""What was stated in the first formats stays readable, keeps its bytes, and means what it meant.

`statements_1.json` and `erasure_1.json` hold statements as version 0.1.0 wrote them, with their
digests; they were made by that version's `Statement.body` and `canonical_bytes`, and must never be
written anew.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from audit.canonical import canonical_bytes, digest
from audit.errors import MalformedInput
from audit.export_file import verify_export
from audit.keys import SigningKey
from audit.statement import SignedStatement, sign_statement, verify_statement
from compliance.log_views import LogExport
from compliance.statements import (
    ErasureReceipt,
    ReleaseManifest,
    RoundReport,
    RunOutcome,
    SiteReport,
    TrainingPlan,
)
from compliance.statements.documents import Statement
from tests.compliance.federation import METRICS, Coordinator, Site, plan_body
from tests.compliance.running import RunningService

VECTORS: list[dict[str, str]] = [
    vector
    for name in ("statements_1.json", "erasure_1.json")
    for vector in json.loads((Path(__file__).parent / name).read_text(encoding="utf-8"))
]
READERS: dict[str, type[Statement]] = {
    f"fiduciary.{kind.kind}/1": kind
    for kind in (
        TrainingPlan,
        SiteReport,
        RoundReport,
        RunOutcome,
        ReleaseManifest,
        ErasureReceipt,
    )
}
NEWEST: dict[type[Statement], int] = {
    TrainingPlan: 4,
    ReleaseManifest: 4,
    RoundReport: 3,
    SiteReport: 3,
}
LATEST: dict[str, str] = {
    name: f"fiduciary.{kind.kind}/{NEWEST.get(kind, 2)}" for name, kind in READERS.items()
}
FIRST: dict[str, dict[str, Any]] = {}
for vector in VECTORS:
    body = json.loads(vector["statement"])
    FIRST.setdefault(body["format"], body)


def read(body: dict[str, Any]) -> Statement:
    return READERS[body["format"].partition("/")[0] + "/1"].from_body(body)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["digest"][7:15])
def test_a_first_statement_is_read_and_written_byte_for_byte(vector: dict[str, str]) -> None:
    body = json.loads(vector["statement"])
    written = canonical_bytes(read(body).body())
    assert written.decode() == vector["statement"]
    assert digest(written) == vector["digest"]


def test_every_statement_with_later_formats_has_a_vector() -> None:
    assert set(FIRST) == set(READERS)
    for name, kind in READERS.items():
        assert kind.model_fields["format"].default == LATEST[name]


@pytest.mark.parametrize("name", sorted(READERS))
def test_a_signature_over_it_still_verifies(name: str) -> None:
    """Over the bytes as they were written, and over those that reading and writing gives."""
    key = SigningKey.generate("hospitals/coordinator")
    old = sign_statement(FIRST[name], key)
    again = sign_statement(read(FIRST[name]).body(), key)
    assert again == SignedStatement.from_json(json.loads(json.dumps(old.to_json())))
    assert verify_statement(again, key.public) == FIRST[name]


LATER: list[tuple[str, dict[str, Any], str]] = [
    ("plan", {"groups": ["f", "m"]}, "groups: unknown field of fiduciary.plan/1"),
    ("plan", {"focal_gamma": "2"}, "focal_gamma: unknown field of fiduciary.plan/1"),
    ("plan", {"privacy_audit": True}, "privacy_audit: unknown field of fiduciary.plan/1"),
    (
        "plan",
        {"adapter": {"layers": 2}},
        "adapter.layers: unknown field of fiduciary.plan/1",
    ),
    ("plan", {"task": "token-classification"}, "task: fiduciary.plan/1 knows no"),
    ("site-report", {"audited_epsilon": "1"}, "audited_epsilon: unknown field"),
    ("round-report", {"phase": "full"}, "phase: fiduciary.round-report/1 knows probe and"),
    ("round-report", {"metrics": {**METRICS, "perplexity": "12"}}, "metrics.perplexity: unknown"),
    ("round-report", {"metrics": {"accuracy": "0.9", "examples": 40}}, "macro_f1"),
    ("outcome", {"metrics": {**METRICS, "perplexity": "12"}}, "metrics.perplexity: unknown"),
    ("outcome", {"metrics": {"accuracy": "0.9", "examples": 40}}, "macro_f1"),
    ("release", {"metrics": {"accuracy": "0.9", "examples": 40}}, "macro_f1"),
    ("release", {"metrics": {**METRICS, "perplexity": "12"}}, "metrics.perplexity: unknown"),
    ("erasure", {"first_rounds": {f"sha256:{'1' * 64}": 3}}, "first_rounds: unknown field"),
]


@pytest.mark.parametrize(("kind", "changes", "reason"), LATER)
def test_a_first_statement_that_says_what_came_later_is_refused(
    kind: str, changes: dict[str, Any], reason: str
) -> None:
    """An old reader would refuse it: two readers must not differ in what is a statement."""
    first = FIRST[f"fiduciary.{kind}/1"]
    with pytest.raises(MalformedInput, match=reason):
        read({**first, **changes})
    second = read({**first, **changes, "format": f"fiduciary.{kind}/2"})
    assert read(second.body()) == second


@pytest.mark.parametrize("kind", ["full", "histogram"])
def test_a_first_plan_has_no_later_phase(kind: str) -> None:
    first = FIRST["fiduciary.plan/1"]
    phases = [{**first["phases"][0], "kind": kind}]
    with pytest.raises(MalformedInput, match=r"phases|class_weights"):
        read({**first, "phases": phases})


def test_a_first_plan_has_no_limited_batch() -> None:
    first = FIRST["fiduciary.plan/1"]
    limit = {"batch_limit": {"subjects": 10, "max_population": 100}}
    phases = [first["phases"][0], {**first["phases"][1], **limit}]
    with pytest.raises(MalformedInput, match=r"phases\.batch_limit: unknown field of fiduciary"):
        read({**first, "phases": phases})
    second = read({**first, "phases": phases, "format": "fiduciary.plan/2"})
    assert second.body()["phases"][1]["batch_limit"] == limit["batch_limit"]
    assert "batch_limit" not in second.body()["phases"][0]


@pytest.mark.parametrize("name", sorted(READERS))
def test_what_says_nothing_new_differs_in_the_name_of_its_format_alone(name: str) -> None:
    """Later fields at their defaults are not written, so that digests do not follow versions."""
    for number in range(1, int(LATEST[name][-1]) + 1):
        said = {**FIRST[name], "format": name.replace("/1", f"/{number}")}
        assert read(said).body() == said


FIGURES = {
    "method": "review",
    "recall": "0.99",
    "recall_at_least": "0.95",
    "leak_share": "0.01",
    "leak_share_at_most": "0.05",
    "measured_at": "2026-11-02T10:00:00Z",
}


@pytest.mark.parametrize(
    ("kind", "said", "number"),
    [
        ("plan", {"deidentification": {"minimum_recall": "0.9"}}, 4),
        ("site-report", {"deidentification": [FIGURES]}, 3),
    ],
)
def test_what_is_asked_and_told_of_deidentification_is_refused_in_earlier_formats(
    kind: str, said: dict[str, Any], number: int
) -> None:
    first = {**FIRST[f"fiduciary.{kind}/1"], **said}
    for earlier in range(1, number):
        with pytest.raises(MalformedInput, match="deidentification: unknown field of"):
            read({**first, "format": f"fiduciary.{kind}/{earlier}"})
    latest = read({**first, "format": f"fiduciary.{kind}/{number}"})
    assert read(latest.body()) == latest


def test_a_plan_without_text_asks_nothing_of_deidentification() -> None:
    said = {**plan_body(("north",)), "task": "image-classification", "format": "fiduciary.plan/4"}
    read(said)
    with pytest.raises(MalformedInput, match="no text is searched for image-classification"):
        read({**said, "deidentification": {"maximum_leak_share": "0.1"}})


SECURE = {"secure_aggregation": True, "quorum": 2}
THIRD: list[tuple[dict[str, Any], str]] = [
    (SECURE, "secure_aggregation: "),
    ({"missed_rounds": 1}, "missed_rounds: "),
    ({"aggregation": {"server": "adam"}}, "aggregation: "),
    ({"transport": {"precision": "int8"}}, "transport: "),
]


@pytest.mark.parametrize(("changes", "field"), THIRD)
def test_a_second_plan_that_says_what_the_third_format_brought_is_refused(
    changes: dict[str, Any], field: str
) -> None:
    first = FIRST["fiduciary.plan/1"]
    for number in (1, 2):
        with pytest.raises(
            MalformedInput, match=f"{field}unknown field of fiduciary.plan/{number}"
        ):
            read({**first, **changes, "format": f"fiduciary.plan/{number}"})
    third = read({**first, **changes, "format": "fiduciary.plan/3"})
    assert read(third.body()) == third


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("evaluation", {"accuracy_low": "0.8", "accuracy_high": "0.9", "groups": []}),
        ("model_signing_key", "a PEM"),
    ],
)
def test_a_second_release_that_says_what_the_third_format_brought_is_refused(
    field: str, value: Any
) -> None:
    first = FIRST["fiduciary.release/1"]
    for number in (1, 2):
        with pytest.raises(MalformedInput, match=f"{field}: unknown field of fiduciary.release/"):
            read({**first, field: value, "format": f"fiduciary.release/{number}"})
    third = read({**first, field: value, "format": "fiduciary.release/3"})
    assert read(third.body()) == third


@pytest.mark.parametrize(
    ("where", "change"),
    [("phases", {"proximal": "0.1"}), ("privacy", {"noise_sites": 2})],
)
def test_the_third_format_s_inner_fields_are_unknown_to_the_second(
    where: str, change: dict[str, Any]
) -> None:
    first = {**FIRST["fiduciary.plan/1"], **SECURE}
    phase = {**first["phases"][0], "steps_per_round": 1}
    first["phases"] = [phase]
    field = next(iter(change))
    changed = {
        **first,
        where: [{**phase, **change}] if where == "phases" else {**first[where], **change},
    }
    assert read({**changed, "format": "fiduciary.plan/3"}).body()["format"] == "fiduciary.plan/3"
    second = {k: v for k, v in changed.items() if k != "secure_aggregation"}
    with pytest.raises(MalformedInput, match=rf"{field}|noise_sites"):
        read({**second, "format": "fiduciary.plan/2"})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({**SECURE, "quorum": 1}, "quorum: secure aggregation needs at least 2"),
        ({**SECURE, "sites": ["a", "b", "c", "d"]}, "more than half of the sites"),
        ({**SECURE, "transport": {"precision": "int8"}}, "transport: masked numbers"),
        (
            {**SECURE, "sites": ["a", "b", "c", "d", "e"], "quorum": 5,
             "aggregation": {"rule": "median", "tolerated": 1}},
            "secure aggregation hides",
        ),
        ({"aggregation": {"rule": "median"}}, "tolerated: a mean bears no hostile site"),
        ({"aggregation": {"rule": "mean", "tolerated": 1}}, "tolerated: a mean bears"),
        (
            {"quorum": 2, "aggregation": {"rule": "median", "tolerated": 1}},
            "median bears 1 hostile site with a quorum of at least 3",
        ),
        (
            {"sites": ["a", "b", "c", "d"], "quorum": 4,
             "aggregation": {"rule": "krum", "tolerated": 1}},
            "krum bears 1 hostile site with a quorum of at least 5",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_aggregated_so_is_no_plan(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(MalformedInput, match=reason):
        read({**FIRST["fiduciary.plan/1"], **changes, "format": "fiduciary.plan/3"})


@pytest.mark.parametrize(
    ("privacy", "changes", "reason"),
    [
        ({"noise_sites": 2}, {}, "distributed noise needs secure_aggregation"),
        ({"noise_sites": 3}, SECURE, "3 is more than the quorum"),
        ({"noise_sites": 2}, SECURE, "distributed noise needs one step a round"),
    ],
)
def test_noise_that_nobody_would_have_to_add_is_no_plan(
    privacy: dict[str, Any], changes: dict[str, Any], reason: str
) -> None:
    first = FIRST["fiduciary.plan/1"]
    said = {**first, **changes, "privacy": {**first["privacy"], **privacy}}
    with pytest.raises(MalformedInput, match=reason):
        read({**said, "format": "fiduciary.plan/3"})


@pytest.mark.parametrize(
    ("phases", "reason"),
    [
        ([{"proximal": "0.6"}], "above 1 would pull beyond the start"),
        ([{"proximal": "-0.1"}], "proximal"),
        ([{"kind": "histogram", "proximal": "0.1"}, {}], "a histogram counts"),
    ],
)
def test_a_pull_that_goes_too_far_or_nowhere_is_no_plan(
    phases: list[dict[str, Any]], reason: str
) -> None:
    first = FIRST["fiduciary.plan/1"]
    phase = {**first["phases"][0], "learning_rate": "2"}
    said = {**first, "phases": [{**phase, **changes} for changes in phases]}
    with pytest.raises(MalformedInput, match=reason):
        read({**said, "format": "fiduciary.plan/3"})
    read({**first, "phases": [{**phase, "proximal": "0.5"}], "format": "fiduciary.plan/3"})


@pytest.mark.parametrize("name", sorted(READERS))
def test_a_format_of_the_future_is_refused(name: str) -> None:
    with pytest.raises(MalformedInput, match="format: "):
        READERS[name].from_body({**FIRST[name], "format": name.replace("/1", "/99")})


def test_plans_of_both_formats_run_side_by_side_and_the_log_verifies(
    service: RunningService, coordinator: Coordinator, north: Site, tmp_path: Path
) -> None:
    site = north.client(service)
    later: tuple[dict[str, Any], ...] = ({}, {"format": "fiduciary.plan/2", "groups": ["f", "m"]})
    for number, changes in enumerate(later):
        plan = TrainingPlan.from_body(plan_body(name=f"plan-{number}", **changes))
        plan_id = coordinator.api.submit_plan(coordinator.sign(plan.body())).plan_id
        service.as_("officer").approve_plan(plan_id)
        for report in (1, 2):
            version = f"fiduciary.site-report/{report}"
            site.report_site(plan_id, north.report(plan_id, format=version))
        view = coordinator.api.plan(plan_id)
        assert view.plan == plan
        assert view.plan.format == f"fiduciary.plan/{number + 1}"
    path = tmp_path / "all.jsonl"
    service.as_("auditor").export_log(LogExport(), path)
    verified = verify_export(path, service.trust.log_key, service.trust.origin)
    assert verified.whole
    formats = {
        json.loads(base64.b64decode(row["payload"]["statement"]["payload"]))["format"]
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()[1:])
        if "statement" in row["payload"]
    }
    assert formats >= {
        f"fiduciary.{kind}/{number}" for kind in ("plan", "site-report") for number in (1, 2)
    }
