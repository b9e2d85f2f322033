"""A membership-inference attack on a trained model: can its losses tell who trained it?

A subject's score is the mean loss of the records, negated: a model knows best what it was trained
on (Yeom et al. 2018, arXiv 1709.01604). Members are subjects that trained, the others were
held out, by a keyed hash, so that nothing but chance made one a member.

* Besides the area under the curve, the true-positive rate at 1 % false positives is told: an attack
  that is right about few people, but surely, is a breach that averages hide (Carlini et al. 2022,
  arXiv 2112.03570, §III).
* The attack's bounds on ε are far below the canaries' (`client.learning.privacy_audit`): real
  records are no worst case. It shows what an attacker with this model and these records can do.
* "membership-one-run" is sound for one model: members are thinned out with coins until each of the
  rest is a member with chance one half, independently (arXiv 2305.08846, Algorithm 1; who was
  thinned out counts among the records that always train). "membership-clopper-pearson" takes
  subjects for independent trials, which those of one model are not quite.
* A model that several sites trained tells at most as much of this site's subjects as this site's
  updates did, so the plan's promise holds for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from audit.errors import MalformedInput
from client.learning.data import Example
from client.learning.epsilon_bounds import (
    Included,
    Scores,
    binomial_interval,
    clopper_pearson_bound,
    one_run_bound,
)
from client.learning.intervals import auc_interval
from client.learning.passes import Passes, Settings
from client.learning.plan_model import PlanModel
from client.learning.privacy_audit import BOUND_ALPHA, LowerBound
from client.learning.randomness import Keystream

LOW_FALSE_POSITIVE_RATE: Final = 0.01

INTERVAL_ALPHA: Final = 0.05
"""Of the intervals around the attack's figures, which decide nothing."""

LEAST_SUBJECTS: Final = 20
"""On either side; fewer tell nothing, and a figure of theirs would be about a person."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, str]:
        """As canonical JSON holds it."""
        return {name: f"{getattr(self, name):.4f}" for name in ("value", "low", "high")}


@dataclass(frozen=True)
class AttackResult:
    """What the attack found.

    Attributes:
        members: Subjects that trained.
        others: Subjects that were held out.
        area: Chance that a member's loss is below another's (ROC-AUC); one half is a guess.
        caught_at_low_rate: Share of members that are recognised by a threshold that 1 % of the
            others pass.
        bounds: On ε, at the plan's δ.
        scores: `(members + others,)`.
        included: Who of them is a member.
    """

    members: int
    others: int
    area: Estimate
    caught_at_low_rate: Estimate
    bounds: tuple[LowerBound, ...]
    scores: Scores
    included: Included

    def to_json(self) -> dict[str, Any]:
        """As canonical JSON holds it: figures of all subjects together, none of one."""
        return {
            "members": self.members,
            "others": self.others,
            "area_under_curve": self.area.to_json(),
            "true_positive_rate_at_1_percent": self.caught_at_low_rate.to_json(),
            "interval_confidence": f"{Decimal(1) - Decimal(repr(INTERVAL_ALPHA)):f}",
            "bounds": [bound.to_json() for bound in self.bounds],
        }


def attack(
    model: PlanModel,
    members: Sequence[Example],
    others: Sequence[Example],
    *,
    held_out_share: float,
    delta: float,
    coins: Keystream | None = None,
) -> AttackResult:
    """Attack a trained model.

    Args:
        model: With the state to attack.
        members: Examples that trained it.
        others: Examples of subjects that did not.
        held_out_share: Chance that a subject was held out, in (0, 1).
        delta: The plan's δ.
        coins: Who is thinned out; for tests. By default a fresh keystream.

    Raises:
        MalformedInput: When there are fewer than `LEAST_SUBJECTS` subjects on a side, or a loss is
            not finite.
    """
    sides = [subject_scores(model, side) for side in (members, others)]
    for side in sides:
        if len(side) < LEAST_SUBJECTS:
            raise MalformedInput(
                f"an attack needs {LEAST_SUBJECTS} subjects that trained and as many held out, "
                f"got {len(side)}",
                fix="evaluate a plan with a larger held_out_share, or at a larger site",
            )
    included = np.repeat([True, False], [len(side) for side in sides])
    return attack_scores(
        np.concatenate(sides), included, held_out_share=held_out_share, delta=delta, coins=coins
    )


def subject_scores(model: PlanModel, examples: Sequence[Example]) -> Scores:
    """Each subject's mean loss, negated, in the order of the subjects' names.

    Raises:
        MalformedInput: When a loss is not finite.
    """
    losses = Passes(model, examples, Settings()).losses()
    of_subject: dict[str, list[float]] = {}
    for example, loss in zip(examples, losses, strict=True):
        of_subject.setdefault(example.subject, []).append(loss)
    scores = np.array([-float(np.mean(of_subject[subject])) for subject in sorted(of_subject)])
    if not np.isfinite(scores).all():
        raise MalformedInput("a loss is not finite", fix="attack a state that training gave")
    return scores


def attack_scores(
    scores: Scores,
    included: Included,
    *,
    held_out_share: float,
    delta: float,
    coins: Keystream | None = None,
) -> AttackResult:
    """What scores tell of membership.

    Args:
        scores: `(subjects,)`, higher for members.
        included: `(subjects,)`; at least one member and one other.
        held_out_share: Chance that a subject is no member, in (0, 1).
        delta: In (0, 1).
        coins: Who is thinned out, and in which order scores are halved.
    """
    keystream = coins or Keystream()
    inside, outside = scores[included], scores[~included]
    kept = _fair(included, held_out_share, keystream)
    order = np.argsort(keystream.uniform(len(scores)), kind="stable")
    return AttackResult(
        members=len(inside),
        others=len(outside),
        area=area_under_curve(inside, outside),
        caught_at_low_rate=_caught(inside, outside),
        bounds=(
            LowerBound.of(
                "membership-one-run",
                one_run_bound(scores[kept], included[kept], delta, BOUND_ALPHA),
            ),
            LowerBound.of(
                "membership-clopper-pearson",
                clopper_pearson_bound(scores[order], included[order], delta, BOUND_ALPHA),
            ),
        ),
        scores=scores,
        included=included,
    )


def area_under_curve(inside: Scores, outside: Scores) -> Estimate:
    """Chance that a member scores above another, ties half, with a 95 % score interval.

    >>> area_under_curve(np.arange(3.0, 6.0), np.arange(3.0)).value
    1.0
    """
    from scipy.stats import rankdata

    m, n = len(inside), len(outside)
    ranks = rankdata(np.concatenate([inside, outside]))
    value = float((ranks[:m].sum() - m * (m + 1) / 2) / (m * n))
    return Estimate(value, *auc_interval(value, m, n))


def _caught(inside: Scores, outside: Scores) -> Estimate:
    passed = math.floor(LOW_FALSE_POSITIVE_RATE * len(outside))
    threshold = np.sort(outside)[len(outside) - 1 - passed]
    hits = int((inside > threshold).sum())
    low, high = binomial_interval(hits, len(inside), INTERVAL_ALPHA / 2)
    return Estimate(hits / len(inside), low, high)


def _fair(included: Included, held_out_share: float, coins: Keystream) -> npt.NDArray[np.intp]:
    """Indices of a part in which everybody is a member with chance one half.

    Whoever is on the side that was likelier stays with the ratio of the chances.
    """
    chances = held_out_share, 1 - held_out_share
    likelier = included if chances[1] > chances[0] else ~included
    stays = coins.uniform(len(included)) < min(chances) / max(chances)
    return np.flatnonzero(~likelier | stays)
