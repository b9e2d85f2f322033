"""Phases for a user who states only ε and δ. Chosen on public data; see docs/adr/0006."""

from __future__ import annotations

from decimal import Decimal

from client.learning.accounting import solve_noise_multipliers
from compliance.statements import Phase


def recommended_phases(
    epsilon: Decimal,
    delta: Decimal,
    *,
    rounds: int | None = None,
) -> tuple[Phase, ...]:
    """Phases that cost at most `epsilon` at `delta`.

    Args:
        epsilon: Target for one site's whole part in the plan, above 0.
        delta: In (0, 1).
        rounds: Total number of rounds, to trade accuracy for time; by default what is best.
    """
    total = 20 if rounds is None else rounds
    draft = Phase(
        kind="probe",
        rounds=total,
        steps_per_round=max(1, 40 // total),
        sampling_rate=Decimal(1),
        learning_rate=Decimal(2),
        max_grad_norm=Decimal(1),
        noise_multiplier=Decimal(1),
    )
    return solve_noise_multipliers([draft], epsilon, delta)
