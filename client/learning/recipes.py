"""Phases for a user who states ε and δ only.

Every choice depends on public numbers of the plan: ε, δ, labels, nominal subjects, sites. They were
made on public data (banking77, medical_abstracts), so no site's budget paid for tuning; what was
tried, and what each choice brought, is in docs/adr/0006.

* All subjects take part in every step, and steps are few. Half of them a step cost up to half a
  point of accuracy, for half the work; a fifth costs one to one and a half.
* The learning rate is the largest whose noise in a logit stays near `LOGIT_NOISE`; a smaller one
  learns less from the same budget, a larger one drowns in noise.
* The probe gets the budget. The adapter phase starts where it ends, costs about a hundredth of it,
  and moves no further than its own noise allows.
"""

from __future__ import annotations

import math
from decimal import ROUND_HALF_EVEN, Decimal

from audit.errors import MalformedInput
from client.learning.accounting import solve_noise_multipliers
from compliance.statements import Phase

MAX_GRAD_NORM = Decimal("0.3")
"""A third of a record's gradient norm at the start: features have norm 1 (`public_prior`)."""

LOGIT_NOISE = 1.2
"""Standard deviation of the noise in a logit after the last step, before averaging iterates. From
0.8 to 1.4 accuracy is the same within noise; 0.5 and 2 cost a point or two."""

MAX_STEP_PER_LABEL = 3.5
"""Bound of learning rate times clipping norm, per label. Above about 5 gradient descent on few
labels begins to oscillate, noise or not."""

PROBE_STEPS = 40
"""One a round by default. Between 20 and 120 steps the accuracy is the same within noise. Local
steps save rounds: 2 a round cost half a point on label-skewed sites, 10 a round almost two."""

ADAPTER_ROUNDS = 2
"""At most a fifth of all rounds. On banking77 adapting the encoder neither helps nor harms at ε = 3
and 8; the more rounds, the longer a run takes."""

ADAPTER_RATE = Decimal("0.2")
ADAPTER_NOISE = Decimal("0.5")
"""Noise of an adapter step relative to a probe step: with a fifth of the subjects in it, such a
step costs about a sixth of a probe step."""

ADAPTER_LEARNING_RATE = 1.0
"""Five times as much overshoots on banking77 even without noise."""

ADAPTER_WEIGHT_NOISE = 0.003
"""Standard deviation of the noise that may end up in a LoRA weight: without effect on banking77. It
lowers the learning rate where sites are small."""

_LARGEST_RATE = Decimal(1000)
"""What a plan can say."""

_RATE_STEP = Decimal("0.0001")


def recommended_phases(
    epsilon: Decimal,
    delta: Decimal,
    *,
    label_count: int = 2,
    nominal_subjects: int = 1000,
    site_count: int = 1,
    rounds: int | None = None,
    adapter_rounds: int | None = None,
) -> tuple[Phase, ...]:
    """Phases that cost a site at most `epsilon` at `delta`, noise and learning rates solved.

    Args:
        epsilon: Target for one site's whole part in the plan, above 0.
        delta: In (0, 1).
        label_count: Labels of the plan, at least 2.
        nominal_subjects: The plan's public number of subjects a site, at least 1.
        site_count: Sites of the plan, at least 1.
        rounds: Rounds in all, to trade accuracy for time; by default what is best.
        adapter_rounds: How many of them adapt the encoder too; a few by default.

    Raises:
        MalformedInput: When a number is out of range or epsilon cannot be reached.
    """
    if rounds is None:
        adapting = ADAPTER_ROUNDS if adapter_rounds is None else adapter_rounds
        total = PROBE_STEPS + adapting
    else:
        adapting = min(ADAPTER_ROUNDS, rounds // 5) if adapter_rounds is None else adapter_rounds
        total = rounds
    for name, value, least in (
        ("label_count", label_count, 2),
        ("nominal_subjects", nominal_subjects, 1),
        ("site_count", site_count, 1),
        ("adapter_rounds", adapting, 0),
        ("rounds", total, adapting + 1),
    ):
        if value < least:
            raise MalformedInput(f"{name} must be at least {least}, got {value}", fix="raise it")
    probe_rounds = total - adapting
    probe = Phase(
        kind="probe",
        rounds=probe_rounds,
        steps_per_round=math.ceil(PROBE_STEPS / probe_rounds),
        sampling_rate=Decimal(1),
        learning_rate=Decimal(1),
        max_grad_norm=MAX_GRAD_NORM,
        noise_multiplier=Decimal(1),
    )
    adapter = probe.model_copy(
        update={
            "kind": "adapter",
            "rounds": adapting,
            "steps_per_round": 1,
            "sampling_rate": ADAPTER_RATE,
            "noise_multiplier": ADAPTER_NOISE,
        }
    )
    solved = solve_noise_multipliers((probe, adapter)[: 1 + bool(adapting)], epsilon, delta)
    phases = []
    for phase in solved:
        noise = noise_of(phase, nominal_subjects, site_count)
        if phase.kind == "probe":
            longest = MAX_STEP_PER_LABEL * label_count / float(MAX_GRAD_NORM)
            rate = min(LOGIT_NOISE / noise, longest)
        else:
            rate = min(ADAPTER_WEIGHT_NOISE / noise, ADAPTER_LEARNING_RATE)
        phases.append(with_learning_rate(phase, rate))
    return tuple(phases)


def noise_of(phase: Phase, nominal_subjects: int, site_count: int) -> float:
    """Noise that a phase adds to a weight in the mean over sites, for a learning rate of one."""
    steps = phase.rounds * phase.steps_per_round
    one_step = float(phase.noise_multiplier * phase.max_grad_norm / phase.sampling_rate)
    return one_step * math.sqrt(steps) / (nominal_subjects * math.sqrt(site_count))


def with_learning_rate(phase: Phase, rate: float) -> Phase:
    """The phase with a learning rate as a plan can say it: rounded, and within its range."""
    possible = Decimal(repr(min(rate, float(_LARGEST_RATE))))
    rounded = possible.quantize(_RATE_STEP, rounding=ROUND_HALF_EVEN)
    return phase.model_copy(update={"learning_rate": max(_RATE_STEP, rounded)})
