"""What becomes of a release that erased data subjects took part in (GDPR Art. 17, 19).

```
            decide: rely, withdraw
  open ────────────────────────────────────────► closed
   │ ▲                                             ▲
   │ └── another erasure (what was decided         │ conclude: the retrained model is released,
   │     did not know of it) ──┐                   │ and this one is recalled
   └── decide: retrain ──► retraining ─────────────┘
```

* A release has one case at a time. Another erasure joins it, and what was decided without it is
  void; after it was closed, a new one is opened.
* Who submitted the release, or wrote its plan, does not decide about it.
* `rely` needs evidence: attacks on this very model were measured, and the group's bound is finite.
  A number alone is a promise (EDPB Opinion 28/2024: whether a model is anonymous is shown case by
  case, by the likelihood of extraction).
* `retrain` needs a plan for the same model and task at the same sites that was submitted after the
  last erasure was recorded: no round of it can sample who was erased before. It starts from the
  base model, or from a model that was made without whoever was erased.
* While a case is not closed, nobody gets a new grant of the release.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from audit.words import count_of
from compliance.rules.access import Bearer
from compliance.rules.ruling import ALLOWED, Refused, Ruling, contradiction
from compliance.rules.unlearning import Debt
from compliance.statements import Evidence, TrainingPlan
from compliance.wire import PlanState, ReleaseState

CaseState = Literal["open", "retraining", "closed"]

REACHABLE: Final[tuple[ReleaseState, ...]] = ("announced", "candidate", "approved")
"""States of a release that somebody has, or may come to have."""

OWN_FILES: Final = ("evaluation.json", "dp_statement.json")
"""Files of a release that tell what was measured of it; evidence of these names must be theirs."""


@dataclass(frozen=True)
class CaseFacts:
    """What is decided about.

    Attributes:
        state: Where the case stands.
        release: Where its release stands.
        submitted_by: Who submitted the release.
        author: The author whom its plan names.
    """

    state: CaseState
    release: ReleaseState
    submitted_by: str
    author: str


def may_decide_case(officer: Bearer, facts: CaseFacts) -> Ruling:
    """Whether an officer may decide a case at all."""
    if officer.name in (facts.submitted_by, facts.author):
        return Refused(
            "own-work",
            "nobody decides about what they submitted themselves",
            "ask another officer",
        )
    if facts.state == "closed":
        return Refused("case-closed", "the case is closed already", status="conflict")
    return ALLOWED


def may_rely(
    evidence: Collection[Evidence],
    *,
    files: Mapping[str, str],
    audited: Collection[str],
    debt: Debt,
) -> Ruling:
    """Whether evidence carries a decision to rely on the differential privacy of a release.

    Args:
        evidence: What the officer attaches.
        files: Digests of the release's own files, by name.
        audited: Sites that reported an audit of the plan by canaries.
        debt: What is owed.
    """
    named = [item.name for item in evidence]
    if len(set(named)) != len(named):
        return contradiction("evidence-repeated", "two pieces of evidence have the same name")
    own = [item for item in evidence if item.name in OWN_FILES]
    wrong = sorted(item.name for item in own if files.get(item.name) != item.digest)
    if wrong:
        return contradiction(
            "evidence-mismatch",
            f"not the release's own: {', '.join(wrong)}",
            "give the digests that the release's manifest has: `compliance releases ID --json`",
        )
    unaudited = sorted(set(debt.by_site) - set(audited))
    attacks = [item for item in evidence if item.name not in OWN_FILES]
    if not own or (unaudited and not attacks):
        missing = "the release's evaluation.json or dp_statement.json" if not own else ""
        if unaudited and not attacks:
            missing += " and " if missing else ""
            missing += f"the report of an attack (no audit came from {', '.join(unaudited)})"
        return Refused(
            "evidence-missing",
            f"relying on the bound needs measured evidence: {missing}",
            "measure it: `client evaluate-privacy` at the site, then --evidence NAME=DIGEST",
        )
    bound = debt.together
    if not bound.says_something:
        return Refused(
            "debt-unbounded",
            f"no finite bound holds for {count_of(debt.subjects, 'erased subject')}",
            "retrain or withdraw",
        )
    return ALLOWED


def may_retrain(
    new: TrainingPlan,
    old: TrainingPlan,
    *,
    state: PlanState,
    submitted_position: int,
    last_erasure_position: int,
    approved_sites: Collection[str],
    starts_without_them: Ruling = ALLOWED,
) -> Ruling:
    """Whether a plan is a retraining of another without those who were erased.

    Args:
        new: The plan that is to take its place.
        old: The plan that sampled them.
        state: Where the new plan stands.
        submitted_position: The log's entry of its submission.
        last_erasure_position: The log's entry of the last erasure of the case.
        approved_sites: Sites that take part at present.
        starts_without_them: Whether what the new plan starts from was made without whoever was
            erased (`compliance.rules.starts.may_start_without`).
    """
    if state not in ("approved", "completed"):
        return Refused(
            "plan-not-approved",
            f"the plan is {state}: retraining goes through the ordinary approval",
            "approve it first: `compliance approve plan ID`",
            "conflict",
        )
    if submitted_position <= last_erasure_position:
        return Refused(
            "plan-too-early",
            "the plan was submitted before the last erasure was recorded: its rounds may have "
            "sampled who is erased",
            "submit it anew: `server submit plan.toml`",
            "conflict",
        )
    differing = [
        name
        for name in ("federation", "task", "base_model", "labels", "features", "purpose")
        if getattr(new, name) != getattr(old, name)
    ]
    if differing:
        return contradiction(
            "plan-of-something-else",
            f"it is no retraining: {', '.join(differing)} differ",
            "retrain the same model for the same task",
        )
    needed = set(old.sites) & set(approved_sites)
    if not needed <= set(new.sites) <= set(old.sites):
        return contradiction(
            "plan-of-something-else",
            "it is no retraining: it trains at other sites",
            f"name exactly {', '.join(sorted(needed))}",
        )
    return starts_without_them


def may_conclude(
    *,
    state: CaseState,
    retraining_plan: str | None,
    replacement_plan: str,
    replacement: ReleaseState,
    run: PlanState,
    replacement_owes: bool,
) -> Ruling:
    """Whether a release may take the place of one that is retrained.

    Args:
        state: Where the case stands.
        retraining_plan: The plan that was decided on.
        replacement_plan: The plan of the release that is named.
        replacement: Where that release stands.
        run: Where its plan stands.
        replacement_owes: Whether it has an open case of its own.
    """
    if state != "retraining":
        return Refused(
            "nothing-to-conclude",
            f"the case is {state}: no retraining is under way",
            status="conflict",
        )
    if replacement_plan != retraining_plan:
        return contradiction(
            "not-the-retraining", "the release comes from another plan than was decided on"
        )
    if run != "completed" or replacement != "approved":
        return Refused(
            "retraining-unfinished",
            f"the retraining is {run}, its release {replacement}",
            "approve the release first: `compliance approve release ID`",
            "conflict",
        )
    if replacement_owes:
        return Refused(
            "erasure-debt",
            "the retrained release has an open erasure case of its own",
            "decide that first: `compliance erasures list`",
            "conflict",
        )
    return ALLOWED


def may_be_given(*, owes: bool) -> Ruling:
    """Whether erasures stand in the way of approving or granting a release."""
    if owes:
        return Refused(
            "erasure-debt",
            "somebody this model may have been trained on was erased, and nothing is decided yet",
            "decide it first: `compliance erasures list`",
            "conflict",
        )
    return ALLOWED
