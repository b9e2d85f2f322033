"""`dp_statement.json`: what a release's ε means. Pure.

It says of whom, by which accountant, what each site's own audit measured, and what is not covered;
a number without that is not a promise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from audit.words import count_of
from client.learning.accounting import epsilon_of_subject
from client.learning.privacy_audit import CONFIDENCE
from client.secure_aggregation import tolerated_collusion
from compliance.rules.starts import Part
from compliance.statements import Phase, TrainingPlan
from server.software import version_of
from server.starts import epsilon_with_start, unit_of_line

NOT_COVERED = (
    "Held-out evaluation: sites send exact counts of right, wrong and how sure on their held-out "
    "subjects, from which all figures are computed. These counts are not differentially private; "
    "held-out subjects are never trained on. `evaluation.json` leaves out labels and bins with few "
    "records.",
    "The choice of labels, hyper-parameters and sites, if it was made by looking at private data.",
    "Other plans on the same subjects, beside those in `start`: their epsilons compose, and each "
    "site's ledger keeps count.",
    "Subjects whose records lie at more than one site: their sites' epsilons compose. One epsilon "
    "for each site assumes that a subject belongs to one site.",
    "De-identification: that names were removed before training is measured by each site, not "
    "proven.",
    "Groups: a group of k subjects has, at most, k times the epsilon and a larger delta.",
)


def privacy_statement(
    plan: TrainingPlan,
    plan_id: str,
    epsilon_by_site: Mapping[str, Decimal],
    audited_by_site: Mapping[str, Decimal],
    line: Sequence[Part] = (),
) -> dict[str, Any]:
    """The statement.

    Args:
        plan: The plan.
        plan_id: Its digest.
        epsilon_by_site: What each site spent.
        audited_by_site: Lower bound on ε that each site's own audit found; empty where the plan
            asked for none.
        line: The plan's line (`compliance.rules.starts`), where it starts from another's model.
    """
    unit, of_subject = plan.privacy.unit, epsilon_of_subject(plan)
    # What a record displaces is not in this promise: `_OF_RECORDS` says so.
    whose = (
        "all records of one data subject" if unit == "subject" else "one record of those that train"
    )
    return {
        "format": "fiduciary.dp-statement/3",
        "plan_id": plan_id,
        "unit": unit,
        "adjacency": plan.privacy.adjacency,
        "meaning": (
            f"For each site: adding or removing {whose} changes the probability of anything that "
            f"{_what_is_revealed(plan)} reveal by a factor of at most exp(epsilon), except with "
            f"probability delta. {_what_it_is_computed_from(line)}"
        ),
        "start": _start(line),
        "noise_sites": plan.privacy.noise_sites,
        "secure_aggregation": plan.secure_aggregation,
        "delta": str(plan.privacy.delta),
        "epsilon_promised": str(plan.privacy.epsilon),
        "epsilon_by_site": {site: str(value) for site, value in epsilon_by_site.items()},
        "epsilon_of_subject": None if of_subject is None else f"{of_subject:f}",
        "max_records_per_subject": plan.privacy.max_records_per_subject,
        "mechanism": f"Poisson-subsampled Gaussian mechanism on per-{unit} clipped gradients",
        "phases": [phase.model_dump(mode="json") for phase in plan.phases],
        "batch_limits": [_limit(phase) for phase in plan.phases if phase.batch_limit is not None],
        "public_divisor": "sampling_rate * nominal_subjects",
        "nominal_subjects": plan.privacy.nominal_subjects,
        "accountant": "privacy loss distributions (PLD), pessimistic discretisation",
        "accountant_software": f"dp-accounting {version_of('dp-accounting')}",
        "audit": {
            "asked": plan.privacy_audit,
            "epsilon_at_least_by_site": {
                site: f"{value:f}" for site, value in sorted(audited_by_site.items())
            },
            "confidence": f"{CONFIDENCE:f}",
            "meaning": (
                "Each site's own trainer trained made-up subjects by this plan before it trained. "
                "A bound above epsilon_promised would have refused the plan; a bound below it "
                "proves nothing."
            ),
        },
        "trusts": _trusts(plan),
        "does_not_cover": [*NOT_COVERED, *(_OF_RECORDS if unit == "record" else ())],
    }


def _what_it_is_computed_from(line: Sequence[Part]) -> str:
    if len(line) < 2:
        return "The released model is computed from these updates alone."
    return (
        "The released model is computed from these updates and from the model that the plan "
        "starts from, which reveals the rounds before it: `start` says what all of them reveal."
    )


def _start(line: Sequence[Part]) -> dict[str, Any] | None:
    """What all rounds tell that the model holds; None where the plan starts from the base model."""
    if len(line) < 2:
        return None
    unit = unit_of_line(line)
    return {
        "holds": [
            {"plan_id": part.plan_id, "name": part.plan.name, "rounds": part.rounds}
            for part in line[:-1]
        ],
        "unit": unit,
        "delta": str(line[-1].plan.privacy.delta),
        "epsilon_by_site": {site: f"{value:f}" for site, value in epsilon_with_start(line).items()},
        "meaning": (
            "For each site: what this plan's rounds and those that it starts from reveal together "
            f"of one {unit}, composed exactly by the same accountant, as if the site had taken "
            "part in every round of each of these plans that names it. It is this that holds for "
            "the released model. The mechanisms are composed as if all had been fixed before the "
            "first round; each site's own ledger bounds plans that are chosen one after another "
            "by a privacy filter."
        ),
    }


def _what_is_revealed(plan: TrainingPlan) -> str:
    if plan.privacy.noise_sites is None:
        return "the site's updates"
    return "sums of the sites' updates, which are all that anybody learns,"


def _trusts(plan: TrainingPlan) -> list[str]:
    shares, quorum, sites = plan.privacy.noise_sites, plan.quorum, len(plan.sites)
    trusts = ["that each site ran the software it reports: its noise is added at the site"]
    if shares is not None:
        trusts.append(
            f"that in each round's sum of at least {count_of(quorum, 'site')} at least {shares}"
            " are honest: "
            "they add their share of the noise and tell nobody of it; with fewer the noise is "
            "smaller than promised"
        )
    if plan.secure_aggregation:
        trusts.append(
            f"that at most {tolerated_collusion(sites, quorum)} of the {sites} sites share what "
            "they know with the coordinator, which then learns only sums of updates and of "
            "evaluation counts"
        )
    else:
        trusts.append(
            "that nobody outside a site sees its updates except the coordinator, for whom the same "
            "bound holds"
        )
    return trusts


_OF_RECORDS = (
    "Data subjects: epsilon is promised to single records. To a data subject with at most "
    "max_records_per_subject records it is at most epsilon_of_subject. Of a subject with more "
    "records only so many train; a further one may displace another, which makes two that change.",
)


def _limit(phase: Phase) -> str:
    limit = phase.batch_limit
    if limit is None:
        return ""
    return (
        f"{phase.kind}: of more than {limit.subjects} sampled subjects a uniform subset of so many "
        f"takes part; epsilon holds for sites of at most {limit.max_population} subjects"
    )
