"""Phases for a user who states ε and δ only.

Every choice depends on public numbers of the plan: ε, δ, labels, nominal subjects, sites. They were
made on public data (banking77, medical_abstracts), so no site's budget paid for tuning; what was
tried, and what each choice brought, is in docs/adr/0006.

* All subjects take part in every step, and steps are few. Half of them a step cost up to half a
  point of accuracy, for half the work; a fifth costs one to one and a half.
* The learning rate is the largest whose noise in a logit stays near `LOGIT_NOISE`; a smaller one
  learns less from the same budget, a larger one drowns in noise.
* The probe gets the budget. Where an adapter phase is asked for, it starts where the probe ends
  and costs a few per cent.
"""

from __future__ import annotations

import math
from decimal import ROUND_HALF_EVEN, Decimal

from audit.errors import MalformedInput
from client.learning.accounting import solve_noise_multipliers
from compliance.statements import Phase

MAX_GRAD_NORM = Decimal("0.3")
"""A third of a record's gradient norm at the start: features have norm 1 (`public_prior`)."""

LOGIT_NOISE = 1.0
"""Standard deviation of the noise in a logit after the last step, before averaging iterates. From
0.7 to 1.2 accuracy is the same within noise; 0.5 and 2 cost a point or two."""

MAX_STEP_PER_LABEL = 3.5
"""Bound of learning rate times clipping norm, per label. Above about 5 gradient descent on few
labels begins to oscillate, noise or not."""

PROBE_STEPS = 40
"""One a round by default. Between 20 and 120 steps the accuracy is the same within noise. Local
steps save rounds: 2 a round cost half a point on label-skewed sites, 10 a round almost two."""

ADAPTER_RATE = Decimal("0.2")
ADAPTER_LEARNING_RATE = Decimal(1)
ADAPTER_NOISE = Decimal("0.5")
"""Noise of an adapter step relative to a probe step: with a fifth of the subjects in it, such a
step costs about a sixth of a probe step."""

_LARGEST_RATE = Decimal(1000)
"""What a plan can say."""


def recommended_phases(
    epsilon: Decimal,
    delta: Decimal,
    *,
    label_count: int = 2,
    nominal_subjects: int = 1000,
    site_count: int = 1,
    rounds: int | None = None,
    adapter_rounds: int = 0,
) -> tuple[Phase, ...]:
    """Phases that cost a site at most `epsilon` at `delta`, noise and learning rates solved.

    Args:
        epsilon: Target for one site's whole part in the plan, above 0.
        delta: In (0, 1).
        label_count: Labels of the plan, at least 2.
        nominal_subjects: The plan's public number of subjects a site, at least 1.
        site_count: Sites of the plan, at least 1.
        rounds: Rounds in all, to trade accuracy for time; by default what is best.
        adapter_rounds: How many of them adapt the encoder too. None by default: on the data of
            docs/adr/0006 the probe alone is better at these budgets, and far cheaper.

    Raises:
        MalformedInput: When a number is out of range or epsilon cannot be reached.
    """
    total = PROBE_STEPS + adapter_rounds if rounds is None else rounds
    for name, value, least in (
        ("label_count", label_count, 2),
        ("nominal_subjects", nominal_subjects, 1),
        ("site_count", site_count, 1),
        ("adapter_rounds", adapter_rounds, 0),
        ("rounds", total, adapter_rounds + 1),
    ):
        if value < least:
            raise MalformedInput(f"{name} must be at least {least}, got {value}", fix="raise it")
    probe_rounds = total - adapter_rounds
    probe = Phase(
        kind="probe",
        rounds=probe_rounds,
        steps_per_round=math.ceil(PROBE_STEPS / probe_rounds),
        sampling_rate=Decimal(1),
        learning_rate=Decimal(1),
        max_grad_norm=MAX_GRAD_NORM,
        noise_multiplier=Decimal(1),
    )
    phases = [probe]
    if adapter_rounds:
        phases.append(_adapter_after(probe, adapter_rounds))
    solved = solve_noise_multipliers(phases, epsilon, delta)
    noise = float(solved[0].noise_multiplier) / nominal_subjects / math.sqrt(site_count)
    steps = probe_rounds * probe.steps_per_round
    rate = min(
        LOGIT_NOISE / (noise * float(MAX_GRAD_NORM) * math.sqrt(steps)),
        MAX_STEP_PER_LABEL * label_count / float(MAX_GRAD_NORM),
        float(_LARGEST_RATE),
    )
    probe = solved[0].model_copy(update={"learning_rate": _rounded(rate)})
    return (probe, *solved[1:])


def _adapter_after(probe: Phase, rounds: int) -> Phase:
    return Phase(
        kind="adapter",
        rounds=rounds,
        steps_per_round=1,
        sampling_rate=ADAPTER_RATE,
        learning_rate=ADAPTER_LEARNING_RATE,
        max_grad_norm=probe.max_grad_norm,
        noise_multiplier=ADAPTER_NOISE * probe.noise_multiplier,
    )


def _rounded(rate: float) -> Decimal:
    return Decimal(repr(rate)).quantize(Decimal("0.001"), rounding=ROUND_HALF_EVEN)
