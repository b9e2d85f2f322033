"""Phases for a user who states ε and δ only, for every task.

* Text, token and image classification: `probe`, then `adapter` (`client.learning.recipes`).
* Tabular classification: `full`. Measured on heart_disease, which is public: at ε = 3 and 8 as good
  as without privacy.
* Causal language modelling: `adapter`, as there is no head to begin with. Reasoned, not measured.
* With `class_weights = "histogram"` a `histogram` phase of one step comes first.
* Everything depends on public numbers of the plan: nothing is tuned on any site's data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from audit.errors import MalformedInput
from client.learning.accounting import solve_noise_multipliers
from client.learning.recipes import (
    ADAPTER_LEARNING_RATE,
    ADAPTER_WEIGHT_NOISE,
    LOGIT_NOISE,
    MAX_GRAD_NORM,
    noise_of,
    recommended_phases,
    with_learning_rate,
)
from compliance.statements import Phase

HISTOGRAM_SHARE: Final = 0.02
"""Of the budget, as squared sensitivity over squared noise. A subject moves the mean share of a
label by at most 1/N: at ε = 8 two hundredths leave noise of 4.2/N, at ε = 3 of 9.8/N, so that at
1,000 subjects a label of one in a hundred can be told from one of one in twenty. The other phases
get a hundredth more noise for it, which no measurement of ours can see."""

TABULAR_STEPS: Final = 40
"""One a round. On heart_disease (four hospitals of 120 to 300 subjects)."""

LONGEST_TABULAR_STEP: Final = 9.6
"""Bound of learning rate times clipping norm where features go into a linear model as they are. On
heart_disease half and twice as much cost up to a point of accuracy."""

LONGEST_DEEP_STEP: Final = 1.2
"""The same for tables' networks with hidden layers."""

LINEAR_MODEL: Final = "tabular:linear"

LANGUAGE_STEPS: Final = 30
LANGUAGE_RATE: Final = Decimal("0.5")
"""Large batches and few steps, as Li, Tramèr, Liang & Hashimoto 2022 (arXiv 2110.05679) advise for
language models: noise falls with the batch, and each step costs."""


def recommended_for(
    task: str,
    epsilon: Decimal,
    delta: Decimal,
    *,
    base_model: str = "",
    label_count: int = 2,
    nominal_subjects: int = 1000,
    site_count: int = 1,
    with_histogram: bool = False,
    rounds: int | None = None,
    adapter_rounds: int | None = None,
) -> tuple[Phase, ...]:
    """Phases of a task that cost a site at most `epsilon` at `delta`, noise and rates solved.

    Args:
        task: One of the plan's tasks.
        epsilon: Target for one site's whole part in the plan, above 0.
        delta: In (0, 1).
        base_model: Its name; decides how long a step of a table's model may be.
        label_count: Labels of the plan; not used where language is modelled.
        nominal_subjects: The plan's public number of units a site, at least 1.
        site_count: Sites of the plan, at least 1.
        with_histogram: Whether labels are counted first; that round is beside `rounds`.
        rounds: Rounds in all, to trade accuracy for time; by default what is best.
        adapter_rounds: How many of them adapt the encoder; a few by default. Only where there is a
            probe before them.

    Raises:
        MalformedInput: When a number is out of range or epsilon cannot be reached.
    """
    if task not in _WITH_A_PROBE and adapter_rounds is not None:
        raise MalformedInput(
            f"adapter_rounds: {task} has no probe beside which to count them",
            fix="give rounds instead",
        )
    if task == "tabular-classification":
        phases = _tabular(epsilon, delta, base_model, nominal_subjects, site_count, rounds)
    elif task == "causal-language-modelling":
        phases = _language(epsilon, delta, nominal_subjects, site_count, rounds)
    else:
        phases = recommended_phases(
            epsilon,
            delta,
            label_count=label_count,
            nominal_subjects=nominal_subjects,
            site_count=site_count,
            rounds=rounds,
            adapter_rounds=adapter_rounds,
        )
    if with_histogram:
        phases = solve_noise_multipliers((histogram_for(phases), *phases), epsilon, delta)
    return phases


_WITH_A_PROBE: Final = ("text-classification", "token-classification", "image-classification")


def kinds_for(task: str, *, with_histogram: bool) -> tuple[str, ...]:
    """Kinds of the phases that are recommended for a task, in their order, at least one."""
    first = ("histogram",) if with_histogram else ()
    if task == "tabular-classification":
        return (*first, "full")
    return (*first, "adapter" if task == "causal-language-modelling" else "probe")


def histogram_for(phases: Sequence[Phase]) -> Phase:
    """A histogram that takes `HISTOGRAM_SHARE` of the budget of phases, by its relative noise.

    Args:
        phases: The phases that follow; at least one.
    """
    # A step at rate q tells about as much as q² of a full one (arXiv 1607.00133, small q).
    told = sum(
        phase.rounds
        * phase.steps_per_round
        * (float(phase.sampling_rate) / float(phase.noise_multiplier)) ** 2
        for phase in phases
    )
    noise = math.sqrt((1 - HISTOGRAM_SHARE) / (HISTOGRAM_SHARE * told))
    return Phase(
        kind="histogram",
        rounds=1,
        steps_per_round=1,
        sampling_rate=Decimal(1),
        learning_rate=Decimal(1),
        max_grad_norm=Decimal(1),
        noise_multiplier=Decimal(repr(noise)).quantize(Decimal("0.001")),
    )


def _tabular(
    epsilon: Decimal,
    delta: Decimal,
    base_model: str,
    nominal_subjects: int,
    site_count: int,
    rounds: int | None,
) -> tuple[Phase, ...]:
    phase = _one_phase("full", TABULAR_STEPS, rounds, Decimal(1), epsilon, delta)
    longest = LONGEST_TABULAR_STEP if base_model == LINEAR_MODEL else LONGEST_DEEP_STEP
    rate = min(
        LOGIT_NOISE / noise_of(phase, nominal_subjects, site_count), longest / float(MAX_GRAD_NORM)
    )
    return (with_learning_rate(phase, rate),)


def _language(
    epsilon: Decimal,
    delta: Decimal,
    nominal_subjects: int,
    site_count: int,
    rounds: int | None,
) -> tuple[Phase, ...]:
    phase = _one_phase("adapter", LANGUAGE_STEPS, rounds, LANGUAGE_RATE, epsilon, delta)
    noise = noise_of(phase, nominal_subjects, site_count)
    return (with_learning_rate(phase, min(ADAPTER_WEIGHT_NOISE / noise, ADAPTER_LEARNING_RATE)),)


def _one_phase(
    kind: str, steps: int, rounds: int | None, rate: Decimal, epsilon: Decimal, delta: Decimal
) -> Phase:
    count = steps if rounds is None else rounds
    if count < 1:
        raise MalformedInput(f"rounds must be at least 1, got {count}", fix="raise it")
    phase = Phase.model_validate(
        {
            "kind": kind,
            "rounds": count,
            "steps_per_round": math.ceil(steps / count),
            "sampling_rate": rate,
            "learning_rate": 1,
            "max_grad_norm": MAX_GRAD_NORM,
            "noise_multiplier": 1,
        }
    )
    return solve_noise_multipliers([phase], epsilon, delta)[0]
