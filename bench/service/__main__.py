"""Command line of the benchmark."""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.service import __doc__ as description
from bench.service.federation import Federation, founded
from bench.service.large import measure_log, measure_requests
from bench.service.running import Served, first_core_is_the_servers, served
from bench.service.server import BARE, OURS


def compare(ours: Served, bare: Served, federation: Federation, turns: int, seconds: float) -> Any:
    """Both under the same load, in turns."""
    figures: dict[str, list[dict[str, float]]] = {OURS: [], BARE: []}
    for server in (ours, bare):
        server.load(
            federation.mixed(), seconds / 2, federation.certificates
        )  # what is made at the first call is made
    for turn in range(turns):
        order = (ours, bare) if turn % 2 else (bare, ours)
        for server in order:
            measured = server.load(federation.mixed(), seconds, federation.certificates)
            figures[server.which].append(measured)
        sys.stderr.write(f"\rturn {turn + 1} of {turns}")
    sys.stderr.write("\n")

    def median(which: str, name: str) -> float:
        return round(statistics.median(turn[name] for turn in figures[which]), 2)

    ratios = [
        one["per_second"] / other["per_second"]
        for one, other in zip(figures[OURS], figures[BARE], strict=True)
    ]
    return {
        "requests_per_second": median(OURS, "per_second"),
        "bare_requests_per_second": median(BARE, "per_second"),
        "audited_over_bare": round(statistics.median(ratios), 3),
        "audited_over_bare_least": round(min(ratios), 3),
        "cpu_ms_of_a_request": median(OURS, "cpu_ms"),
        "bare_cpu_ms_of_a_request": median(BARE, "cpu_ms"),
        "p50_ms": median(OURS, "p50_ms"),
        "p99_ms": median(OURS, "p99_ms"),
        "bare_p99_ms": median(BARE, "p99_ms"),
        "errors": sum(turn["errors"] for which in figures.values() for turn in which),
    }


def run(folder: Path, addresses: tuple[str, str] | None, options: argparse.Namespace) -> Any:
    """Everything over one kind of database."""
    with ExitStack() as stack:
        federation = founded(folder, addresses, options.sites)
        ours = stack.enter_context(served(OURS, federation.folder))
        bare = stack.enter_context(served(BARE, federation.copy))
        figures = compare(ours, bare, federation, options.turns, options.seconds)
    if options.compare_only:
        return figures
    return (
        figures
        | measure_requests(federation, options.requests)
        | measure_log(federation, options.entries)
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(description or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--no-postgresql", action="store_true", help="leave PostgreSQL out")
    parser.add_argument("--only", choices=("sqlite", "postgresql"), help="one database")
    parser.add_argument("--compare-only", action="store_true", help="nothing but the comparison")
    options = parser.parse_args(arguments)
    options.sites = 50
    options.turns = 3 if options.quick else 5
    options.seconds = 2.0 if options.quick else 4.0
    options.requests = 1_000 if options.quick else 10_000
    options.entries = 100_000 if options.quick else 1_000_000
    first_core_is_the_servers()
    out = Path(__file__).parents[1] / "out"  # on the disk of the checkout; /tmp may be memory
    out.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="service-", dir=out))
    figures: dict[str, Any] = {}
    try:
        if options.only != "postgresql":
            (folder / "sqlite").mkdir()
            figures["sqlite"] = run(folder / "sqlite", None, options)
        if options.only != "sqlite" and not options.no_postgresql:
            from tests.postgresql import running_server

            with running_server(durable=True) as server:
                (folder / "postgresql").mkdir()
                addresses = (server.new_database(), "copy_of_log_0")
                figures["postgresql"] = run(folder / "postgresql", addresses, options)
    finally:
        shutil.rmtree(folder)
    names = list(dict.fromkeys(name for kind in figures.values() for name in kind))
    width = max(map(len, names))
    print(" " * width, *(f"{kind:>12}" for kind in figures))
    for name in names:
        print(f"{name:<{width}}", *(f"{kind[name]:>12,}" for kind in figures.values()))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
