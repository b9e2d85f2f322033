"""What a release must keep before anybody may approve it. Pure.

* Every gate is judged, also after one has failed: an officer sees all that is wrong at once.
* A gate rests on signed statements; it names the log entries that it was judged by.
* `not-asked` is said only where the plan asks for nothing; what was asked and is missing
  has failed.
* Thresholds are data (`release_gates.toml`, an operator's `release-gates.toml`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Final, Generic, Literal, TypeVar

from pydantic import Field

from audit.errors import MalformedInput
from audit.words import count_of
from compliance.rules.deidentification import in_words, shortfall
from compliance.rules.ruling import ALLOWED, Refused, Ruling
from compliance.statements import (
    TEXT_TASKS,
    DeidentificationDemand,
    Document,
    Fraction,
    ReleaseManifest,
    RoundReport,
    RunOutcome,
    SiteReport,
    TrainingPlan,
)
from compliance.toml_file import MAX_SETTINGS_BYTES, check_table, parse_table, parse_toml

SETTINGS_FILE: Final = "release-gates.toml"

_Said = TypeVar("_Said", bound=Document)

Verdict = Literal["passed", "failed", "not-asked"]
GateName = Literal[
    "epsilon",
    "site-reports",
    "metrics",
    "privacy-audit",
    "deidentification",
    "fairness",
    "erasure",
    "safetensors",
]

WEIGHTS_SUFFIX: Final = ".safetensors"
INERT_SUFFIXES: Final = (WEIGHTS_SUFFIX, ".json", ".jsonl", ".md", ".pem", ".sig", ".txt")
"""Weights that cannot run code, and text. Whatever else comes is refused, known or not."""


class Fairness(Document):
    """Thresholds of the fairness gate."""

    max_accuracy_gap: Annotated[Fraction, Field(ge=0, le=1)]
    unmeasured_groups: Literal["refuse", "accept"]


class Deidentification(Document):
    """Thresholds of the de-identification gate, beside what a plan asks."""

    minimum_recall: Annotated[Fraction, Field(ge=0, le=1)]
    maximum_leak_share: Annotated[Fraction, Field(ge=0, le=1)]
    not_older_than_days: Annotated[int, Field(ge=1, le=36_500)]
    unmeasured: Literal["refuse", "accept"]


class Thresholds(Document):
    """`release_gates.toml`, which explains the fields."""

    format: Literal["fiduciary.release-gates/1"]
    version: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    fairness: Fairness
    deidentification: Deidentification


@dataclass(frozen=True)
class Logged(Generic[_Said]):
    """A statement and the position of its log entry."""

    says: _Said
    position: int


@dataclass(frozen=True)
class OpenErasure:
    """Why a data subject's erasure still concerns a release. Never who it is."""

    why: str
    position: int


@dataclass(frozen=True)
class Evidence:
    """All that the gates look at.

    Attributes:
        manifest: The release.
        plan: The plan that it came from.
        outcome: How the plan's run ended; None where that was not reported.
        rounds: Every round report, oldest first; a round's last report counts.
        reports: Every report of a site.
        open_erasures: Erasures that nobody decided about for this release.
    """

    manifest: Logged[ReleaseManifest]
    plan: Logged[TrainingPlan]
    outcome: Logged[RunOutcome] | None
    rounds: Sequence[Logged[RoundReport]] = ()
    reports: Sequence[Logged[SiteReport]] = ()
    open_erasures: Sequence[OpenErasure] = ()


MAX_POSITIONS: Final = 500
"""A thousand sites in a hundred rounds leave more reports than anybody reads in one answer."""


@dataclass(frozen=True)
class Gate:
    """One gate's verdict; `positions` are the log entries that it rests on, at most so many."""

    name: GateName
    verdict: Verdict
    why: str
    positions: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", self.positions[:MAX_POSITIONS])


def judge(evidence: Evidence, thresholds: Thresholds) -> tuple[Gate, ...]:
    """Every gate's verdict on a release."""
    return (
        _epsilon(evidence),
        _site_reports(evidence),
        _metrics(evidence),
        _privacy_audit(evidence),
        _deidentification(evidence, thresholds.deidentification),
        _fairness(evidence, thresholds.fairness),
        _erasure(evidence),
        _safetensors(evidence),
    )


def may_pass(gates: Sequence[Gate]) -> Ruling:
    """Whether a release with these verdicts may be approved."""
    failed = [gate for gate in gates if gate.verdict == "failed"]
    if not failed:
        return ALLOWED
    return Refused(
        "gate-failed",
        "; ".join(f"{gate.name}: {gate.why}" for gate in failed),
        "see every gate: `compliance gates ID`",
        "conflict",
    )


def _epsilon(evidence: Evidence) -> Gate:
    manifest, plan = evidence.manifest.says, evidence.plan.says
    promised, spent = plan.privacy.epsilon, dict(manifest.epsilon_by_site)
    positions = [evidence.plan.position, evidence.manifest.position]
    for report in evidence.reports:
        site, reported = report.says.site, report.says.epsilon_spent
        if reported > spent.get(site, Decimal(-1)):
            spent[site] = reported
            positions.append(report.position)
    over = {site: value for site, value in spent.items() if value > promised}
    told = ", ".join(f"{site} {value}" for site, value in sorted((over or spent).items()))
    if over:
        return Gate("epsilon", "failed", f"over the plan's ε {promised}: {told}", tuple(positions))
    if not spent:
        return Gate("epsilon", "failed", "it is not said what any site spent", tuple(positions))
    return Gate("epsilon", "passed", f"within the plan's ε {promised}: {told}", tuple(positions))


def _site_reports(evidence: Evidence) -> Gate:
    last = {item.says.round: item for item in evidence.rounds}
    expected = {(n, site) for n, item in last.items() for site in item.says.participants}
    found = {(item.says.round, item.says.site): item.position for item in evidence.reports}
    missing = sorted(expected - set(found))
    rounds = evidence.plan.says.rounds
    unreported = sorted(set(range(rounds)) - set(last))
    positions = tuple(sorted({*(item.position for item in last.values()), *found.values()}))
    if unreported or not expected:
        named = ", ".join(str(n + 1) for n in unreported) or "all"
        return Gate("site-reports", "failed", f"no report of rounds: {named}", positions)
    if missing:
        told = ", ".join(f"{site} of round {n + 1}" for n, site in missing[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        return Gate("site-reports", "failed", f"no report by {told}{more}", positions)
    return Gate(
        "site-reports",
        "passed",
        f"all {count_of(len(expected), 'report')} of {count_of(rounds, 'round')}",
        positions,
    )


def _metrics(evidence: Evidence) -> Gate:
    stated, outcome = evidence.manifest.says.metrics, evidence.outcome
    positions = [evidence.manifest.position]
    if outcome is None:
        return Gate("metrics", "failed", "the run's outcome was not reported", tuple(positions))
    positions.append(outcome.position)
    if not stated.examples:
        return Gate("metrics", "failed", "measured on no held-out example", tuple(positions))
    if outcome.says.metrics != stated:
        return Gate("metrics", "failed", "not those of the run's outcome", tuple(positions))
    why = f"{stated.in_words()}, on {count_of(stated.examples, 'held-out example')}"
    return Gate("metrics", "passed", why, tuple(positions))


def _privacy_audit(evidence: Evidence) -> Gate:
    plan = evidence.plan.says
    if not plan.privacy_audit:
        return Gate("privacy-audit", "not-asked", "the plan asks for no audit by canaries")
    found: dict[str, Logged[SiteReport]] = {}
    for report in evidence.reports:
        bound, site = report.says.audited_epsilon, report.says.site
        known = found.get(site)
        if bound is not None and (known is None or bound > (known.says.audited_epsilon or 0)):
            found[site] = report
    trained = {site for item in evidence.rounds for site in item.says.participants}
    positions = tuple(sorted(item.position for item in found.values()))
    missing = ", ".join(sorted(trained - set(found)))
    if missing or not trained:
        return Gate(
            "privacy-audit",
            "failed",
            f"no audit of its own trainer by {missing or 'any'}",
            positions,
        )
    told = {site: item.says.audited_epsilon or Decimal(0) for site, item in sorted(found.items())}
    listed = ", ".join(f"{site} {bound}" for site, bound in told.items())
    if max(told.values()) > plan.privacy.epsilon:
        why = f"attacks measured more than the plan's ε {plan.privacy.epsilon}: {listed}"
        return Gate("privacy-audit", "failed", why, positions)
    return Gate(
        "privacy-audit",
        "passed",
        f"attacks measured at least ε {listed}; promised at most {plan.privacy.epsilon}",
        positions,
    )


def _deidentification(evidence: Evidence, limits: Deidentification) -> Gate:
    plan = evidence.plan.says
    if plan.task not in TEXT_TASKS:
        return Gate("deidentification", "not-asked", f"no text is searched for {plan.task}")
    in_order = sorted(evidence.reports, key=lambda item: (item.says.round, item.position))
    last = {item.says.site: item for item in in_order if item.says.activity == "train"}
    positions = tuple(sorted(item.position for item in last.values()))
    asked = plan.deidentification is not None or limits.unmeasured == "refuse"
    if not asked and not any(item.says.deidentification for item in last.values()):
        why = "nothing is asked of the recall of de-identification, and no site measured it"
        return Gate("deidentification", "not-asked", why, positions)
    trained = {site for item in evidence.rounds for site in item.says.participants}
    wrong = [f"{site}: did not report" for site in sorted(trained - set(last)) if asked]
    for site, item in sorted(last.items()):
        reason = _recall_lacks(item.says, plan.deidentification, limits)
        wrong += [f"{site}: {reason}"] if reason else []
    if wrong or not last:
        why = "; ".join(wrong) or "no site reported"
        return Gate("deidentification", "failed", why, positions)
    told = "; ".join(
        f"{site}: {in_words(item.says.deidentification)}" for site, item in sorted(last.items())
    )
    return Gate("deidentification", "passed", f"recall of identifiers at {told}", positions)


def _recall_lacks(
    report: SiteReport, asked: DeidentificationDemand | None, limits: Deidentification
) -> str:
    """What a site's figures lack of what the plan, then the thresholds, ask; empty: nothing."""
    figures, when = report.deidentification, datetime.fromisoformat(report.reported_at)
    reason = "" if asked is None else shortfall(asked, figures, when)
    if reason or not (figures or limits.unmeasured == "refuse"):
        return reason
    return shortfall(
        DeidentificationDemand(
            minimum_recall=limits.minimum_recall,
            maximum_leak_share=limits.maximum_leak_share,
            not_older_than_days=limits.not_older_than_days,
        ),
        figures,
        when,
    )


def _fairness(evidence: Evidence, limits: Fairness) -> Gate:
    groups, position = evidence.plan.says.groups, evidence.manifest.position
    if not groups:
        return Gate("fairness", "not-asked", "the plan declares no groups")
    measured, everybody = evidence.manifest.says.evaluation, evidence.manifest.says.metrics.accuracy
    told = {} if measured is None else {each.group: each for each in measured.groups}
    wrong: list[str] = []
    notes: list[str] = []
    for group in groups:
        each = told.get(group)
        if each is None:
            (wrong if limits.unmeasured_groups == "refuse" else notes).append(
                f"{group}: not measured, too few held-out records"
            )
            continue
        gap = everybody - each.accuracy
        figure = (
            f"{group}: accuracy {each.accuracy} (95 % interval {each.low} to {each.high}, "
            f"{count_of(each.examples, 'example')}), {_gap_in_words(gap)} everybody's {everybody}"
        )
        if gap > limits.max_accuracy_gap:
            wrong.append(f"{figure}; at most {limits.max_accuracy_gap} below is allowed")
        elif everybody - each.low > limits.max_accuracy_gap:
            notes.append(f"{figure}; its interval reaches over the gap allowed")
        else:
            notes.append(figure)
    return Gate("fairness", "failed" if wrong else "passed", "; ".join(wrong or notes), (position,))


def _gap_in_words(gap: Decimal) -> str:
    return f"{gap} below" if gap > 0 else f"{-gap} above"


def _erasure(evidence: Evidence) -> Gate:
    found = evidence.open_erasures
    if not found:
        return Gate("erasure", "passed", "no erasure waits for a decision about this release")
    reasons = ", ".join(sorted({case.why for case in found}))
    positions = tuple(sorted({case.position for case in found}))
    return Gate("erasure", "failed", f"{len(found)} open: {reasons}", positions)


def _safetensors(evidence: Evidence) -> Gate:
    position = (evidence.manifest.position,)
    names = sorted(evidence.manifest.says.files)
    other = [name for name in names if not name.lower().endswith(INERT_SUFFIXES)]
    if other:
        return Gate(
            "safetensors", "failed", f"neither safetensors nor text: {', '.join(other)}", position
        )
    weights = [name for name in names if name.lower().endswith(WEIGHTS_SUFFIX)]
    if not weights:
        return Gate("safetensors", "failed", "there are no weights in it", position)
    return Gate("safetensors", "passed", f"weights are in {', '.join(weights)}", position)


# --- thresholds -----------------------------------------------------------------------------------


@cache
def default_thresholds() -> Thresholds:
    """The thresholds of this version of the product."""
    data = resources.files("compliance.rules").joinpath("release_gates.toml").read_bytes()
    return parse_toml(data, Thresholds, "release_gates.toml")


def read_thresholds(folder: Path) -> Thresholds:
    """The thresholds as the operator set them in a compliance folder.

    Raises:
        MalformedInput: When `release-gates.toml` cannot be read or holds what is not known.
    """
    try:
        with (folder / SETTINGS_FILE).open("rb") as file:
            data = file.read(MAX_SETTINGS_BYTES + 1)
    except FileNotFoundError:
        return default_thresholds()
    own = parse_table(data, SETTINGS_FILE)
    values = default_thresholds().model_dump(mode="json")
    if own.get("format") != values["format"]:
        raise MalformedInput(f'malformed {SETTINGS_FILE}: format is not "{values["format"]}"')
    for section in ("fairness", "deidentification"):
        stated = own.get(section, {})
        if isinstance(stated, dict):
            own[section] = {**values[section], **stated}
    return check_table({**values, **own}, Thresholds, SETTINGS_FILE)
