"""The policy: default is refuse, every rule explains itself, and mistakes are named."""

from __future__ import annotations

import stat
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from audit.errors import MalformedInput, NotFound
from client.drafts import read_draft
from client.findings import Finding
from client.policy import (
    DEFAULT_POLICY,
    MAX_POLICY_BYTES,
    Proposal,
    check_proposal,
    parse_policy,
    read_policy,
    write_default_policy,
)
from tests.client.site.documents import ZERO_DIGEST, make_plan, make_policy, policy_toml


def verdicts(findings: tuple[Finding, ...]) -> dict[str, bool]:
    return {finding.rule: finding.passed for finding in findings}


def test_the_default_refuses_every_plan() -> None:
    policy = parse_policy(DEFAULT_POLICY.encode())
    found = check_proposal(policy, Proposal.of(make_plan()))
    assert not verdicts(found)["purpose"]
    assert 'purposes = ["triage"]' in found[0].fix


def test_the_default_explains_every_key() -> None:
    keys = [line.split(" = ")[0] for line in DEFAULT_POLICY.splitlines() if " = " in line]
    stated = [key for key in keys if not key.startswith("#")]
    assert set(stated) == set(make_policy().model_dump())
    for key in stated[1:]:
        before = DEFAULT_POLICY.split(f"\n{key} = ")[0]
        section = before.rsplit("\n\n", 1)[-1]
        assert "#" in section, f"{key} is not explained"


def test_a_plan_within_the_policy_passes_every_rule() -> None:
    found = check_proposal(make_policy(), Proposal.of(make_plan()))
    assert all(verdicts(found).values())
    assert len(found) == 6


@pytest.mark.parametrize(
    ("rule", "policy", "plan"),
    [
        ("purpose", {"purposes": []}, {}),
        ("purpose", {"purposes": ["billing"]}, {}),
        ("task", {"tasks": []}, {}),
        ("base-model-allowed", {"base_models": []}, {}),
        ("base-model-allowed", {"base_models": ["any-embedded"]}, {}),
        ("base-model-allowed", {"base_models": ["sha256:" + "1" * 64]}, {}),
        ("epsilon-per-plan", {"max_epsilon_per_plan": "7.9"}, {}),
        ("epsilon-per-plan", {}, {"privacy": {"epsilon": "8.0001"}}),
        ("privacy-unit", {}, {"privacy": {"unit": "record"}, "format": "fiduciary.plan/2"}),
        ("privacy-unit", {"privacy_units": ["record"]}, {}),
        ("delta", {"delta": "0.000001"}, {}),
        ("delta", {}, {"privacy": {"delta": "0.0001"}}),
    ],
)
def test_each_rule_refuses_alone(rule: str, policy: dict[str, Any], plan: dict[str, Any]) -> None:
    found = check_proposal(make_policy(**policy), Proposal.of(make_plan(**plan)))
    assert [name for name, passed in verdicts(found).items() if not passed] == [rule]
    refusal = next(finding for finding in found if not finding.passed)
    assert refusal.fix


def test_a_plan_that_protects_records_needs_the_operators_word() -> None:
    plan = make_plan(privacy={"unit": "record"}, format="fiduciary.plan/2")
    found = check_proposal(make_policy(privacy_units=["subject", "record"]), Proposal.of(plan))
    assert all(verdicts(found).values())


FIRST_FORMAT = (
    policy_toml(make_policy())
    .replace("fiduciary.policy/2", "fiduciary.policy/1")
    .replace('privacy_units = ["subject"]', 'require_unit = "subject"')
)


def test_a_policy_of_the_first_format_is_what_it_was() -> None:
    assert parse_policy(FIRST_FORMAT.encode()) == make_policy()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('require_unit = "subject"', 'require_unit = "record"'),
        ('require_unit = "subject"', 'privacy_units = ["record"]'),
        ('require_unit = "subject"', 'require_unit = "subject"\nprivacy_units = ["subject"]'),
    ],
)
def test_the_first_format_cannot_say_what_it_could_not(old: str, new: str) -> None:
    with pytest.raises(MalformedInput, match="require_unit"):
        parse_policy(FIRST_FORMAT.replace(old, new).encode())


def test_any_embedded_allows_embedded_models_only() -> None:
    policy = make_policy(base_models=["any-embedded"])
    model = {"name": "embedded:all-MiniLM-L6-v2", "digest": "sha256:" + "7" * 64}
    assert all(verdicts(check_proposal(policy, Proposal.of(make_plan(base_model=model)))).values())


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("purposes = [", "Invalid value|Unclosed|line"),
        ("surprise = 1", "surprise: unknown field"),
        ('purposes = ["UPPER"]', "purposes.0"),
        ('purposes = ["a", "a"]', "each value may appear once"),
        ('tasks = ["make-coffee"]', "tasks.0"),
        ('base_models = ["sha256:zz"]', "base_models.0"),
        ("max_epsilon_total = 0", "max_epsilon_total: .*greater than 0"),
        ("max_epsilon_total = 4", "max_epsilon_per_plan: 8 is more than max_epsilon_total 4"),
        ("max_epsilon_total = true", "max_epsilon_total: expected a number"),
        ("max_epsilon_total = nan", "max_epsilon_total: "),
        ("max_epsilon_total = inf", "max_epsilon_total: "),
        ("delta = 1.5", "delta: "),
        ('privacy_units = ["household"]', "privacy_units"),
        ("privacy_units = []", "privacy_units"),
        ('require_unit = "subject"', "require_unit: unknown field"),
        ("minimum_subjects = 0", "minimum_subjects"),
        ("minimum_subjects = 10.5", "minimum_subjects"),
        ('format = "fiduciary.policy/3"', "format"),
    ],
)
def test_a_mistake_is_named(change: str, problem: str) -> None:
    key = change.split(" = ")[0]
    lines = [line for line in policy_toml(make_policy()).splitlines() if not line.startswith(key)]
    with pytest.raises(MalformedInput, match=problem) as raised:
        parse_policy("\n".join([*lines, change]).encode())
    assert raised.value.fix


@pytest.mark.parametrize("key", sorted(make_policy().model_dump()))
def test_every_key_is_required(key: str) -> None:
    lines = [line for line in policy_toml(make_policy()).splitlines() if not line.startswith(key)]
    with pytest.raises(MalformedInput, match=f"malformed policy.toml: {key}"):
        parse_policy("\n".join(lines).encode())


@pytest.mark.parametrize("data", [b"\xff\xfe", b"#" * (MAX_POLICY_BYTES + 1)])
def test_what_is_no_text_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedInput, match=r"malformed policy\.toml"):
        parse_policy(data)


def test_numbers_keep_their_digits() -> None:
    text = policy_toml(make_policy()).replace('delta = "0.00001"', "delta = 1e-5")
    assert parse_policy(text.encode()).delta == Decimal("0.00001")


def test_a_missing_policy_refuses_everything(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="every plan is refused"):
        read_policy(tmp_path / "policy.toml")


def test_an_existing_policy_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    write_default_policy(path)
    assert path.read_text() == DEFAULT_POLICY
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text(policy_toml(make_policy()))
    write_default_policy(path)
    assert read_policy(path) == make_policy()


# --- a coordinator's draft ------------------------------------------------------------------------

DRAFT = """
[plan]
name = "triage"
purpose = "triage"
base_model = "tiny"
labels = ["urgent", "routine"]
[privacy]
epsilon = 3.5
delta = 1e-6
nominal_subjects = 20
"""


def test_a_draft_is_asked_like_a_plan(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(DRAFT)
    proposal = read_draft(path, lambda _name: ZERO_DIGEST)
    assert proposal == Proposal(
        "triage",
        "text-classification",
        "tiny",
        ZERO_DIGEST,
        "subject",
        Decimal("3.5"),
        Decimal("0.000001"),
    )
    assert all(verdicts(check_proposal(make_policy(), proposal)).values())


def test_a_draft_of_a_model_that_is_not_here_is_not_allowed_by_name(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(DRAFT)
    found = check_proposal(make_policy(), read_draft(path, lambda _name: None))
    assert not verdicts(found)["base-model-allowed"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[plan", "not TOML"),
        ("[plan]\npurpose = 'x'", "privacy"),
        (DRAFT.replace("epsilon = 3.5", "epsilon = 0"), "epsilon"),
        (DRAFT.replace("epsilon = 3.5", "epsilon = -1"), "epsilon"),
        (DRAFT.replace("epsilon = 3.5", ""), "privacy.epsilon"),
    ],
)
def test_a_broken_draft_is_named(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(MalformedInput, match=problem):
        read_draft(path, lambda _name: None)
