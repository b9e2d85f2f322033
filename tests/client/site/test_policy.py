"""The policy: default is refuse, every rule explains itself, and mistakes are named."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from audit.errors import MalformedInput, NotFound
from client.budget_period import Period
from client.drafts import draft_reservation, read_draft
from client.findings import Finding
from client.policy import (
    DEFAULT_POLICY,
    parse_policy,
    read_policy,
    write_default_policy,
)
from client.proposals import Proposal, check_hours, check_proposal
from compliance.statements import StartsFrom
from compliance.toml_file import MAX_SETTINGS_BYTES
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
    assert len(found) == 10


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
        ("secure-aggregation", {"require_secure_aggregation": True}, {}),
        ("distributed-noise", {}, {"distributed": True}),
    ],
)
def test_each_rule_refuses_alone(rule: str, policy: dict[str, Any], plan: dict[str, Any]) -> None:
    if plan.get("distributed"):
        plan = distributed()
    found = check_proposal(make_policy(**policy), Proposal.of(make_plan(**plan)))
    assert [name for name, passed in verdicts(found).items() if not passed] == [rule]
    refusal = next(finding for finding in found if not finding.passed)
    assert refusal.fix


def distributed(**changes: Any) -> dict[str, Any]:
    """Changes that make a plan whose noise is distributed over two sites."""
    return {
        "format": "fiduciary.plan/3",
        "secure_aggregation": True,
        "quorum": 2,
        "phase": {"steps_per_round": 1},
        "privacy": {"noise_sites": 2},
        **changes,
    }


def test_secure_aggregation_and_distributed_noise_pass_where_the_policy_says_so() -> None:
    policy = make_policy(require_secure_aggregation=True, allow_distributed_noise=True)
    found = check_proposal(policy, Proposal.of(make_plan(**distributed())))
    assert all(verdicts(found).values())
    told = {finding.rule: finding.detail for finding in found}
    assert "only sums over sites" in told["secure-aggregation"]
    assert "rests on 2 honest sites" in told["distributed-noise"]
    own = check_proposal(policy, Proposal.of(make_plan(**distributed(privacy={}))))
    assert "this site adds all the noise" in {f.rule: f.detail for f in own}["distributed-noise"]


def test_training_hours_decline_a_round_and_never_the_plan() -> None:
    policy = make_policy(training_hours=["22:00-06:00"], timezone="Europe/Berlin")
    found = check_proposal(policy, Proposal.of(make_plan()))
    assert verdicts(found)["training-hours"]
    assert "22:00-06:00 Europe/Berlin" in found[-1].detail
    day, night = datetime(2026, 11, 2, 12, tzinfo=UTC), datetime(2026, 11, 2, 23, tzinfo=UTC)
    closed = check_hours(policy, day)
    assert (closed.rule, closed.passed) == ("training-hours", False)
    assert "trains next from 2026-11-02T21:00Z" in closed.detail
    assert closed.fix
    assert check_hours(policy, night).passed
    assert check_hours(make_policy(), day).passed


def test_a_period_that_may_cost_as_much_as_everything_is_no_limit() -> None:
    assert make_policy().limits.period is None
    policy = make_policy(max_epsilon_per_period="9", period_days=90)
    assert policy.limits.period == Period(90, Decimal(9))


def test_a_plan_that_protects_records_needs_the_operators_word() -> None:
    plan = make_plan(privacy={"unit": "record"}, format="fiduciary.plan/2")
    found = check_proposal(make_policy(privacy_units=["subject", "record"]), Proposal.of(plan))
    assert all(verdicts(found).values())


LATER_KEYS = (
    "max_epsilon_per_period",
    "period_days",
    "require_secure_aggregation",
    "allow_distributed_noise",
    "training_hours",
    "timezone",
)
FOURTH_KEYS = (
    "minimum_deidentification_recall",
    "maximum_deidentification_leak_share",
    "deidentification_measured_within_days",
)


def without(text: str, keys: tuple[str, ...]) -> str:
    lines = text.splitlines()
    return "\n".join(line for line in lines if line.split(" = ")[0] not in keys)


THIRD_FORMAT = without(policy_toml(make_policy()), FOURTH_KEYS).replace(
    "fiduciary.policy/4", "fiduciary.policy/3"
)
SECOND_FORMAT = without(THIRD_FORMAT, LATER_KEYS).replace(
    "fiduciary.policy/3", "fiduciary.policy/2"
)
FIRST_FORMAT = SECOND_FORMAT.replace("fiduciary.policy/2", "fiduciary.policy/1").replace(
    'privacy_units = ["subject"]', 'require_unit = "subject"'
)


@pytest.mark.parametrize("text", [FIRST_FORMAT, SECOND_FORMAT], ids=["first", "second"])
def test_a_policy_of_an_earlier_format_is_what_it_was(text: str) -> None:
    """No new limit, no new consent: trains at any hour, and refuses distributed noise."""
    found = parse_policy(text.encode())
    assert found == make_policy(period_days=365)
    assert found.limits.period is None
    assert (found.require_secure_aggregation, found.allow_distributed_noise) == (False, False)
    assert found.training_hours == ("00:00-24:00",)


def test_a_policy_of_the_third_format_asks_nothing_of_deidentification() -> None:
    assert parse_policy(THIRD_FORMAT.encode()) == make_policy()
    assert make_policy().deidentification is None
    demand = make_policy(minimum_deidentification_recall="0.9").deidentification
    assert demand is not None
    assert (demand.minimum_recall, demand.maximum_leak_share) == (Decimal("0.9"), Decimal(1))
    for key in FOURTH_KEYS:
        with pytest.raises(MalformedInput, match=f"{key}: unknown field of earlier formats than"):
            parse_policy(f"{THIRD_FORMAT}\n{key} = 1\n".encode())


@pytest.mark.parametrize("key", LATER_KEYS)
@pytest.mark.parametrize("text", [FIRST_FORMAT, SECOND_FORMAT], ids=["first", "second"])
def test_an_earlier_format_cannot_say_what_came_later(text: str, key: str) -> None:
    (line,) = [
        line for line in policy_toml(make_policy()).splitlines() if line.startswith(f"{key} ")
    ]
    with pytest.raises(MalformedInput, match=f"{key}: unknown field of earlier formats"):
        parse_policy(f"{text}\n{line}\n".encode())


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
        ('format = "fiduciary.policy/5"', "format"),
        ("max_epsilon_per_period = 0", "max_epsilon_per_period: .*greater than 0"),
        ("max_epsilon_per_period = 11", "max_epsilon_per_period: 11 is more than max_epsilon_tot"),
        ("max_epsilon_per_period = 7", "max_epsilon_per_plan: 8 is more than max_epsilon_per_per"),
        ("max_epsilon_per_period = nan", "max_epsilon_per_period: "),
        ("period_days = 0", "period_days: "),
        ("period_days = 1.5", "period_days: "),
        ("period_days = true", "period_days: "),
        ('require_secure_aggregation = "yes"', "require_secure_aggregation: "),
        ("allow_distributed_noise = 1", "allow_distributed_noise: "),
        ("training_hours = []", "training_hours: "),
        ('training_hours = ["22-06"]', "training_hours.0: expected hours such as"),
        ('training_hours = ["25:00-26:00"]', "training_hours.0: expected hours such as"),
        ('training_hours = ["08:00-08:00"]', "training_hours.0: .* lasts no time"),
        ('training_hours = ["08:00-09:00", "08:00-09:00"]', "each value may appear once"),
        ('training_hours = "22:00-06:00"', "training_hours: "),
        ('timezone = "Europe/Atlantis"', "timezone: unknown time zone"),
        ('timezone = "../../etc/passwd"', "timezone: unknown time zone"),
        ('timezone = "Europe"', "timezone: unknown time zone"),
        ('timezone = ""', "timezone: unknown time zone"),
    ],
)
def test_a_mistake_is_named(change: str, problem: str) -> None:
    key = change.split(" = ")[0]
    lines = [
        line for line in policy_toml(make_policy()).splitlines() if not line.startswith(f"{key} ")
    ]
    with pytest.raises(MalformedInput, match=problem) as raised:
        parse_policy("\n".join([*lines, change]).encode())
    assert raised.value.fix


@pytest.mark.parametrize("key", sorted(make_policy().model_dump()))
def test_every_key_is_required(key: str) -> None:
    lines = [
        line for line in policy_toml(make_policy()).splitlines() if not line.startswith(f"{key} ")
    ]
    with pytest.raises(MalformedInput, match=f"malformed policy.toml: {key}"):
        parse_policy("\n".join(lines).encode())


@pytest.mark.parametrize("data", [b"\xff\xfe", b"#" * (MAX_SETTINGS_BYTES + 1)])
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


def test_a_draft_says_how_noise_and_updates_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(
        DRAFT.replace("[privacy]", "secure_aggregation = true\n[privacy]\nnoise_sites = 3")
    )
    proposal = read_draft(path, lambda _name: ZERO_DIGEST)
    assert (proposal.secure_aggregation, proposal.noise_sites) == (True, 3)
    assert not verdicts(check_proposal(make_policy(), proposal))["distributed-noise"]


def test_a_plan_and_a_draft_say_what_they_start_from(tmp_path: Path) -> None:
    earlier = make_plan()
    start = StartsFrom.after(ZERO_DIGEST, earlier, 20, ZERO_DIGEST).model_dump(mode="json")
    told = {
        finding.detail
        for proposal in (
            Proposal.of(earlier),
            Proposal.of(make_plan(format="fiduciary.plan/4", starts_from=start)),
        )
        for finding in check_proposal(make_policy(), proposal)
        if finding.rule == "start"
    }
    assert len(told) == 2
    assert any("had after 20 rounds" in detail for detail in told)
    assert "training starts from the base model" in told
    path = tmp_path / "plan.toml"
    section = '[starts_from]\nplan = "earlier"\nrounds = 20\n'
    path.write_text(DRAFT.replace('"routine"]', '"routine"]\nsites = ["north"]') + section)
    assert "what plan earlier had" in read_draft(path, lambda _name: ZERO_DIGEST).starts_from
    with pytest.raises(MalformedInput, match="what was left of plan earlier"):
        draft_reservation(path)


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
