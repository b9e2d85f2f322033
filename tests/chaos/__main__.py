"""`make chaos`: kills the processes of a real federation at random moments and reads what is left.

    python -m tests.chaos --kills 100 --seed 7
    python -m tests.chaos --kills 30 --plan 'secure_aggregation = true'

One plan is trained undisturbed. The same plan is trained again while compliance service,
coordinator and sites are killed with SIGKILL and started again, about once a round. Where this user
may make network namespaces (root, on Linux), it is trained a third time while the cables between
hosts are pulled and put back. Exit codes: 0 all held, 1 something did not.
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from demo.processes import CommandFailed
from tests.chaos.hospitals import SITES, Hospitals, Supervised, may_make_hosts
from tests.chaos.hosts import Hosts
from tests.chaos.reckoning import Finding, reckon
from tests.chaos.striking import Strike, Striker

CALM_SECONDS = 600.0
CUT_SECONDS = 20.0
"""Longer than the 15 s after which a silent site counts as offline."""

CUT_ROUNDS = 30
DEADLINE_SECONDS = 30


def main() -> int:
    """Run it; returns the exit code."""
    options = _options()
    console = Console(width=120)
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    console.print(f"seed {seed}, {options.kills} kills, plan: {options.plan or 'defaults'}")
    folder = Path(tempfile.mkdtemp(prefix="fiduciary-chaos-"))
    held = False
    try:
        held = _kills(console, folder / "kills", seed, options)
        if options.network and may_make_hosts():
            held = _cuts(console, folder / "cuts", seed, options) and held
        elif options.network:
            console.print("no cables are pulled: making network namespaces needs root and Linux")
    except CommandFailed as error:
        held = False
        console.print(f"chaos stopped: {error}", markup=False)
    if held:
        shutil.rmtree(folder, ignore_errors=True)
        return 0
    console.print(f"seed {seed} did not hold; everything is left in {folder}")
    return 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="of what is struck when; random otherwise")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=45, help="of the disturbed run, at most")
    parser.add_argument("--plan", default="", help="more lines of [plan], separated by ;")
    parser.add_argument("--no-network", dest="network", action="store_false")
    return parser.parse_args()


def _kills(console: Console, folder: Path, seed: int, options: argparse.Namespace) -> bool:
    folder.mkdir()
    with Supervised(folder) as processes:
        hospitals = Hospitals(folder, processes)
        hospitals.start()
        rounds = max(10, options.kills)
        return _disturbed(
            console, hospitals, rounds, options, lambda striker: striker.kill(options.kills), seed
        )


def _cuts(console: Console, folder: Path, seed: int, options: argparse.Namespace) -> bool:
    folder.mkdir()
    with Hosts(("compliance", *SITES)) as hosts, Supervised(folder, hosts) as processes:
        hospitals = Hospitals(folder, processes, hosts)
        hospitals.start()
        return _disturbed(
            console, hospitals, CUT_ROUNDS, options, lambda striker: striker.cut(CUT_SECONDS), seed
        )


def _disturbed(
    console: Console,
    hospitals: Hospitals,
    rounds: int,
    options: argparse.Namespace,
    strikes: Callable[[Striker], Iterator[Strike]],
    seed: int,
) -> bool:
    more = "\n".join(line.strip() for line in options.plan.split(";"))
    calm_id = hospitals.propose("calm", rounds, DEADLINE_SECONDS, more)
    calm = hospitals.await_end(calm_id, CALM_SECONDS)
    console.print(f"undisturbed: {calm['stage']}, {calm['rounds_done']} rounds {calm['reason']}")
    started = time.monotonic()
    plan_id = hospitals.propose("chaos", rounds, DEADLINE_SECONDS, more)
    striker = Striker(hospitals, plan_id, seed, started + 60 * options.minutes)
    for strike in strikes(striker):
        console.print(
            f"{time.monotonic() - started:6.1f} s  {strike.what} {', '.join(strike.names):<20}"
            f"after {strike.round} rounds, {strike.activity}; back after {strike.down_seconds} s"
        )
    state = hospitals.await_end(plan_id, 60 * options.minutes - (time.monotonic() - started))
    found = reckon(hospitals, plan_id, state, calm)
    _print(console, striker.strikes, found, hospitals)
    return all(each.holds for each in found)


def _print(
    console: Console, strikes: list[Strike], found: list[Finding], hospitals: Hospitals
) -> None:
    table = Table("struck", "times", "while asking", "aggregated", "pending", box=None)
    for name in sorted({name for strike in strikes for name in strike.names}):
        mine = [strike.activity for strike in strikes if name in strike.names]
        counts = (mine.count(each) for each in ("asking", "aggregated", "pending"))
        table.add_row(name, str(len(mine)), *(str(count) for count in counts))
    console.print(table)
    for name, code in hospitals.processes.ended_by_themselves:
        console.print(f"{name} ended by itself with {code} and was started again")
    table = Table("what must hold", "holds", "seen", box=None)
    for each in found:
        table.add_row(each.name, "yes" if each.holds else "NO", each.seen)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
