"""What a site's privacy budget costs to compose: 1,000 rounds of 10 plans, on a real ledger file.

    python -m bench.ledger [--runs 5] [--no-package]

A site is made with its keys, journal and ledger; ten plans with ten different mechanisms are
reserved, a hundred rounds each, and every round is started, durably. Then a fresh process opens the
ledger and composes it, with nothing cached: `recompose_seconds` for the ε of everything (spent and
committed), `budget_seconds` for all that `client budget` shows (those, and both for each plan). A
process's imports take longer than either, and are told apart (`import_seconds`).

`epsilon_error` compares with the exact value: the closed form where every step takes all subjects
(Balle & Wang 2018, arXiv 1805.06530, Theorem 8), else bins eight times as fine. For comparison,
`package_seconds` is `dp-accounting`'s own accountant on the ten joined mechanisms, at its defaults.

Prints a table, and one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

DELTA: Final = Decimal("0.00001")
PLANS: Final = 10
ROUNDS: Final = 100

RATES: Final = ("0.02", "0.05", "0.1", "0.2", "0.5", "0.3", "0.07", "0.9", "0.6", "0.15")

SCENARIOS: Final = {
    # Every subject in each step, as the recommended phases train.
    "full_batches": [(f"{20 + 1.37 * plan:.2f}", "1", 1) for plan in range(PLANS)],
    "mixed_rates": [(f"{6 + 1.37 * plan:.2f}", RATES[plan], 1) for plan in range(PLANS)],
    # Little noise and few subjects: the widest distributions; ten steps a round: 10,000 steps.
    "small_rates": [
        (f"{0.7 + 0.1 * plan:.1f}", f"{0.004 + 0.001 * plan:.3f}", 10) for plan in range(PLANS)
    ],
}
"""Noise multiplier, sampling rate and steps a round of each plan."""


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="fresh processes a figure")
    parser.add_argument("--no-package", action="store_true", help="leave dp-accounting's own out")
    parser.add_argument("--compose", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.compose:
        print(json.dumps(_compose(options.compose)))
        return
    results: dict[str, Any] = {}
    for name, plans in SCENARIOS.items():
        with tempfile.TemporaryDirectory() as folder:
            site = Path(folder) / "site"
            seconds = _write(site, plans)
            runs = [_in_a_fresh_process(site) for _ in range(options.runs)]
        epsilon = runs[0]["epsilon"]
        found = {
            key: round(statistics.median(run[key] for run in runs), 3)
            for key in ("recompose_seconds", "budget_seconds", "import_seconds")
        }
        found["epsilon"] = epsilon
        found["epsilon_error"] = round(epsilon - _exact(plans), 6)
        found["changes_per_second"] = round((PLANS + PLANS * ROUNDS) / seconds, 1)
        if not options.no_package:
            found["package_seconds"] = round(_package_seconds(plans), 2)
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in found.items()))
        results |= {f"{name}.{key}": value for key, value in found.items()}
    print(json.dumps(results))


def _write(folder: Path, plans: list[tuple[str, str, int]]) -> float:
    """Make a site, reserve the plans and start every round; seconds of the ledger's own work."""
    from client.budget import Limits, Reservation, RoundEvent
    from client.site import Site

    limit = Decimal(100)
    Site.create(folder, name="north", federation="bench").close()
    with Site.open(folder) as site, site.ledger() as ledger:
        begin = time.perf_counter()
        for number, (noise, rate, steps) in enumerate(plans):
            plan_id = f"sha256:{number:064x}"
            event = RoundEvent(Decimal(noise), Decimal(rate), steps)
            ledger.reserve(
                Reservation(
                    plan_id=plan_id,
                    plan_name=f"plan-{number}",
                    purpose="bench",
                    datasets=("notes",),
                    unit="subject",
                    adjacency="add-remove-one",
                    max_records_per_subject=4,
                    epsilon=limit,
                    delta=DELTA,
                    rounds=(event,) * ROUNDS,
                ),
                Limits(limit, limit, DELTA),
            )
            for round_index in range(ROUNDS):
                ledger.start_round(plan_id, round_index)
        return time.perf_counter() - begin


def _in_a_fresh_process(folder: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.ledger", "--compose", str(folder)],
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _compose(folder: Path) -> dict[str, float]:
    begin = time.perf_counter()
    import dp_accounting.pld.privacy_loss_distribution  # noqa: F401  timed: it brings scipy

    from client.site import Site

    imported = time.perf_counter()
    with Site.open(folder) as site, site.ledger() as ledger:
        opened = time.perf_counter()
        total = ledger.budget(DELTA, with_plans=False)
        composed = time.perf_counter()
        ledger.budget(DELTA)
        return {
            "epsilon": float(total.committed),
            "import_seconds": imported - begin,
            "recompose_seconds": composed - opened,
            "budget_seconds": time.perf_counter() - opened,
        }


def _exact(plans: list[tuple[str, str, int]]) -> float:
    from client.learning.loss_distributions import Mechanism, bin_width, compose

    steps = {Mechanism(float(noise), float(rate)): steps * ROUNDS for noise, rate, steps in plans}
    if all(mechanism.joins for mechanism in steps):
        return _closed_form(sum(n / one.noise_multiplier**2 for one, n in steps.items()) ** 0.5)
    delta = float(DELTA)
    return compose(steps, delta, bin_width(steps, delta) / 8)


def _closed_form(mu: float) -> float:
    from scipy.optimize import brentq
    from scipy.stats import norm

    def excess(epsilon: float) -> float:
        low = norm.cdf(-mu / 2 - epsilon / mu)
        return float(norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * low - float(DELTA))

    return float(brentq(excess, 0, 200))


def _package_seconds(plans: list[tuple[str, str, int]]) -> float:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.pld import PLDAccountant

    begin = time.perf_counter()
    accountant = PLDAccountant()
    for noise, rate, steps in plans:
        event = PoissonSampledDpEvent(float(rate), GaussianDpEvent(float(noise)))
        accountant.compose(event, steps * ROUNDS)
    accountant.get_epsilon(float(DELTA))
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
