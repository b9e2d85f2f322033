"""What was stated in the first formats stays readable, keeps its bytes, and means what it meant.

`statements_1.json` holds statements as version 0.1.0 wrote them, with their digests; it was made by
that version's `Statement.body` and `canonical_bytes`, and must never be written anew.
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
    ReleaseManifest,
    RoundReport,
    RunOutcome,
    SiteReport,
    TrainingPlan,
)
from compliance.statements.documents import Statement
from tests.compliance.federation import METRICS, Coordinator, Site, plan_body
from tests.compliance.running import RunningService

VECTORS: list[dict[str, str]] = json.loads(
    (Path(__file__).parent / "statements_1.json").read_text(encoding="utf-8")
)
READERS: dict[str, type[Statement]] = {
    f"fiduciary.{kind.kind}/1": kind
    for kind in (TrainingPlan, SiteReport, RoundReport, RunOutcome, ReleaseManifest)
}
FIRST: dict[str, dict[str, Any]] = {}
for vector in VECTORS:
    body = json.loads(vector["statement"])
    FIRST.setdefault(body["format"], body)


def read(body: dict[str, Any]) -> Statement:
    return READERS[body["format"].replace("/2", "/1")].from_body(body)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["digest"][7:15])
def test_a_first_statement_is_read_and_written_byte_for_byte(vector: dict[str, str]) -> None:
    body = json.loads(vector["statement"])
    written = canonical_bytes(read(body).body())
    assert written.decode() == vector["statement"]
    assert digest(written) == vector["digest"]


def test_every_statement_with_two_formats_has_a_vector() -> None:
    assert set(FIRST) == set(READERS)
    for name, kind in READERS.items():
        assert kind.model_fields["format"].default == name.replace("/1", "/2")


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
    latest = name.replace("/1", "/2")
    assert read({**FIRST[name], "format": latest}).body() == {**FIRST[name], "format": latest}


@pytest.mark.parametrize("name", sorted(READERS))
def test_a_format_of_the_future_is_refused(name: str) -> None:
    with pytest.raises(MalformedInput, match="format: "):
        READERS[name].from_body({**FIRST[name], "format": name.replace("/1", "/3")})


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
