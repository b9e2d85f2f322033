"""What must hold after chaos, read from the logs, the ledgers and the released model."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from compliance.statements import RoundReport, SiteReport
from tests.chaos.hospitals import EPSILON, SITES, Hospitals

ACCURACY_TOLERANCE = 0.05
"""By how much the disturbed model may be less accurate. About 180 people are held out, so chance
alone makes 0.03 of standard deviation between two models; a disturbed one misses rounds, too."""


@dataclass(frozen=True)
class Finding:
    """One thing that must hold."""

    name: str
    holds: bool
    seen: str


def reckon(
    hospitals: Hospitals, plan_id: str, state: dict[str, Any], calm: dict[str, Any]
) -> list[Finding]:
    """All findings about one disturbed run.

    Args:
        hospitals: The federation, running.
        plan_id: The plan that was disturbed.
        state: How its run ended.
        calm: How a run of the same plan ended that was not.
    """
    evidence = hospitals.evidence(plan_id)
    rounds = [RoundReport.from_body(each.body) for each in evidence.rounds]
    reports = [SiteReport.from_body(each.body) for each in evidence.reports]
    missed = sum(not each.participants for each in rounds)
    numbers = Counter(each.round for each in rounds)
    trained = {(each.site, each.round) for each in reports if each.activity == "train"}
    secure = hospitals.plan(plan_id).secure_aggregation
    counted = {(site, each.round) for each in rounds for site in each.participants}
    found = [
        Finding("the run finished", state["stage"] == "completed", _ended(state)),
        Finding("it was released", bool(state.get("release_id")), str(state.get("release_id"))),
        Finding(
            "every round was recorded once",
            dict(numbers) == dict.fromkeys(range(state["rounds"]), 1),
            f"{len(numbers)} rounds, {sum(numbers.values())} records, {missed} without a quorum",
        ),
        *(_unmasked_once if secure else _trained_once)(hospitals, plan_id, reports),
        Finding(
            "every update that counted was trained",
            counted <= trained,
            f"{len(counted)} counted of {len(trained)} trained",
        ),
    ]
    found.extend(
        _ledger(hospitals, site, plan_id, {number for name, number in trained if name == site})
        for site in SITES
    )
    found.extend(
        Finding(f"the log of {name} verifies", verified, "")
        for name, verified in hospitals.verify_logs().items()
    )
    found.append(_quality(state, calm))
    return found


def _trained_once(_: Hospitals, __: str, reports: list[SiteReport]) -> list[Finding]:
    updates = {
        (each.site, each.round, each.update_digest) for each in reports if each.activity == "train"
    }
    rounds = {(site, number) for site, number, _ in updates}
    seen = f"{len(rounds)} rounds of sites, {len(updates)} updates"
    return [Finding("no site trained a round twice", len(updates) == len(rounds), seen)]


def _unmasked_once(hospitals: Hospitals, plan_id: str, _: list[SiteReport]) -> list[Finding]:
    """A masked update differs each time it is asked for; it is in one sum that was unmasked."""
    found = []
    for site in SITES:
        sums, most = hospitals.unmasked(site, plan_id), 2 * hospitals.plan(plan_id).rounds
        seen = f"{sums} sums of updates and counts, of {most}"
        found.append(Finding(f"{site} is in one sum of each round", 0 < sums <= most, seen))
    return found


def _ended(state: dict[str, Any]) -> str:
    return str(state["reason"] or f"{state['rounds_done']} of {state['rounds']} rounds")


def _ledger(hospitals: Hospitals, site: str, plan_id: str, trained: set[int]) -> Finding:
    """The ledger says at least what was trained, and at most what was promised."""
    budget = hospitals.budget(site, plan_id)
    started, spent = budget["rounds_started"], budget["epsilon_spent"]
    return Finding(
        f"the ledger of {site} holds",
        started >= len(trained) and 0 < spent <= EPSILON,
        f"{started} rounds spent of {len(trained)} trained, epsilon {spent:.2f} of {EPSILON}",
    )


def _accuracy(run: dict[str, Any]) -> float:
    measured = (each["metrics"] for each in reversed(run["history"]) if each["metrics"])
    return float(next(measured, {"accuracy": 0})["accuracy"])


def _quality(state: dict[str, Any], calm: dict[str, Any]) -> Finding:
    got, expected = _accuracy(state), _accuracy(calm)
    return Finding(
        "the model is as good as an undisturbed one",
        got >= expected - ACCURACY_TOLERANCE,
        f"accuracy {got:.3f}, undisturbed {expected:.3f}, tolerance {ACCURACY_TOLERANCE}",
    )
