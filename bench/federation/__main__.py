"""`python -m bench.federation`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import bench.federation
from bench.federation.memory import coordinator_peaks
from bench.federation.ours import measure_ours
from bench.federation.secure import secure_costs
from bench.federation.shape import Shape
from bench.federation.stock import stock_seconds_per_round

PARTS: Final = ("ours", "stock", "memory", "secure")


def measure(
    folder: Path, shape: Shape, parts: Sequence[str], options: Mapping[str, Any]
) -> dict[str, float]:
    figures: dict[str, float] = {}
    if "ours" in parts:
        say("ours: starting a compliance service, a coordinator and the sites")
        figures |= measure_ours(folder / "ours", shape, options)
        say(f"ours: {figures['seconds_per_round']} s a round")
    if "stock" in parts:
        say("stock: starting a SuperLink and the SuperNodes")
        seconds = stock_seconds_per_round(folder / "stock", shape)
        figures["stock_seconds_per_round"] = round(seconds, 2)
        say(f"stock: {seconds:.2f} s a round")
    if "ours" in parts and "stock" in parts:
        ratio = figures["seconds_per_round"] / figures["stock_seconds_per_round"]
        figures["seconds_per_round_over_stock"] = round(ratio, 4)
    if "memory" in parts:
        figures |= coordinator_peaks()
    if "secure" in parts:
        figures |= secure_costs()
    return figures


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(bench.federation.__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="two rounds instead of five")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="leave others out")
    parser.add_argument(
        "--option", nargs="+", default=[], metavar="NAME=JSON", help="more lines of our plan"
    )
    options = parser.parse_args(arguments)
    lines = {
        name: json.loads(value) for name, _, value in (x.partition("=") for x in options.option)
    }
    os.environ["OMP_NUM_THREADS"] = "1"  # for every process that is started
    out = Path(__file__).parents[1] / "out"  # on the disk of the checkout; /tmp may be memory
    out.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="federation-", dir=out))
    try:
        figures = measure(folder, Shape(rounds=2 if options.quick else 5), options.only, lines)
    finally:
        shutil.rmtree(folder)
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:<{width}} {value:>10,}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
