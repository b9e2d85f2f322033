"""The guard: one row for every rule by which a site refuses a plan."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from audit.errors import NotFound
from client.budget import Cost
from client.dataset_rules import DatasetFacts
from client.evidence import fetch_evidence
from client.findings import Finding
from client.guard import (
    Allowed,
    Membership,
    Refused,
    SiteFacts,
    Verdict,
    check_evidence,
    check_site,
    decide,
)
from client.vault import Content
from compliance.statements import DeidentificationFigures
from tests.client.site.counterparts import FakeCompliance
from tests.client.site.documents import (
    LABELS,
    PURPOSE,
    TASKS,
    ZERO_DIGEST,
    failures,
    make_plan,
    make_policy,
    submit,
)

# --- the site's own rules -------------------------------------------------------------------------


def make_facts(**changes: Any) -> SiteFacts:
    """A site that allows `make_plan`."""
    facts: dict[str, Any] = {
        "policy": make_policy(),
        "datasets": (
            DatasetFacts("notes", frozenset(LABELS), frozenset({PURPOSE}), "public-task"),
        ),
        "count_subjects": lambda _names: 24,
        "base_model_digest": ZERO_DIGEST,
        "base_model_problem": "",
        "cost_of": lambda _reservation, _delta: Cost(
            Decimal(3), Decimal(3), Decimal(3), reserved=False
        ),
        "now": datetime(2026, 11, 26, tzinfo=UTC),
        **changes,
    }
    return SiteFacts(**facts)


def dataset(**changes: Any) -> DatasetFacts:
    return replace(make_facts().datasets[0], **changes)


def judge(facts: SiteFacts, **plan_changes: Any) -> tuple[Finding, ...]:
    return check_site("sha256:" + "5" * 64, make_plan(**plan_changes), facts)[0]


def test_a_site_that_agrees_allows_every_rule() -> None:
    assert failures(judge(make_facts())) == []


def test_rows_on_the_plans_basis_are_enough_for_a_dataset_on_another() -> None:
    def legal(**changes: Any) -> bool:
        facts = make_facts(datasets=(dataset(**changes),))
        return "dataset-legal-basis" not in failures(judge(facts, legal_basis="public-task"))

    assert legal(legal_basis="consent", row_bases=frozenset({"public-task"}))
    assert not legal(legal_basis="consent", row_bases=frozenset({"contract"}))


def limited_to(max_population: int) -> dict[str, Any]:
    return {"batch_limit": {"subjects": 5, "max_population": max_population}}


def _no_ledger(*_: object) -> Cost:
    raise NotFound("the privacy ledger is missing", fix="restore it")


@pytest.mark.parametrize(
    ("rule", "facts", "plan"),
    [
        ("purpose", {"policy": make_policy(purposes=["billing"])}, {}),
        ("task", {"policy": make_policy(tasks=[])}, {}),
        ("base-model-allowed", {"policy": make_policy(base_models=["any-embedded"])}, {}),
        ("epsilon-per-plan", {"policy": make_policy(max_epsilon_per_plan="5")}, {}),
        ("delta", {"policy": make_policy(delta="0.000001")}, {}),
        ("dataset-purpose", {"datasets": ()}, {}),
        ("dataset-purpose", {"datasets": (dataset(purposes=frozenset()),)}, {}),
        ("dataset-legal-basis", {}, {"legal_basis": "consent"}),
        ("dataset-legal-basis", {"datasets": (dataset(legal_basis=""),)}, {}),
        ("dataset-labels", {"datasets": (dataset(labels=frozenset({"urgent", "other"})),)}, {}),
        ("dataset-labels", {}, {"labels": ["urgent", "later"]}),
        ("dataset-content", {"datasets": (dataset(content="language"),)}, {}),
        ("batch-limit", {}, {"format": "fiduciary.plan/2", "phase": limited_to(23)}),
        ("dataset-subjects", {"count_subjects": lambda _names: 9}, {}),
        ("dataset-subjects", {}, {"minimum_subjects": 25}),
        ("dataset-subjects", {"policy": make_policy(minimum_subjects=25)}, {}),
        ("base-model-present", {"base_model_digest": None}, {}),
        ("base-model-present", {"base_model_digest": "sha256:" + "1" * 64}, {}),
        (
            "budget",
            {"cost_of": lambda *_: Cost(Decimal("8.1"), Decimal("8.1"), Decimal("8.1"), False)},
            {},
        ),
        (
            "budget",
            {"cost_of": lambda *_: Cost(Decimal(3), Decimal(3), Decimal("10.1"), False)},
            {},
        ),
        ("budget", {"cost_of": _no_ledger}, {}),
        (
            "budget-period",
            {
                "policy": make_policy(max_epsilon_per_period="9"),
                "cost_of": lambda *_: Cost(
                    Decimal(3), Decimal(3), Decimal(3), False, period=Decimal("9.1")
                ),
            },
            {},
        ),
        ("secure-aggregation", {"policy": make_policy(require_secure_aggregation=True)}, {}),
        (
            "distributed-noise",
            {},
            {
                "format": "fiduciary.plan/3",
                "secure_aggregation": True,
                "quorum": 2,
                "phase": {"steps_per_round": 1},
                "privacy": {"noise_sites": 2},
            },
        ),
    ],
)
def test_each_rule_of_the_site_refuses_alone(
    rule: str, facts: dict[str, Any], plan: dict[str, Any]
) -> None:
    findings = judge(make_facts(**facts), **plan)
    assert failures(findings) == [rule]
    assert all(finding.fix for finding in findings if not finding.passed)


def test_both_limits_of_the_budget_are_told_of_together() -> None:
    facts = make_facts(
        policy=make_policy(max_epsilon_per_period="9"),
        cost_of=lambda *_: Cost(Decimal(3), Decimal(3), Decimal(11), False, period=Decimal("9.1")),
    )
    findings = judge(facts)
    assert failures(findings) == ["budget", "budget-period"]
    told = " ".join(finding.detail for finding in findings if not finding.passed)
    assert "within 30 days" in told
    assert "9.1" not in told, "what other plans cost is not for this plan's author to know"


def test_the_period_that_allows_a_plan_is_named() -> None:
    policy = make_policy(max_epsilon_per_period="9")
    cost = Cost(Decimal(3), Decimal(3), Decimal(3), False, period=Decimal(3))
    findings = {f.rule: f for f in judge(make_facts(policy=policy, cost_of=lambda *_: cost))}
    assert findings["budget-period"].passed
    assert "limit of 9 within 30 days" in findings["budget-period"].detail
    plain = {finding.rule: finding for finding in judge(make_facts())}
    assert "no limit within a period" in plain["budget-period"].detail


def test_hours_never_refuse_a_plan() -> None:
    """Whatever the time is: a window of one minute a day."""
    policy = make_policy(training_hours=["03:00-03:01"])
    findings = judge(make_facts(policy=policy))
    assert failures(findings) == []
    assert "03:00-03:01" in {f.rule: f.detail for f in findings}["training-hours"]


FIGURES = DeidentificationFigures(
    method="evaluation",
    recall=Decimal("0.99"),
    recall_at_least=Decimal("0.95"),
    leak_share=Decimal("0.01"),
    leak_share_at_most=Decimal("0.05"),
    measured_at="2026-11-01T00:00:00Z",
)


@pytest.mark.parametrize(
    ("measured", "plan", "policy", "says"),
    [
        ((), {}, {}, ""),
        ((), {"minimum_recall": "0.95"}, {}, "the plan asks .* notes: it was not measured"),
        ((FIGURES,), {"minimum_recall": "0.95"}, {}, ""),
        ((FIGURES,), {"minimum_recall": "0.96"}, {}, "the plan asks .* at least 0.95, 0.96 is"),
        ((FIGURES,), {"minimum_recall": "0.9", "measured": "review"}, {}, "measured by review"),
        ((FIGURES,), {"maximum_leak_share": "0.04"}, {}, "at most 0.05 of texts with a leak"),
        ((), {}, {"minimum_deidentification_recall": "0.5"}, "the policy asks .* not measured"),
        ((FIGURES,), {}, {"minimum_deidentification_recall": "0.95"}, ""),
        (
            (FIGURES,),
            {},
            {"maximum_deidentification_leak_share": "0.01"},
            "the policy asks .* 0.05",
        ),
        (
            (FIGURES,),
            {},
            {
                "minimum_deidentification_recall": "0.5",
                "deidentification_measured_within_days": 24,
            },
            "within 24 days",
        ),
    ],
)
def test_a_plan_is_refused_where_deidentification_is_not_measured_as_asked(
    measured: tuple[DeidentificationFigures, ...],
    plan: dict[str, Any],
    policy: dict[str, Any],
    says: str,
) -> None:
    asked = {"format": "fiduciary.plan/4", "deidentification": plan} if plan else {}
    facts = make_facts(datasets=(dataset(measured=measured),), policy=make_policy(**policy))
    findings = judge(facts, **asked)
    assert failures(findings) == ["deidentification-measured"] * bool(says)
    found = next(each for each in findings if each.rule == "deidentification-measured")
    assert re.search(says, found.detail)
    assert not says or "client deidentify evaluate" in found.fix


def test_nothing_is_asked_of_the_deidentification_of_tables() -> None:
    policy = make_policy(tasks=["tabular-classification"], minimum_deidentification_recall="0.9")
    facts = make_facts(datasets=(dataset(content="table"),), policy=policy)
    assert failures(judge(facts, **TASKS["table"])) == []


def test_a_second_dataset_that_does_not_fit_refuses_the_plan() -> None:
    other = dataset(name="older", legal_basis="consent")
    findings = judge(make_facts(datasets=(dataset(), other)))
    assert failures(findings) == ["dataset-legal-basis"]
    assert "older" in next(f.detail for f in findings if not f.passed)


def test_a_dataset_for_another_purpose_is_left_out() -> None:
    other = dataset(name="billing", purposes=frozenset({"billing"}), labels=frozenset({"x"}))
    findings, terms = check_site(ZERO_DIGEST, make_plan(), make_facts(datasets=(dataset(), other)))
    assert failures(findings) == []
    assert terms.reservation.datasets == ("notes",)


@pytest.mark.parametrize("content", TASKS)
def test_a_task_uses_the_datasets_of_its_kind_and_leaves_the_others(content: Content) -> None:
    datasets = tuple(
        dataset(name=kind, content=kind, labels=frozenset(() if kind == "language" else LABELS))
        for kind in TASKS
    )
    policy = make_policy(tasks=[TASKS[content]["task"]])
    plan = make_plan(**TASKS[content])
    findings, terms = check_site(ZERO_DIGEST, plan, make_facts(datasets=datasets, policy=policy))
    assert failures(findings) == []
    assert terms.reservation.datasets == (content,)
    others = tuple(one for one in datasets if one.content != content)
    findings, _ = check_site(ZERO_DIGEST, plan, make_facts(datasets=others, policy=policy))
    assert "dataset-content" in failures(findings)
    fix = next(finding.fix for finding in findings if finding.rule == "dataset-content")
    assert f"--kind {content}" in fix


def test_no_span_carries_the_label_of_what_is_outside() -> None:
    for labels, refused in ((["SIGN"], True), (["urgent"], False), (["O"], True)):
        facts = make_facts(
            policy=make_policy(tasks=["token-classification"]),
            datasets=(dataset(content="spans", labels=frozenset(labels)),),
        )
        assert failures(judge(facts, **TASKS["spans"])) == ["dataset-labels"] * refused


def test_a_batch_limit_for_sites_as_large_as_this_one_is_no_objection() -> None:
    plan = {"format": "fiduciary.plan/2", "phase": limited_to(24)}
    assert failures(judge(make_facts(), **plan)) == []
    told = [f for f in judge(make_facts(), **plan) if f.rule == "batch-limit"]
    assert len(told) == 1
    assert "24" in told[0].detail, "the plan's own number"


def test_as_many_subjects_as_are_required_are_enough_and_the_larger_demand_counts() -> None:
    for policy, plan, refused in ((24, 1, False), (25, 1, True), (1, 25, True), (24, 24, False)):
        facts = make_facts(policy=make_policy(minimum_subjects=policy))
        found = failures(judge(facts, minimum_subjects=plan))
        assert found == ["dataset-subjects"] * refused


def test_a_reserved_plan_is_not_charged_twice() -> None:
    """Its own reservation fills the budget: that is no reason to refuse its next round."""
    cost = Cost(Decimal(3), Decimal(3), Decimal("10.1"), reserved=True)
    assert failures(judge(make_facts(cost_of=lambda *_: cost))) == []


def test_findings_do_not_tell_the_sites_secrets() -> None:
    """They leave the site inside a refusal."""
    facts = make_facts(
        datasets=(dataset(labels=frozenset({"hiv-positive", "urgent"})),),
        count_subjects=lambda _names: 7,
        cost_of=lambda *_: Cost(Decimal(3), Decimal(3), Decimal("13.37"), reserved=False),
    )
    told = " ".join(finding.detail + finding.fix for finding in judge(facts))
    for secret in ("hiv-positive", " 7 ", "13.37"):
        assert secret not in told


# --- the verdict ----------------------------------------------------------------------------------


def verdict_on(compliance: FakeCompliance, member: Membership, facts: SiteFacts) -> Verdict:
    plan_id = submit(compliance)
    evidence, proven = check_evidence(plan_id, fetch_evidence(compliance, plan_id, 0), member, None)
    findings, terms = check_site(plan_id, make_plan(), facts)
    return decide(evidence, proven, findings, terms)


def test_allowed_only_when_everybody_agrees(compliance: FakeCompliance, member: Membership) -> None:
    verdict = verdict_on(compliance, member, make_facts())
    assert isinstance(verdict, Allowed)
    assert verdict.plan == make_plan()
    assert verdict.terms.reservation.datasets == ("notes",)
    assert verdict.terms.limits.max_epsilon_total == 10


def test_the_first_objection_is_the_code(compliance: FakeCompliance, member: Membership) -> None:
    facts = make_facts(policy=make_policy(purposes=[]), base_model_digest=None)
    verdict = verdict_on(compliance, member, facts)
    assert isinstance(verdict, Refused)
    assert verdict.code == "purpose"
    assert {"purpose", "base-model-present"} <= set(failures(verdict.findings))


def test_half_a_check_is_no_consent(compliance: FakeCompliance, member: Membership) -> None:
    plan_id = submit(compliance)
    evidence, proven = check_evidence(plan_id, fetch_evidence(compliance, plan_id, 0), member, None)
    findings, terms = check_site(plan_id, make_plan(), make_facts())
    for arguments in (
        (evidence, proven, (), None),
        (evidence, proven, (), terms),
        (evidence, None, findings, terms),
        ((), None, (), None),
    ):
        assert isinstance(decide(*arguments), Refused)
