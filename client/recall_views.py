"""How `client deidentify` and `client data show` tell what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from audit.terminal import out
from audit.words import count_of

if TYPE_CHECKING:
    from client.recall.evaluation import Evaluation, Figure


def print_evaluation(found: Evaluation, pipeline: str) -> None:
    """Every figure of an evaluation with its interval."""
    table = Table("", "", "95 % interval", box=None)
    for name, figure in (
        ("character recall", found.recall),
        ("character precision", found.precision),
        ("F2", found.f2),
        ("texts with a leak", found.leaks),
    ):
        table.add_row(name, *_cells(figure))
    for kind, figure in found.spans.items():
        table.add_row(f"whole spans of {kind}", *_cells(figure))
    say = out().print
    say(table)
    kept_out = f"; {found.kept_out} more are kept out" if found.kept_out else ""
    say(
        f"{count_of(found.texts, 'text')} measured{kept_out}\n"
        f"with 95 % confidence a text's recall is at least {found.recall_at_least:.4f} on average, "
        f"and at most {found.leaks_at_most:.4f} of texts leak\n"
        f"kept for pipeline {pipeline[:23]}…; `client data show` tells it with its datasets",
        highlight=False,
    )


def _cells(figure: Figure) -> tuple[str, str]:
    low, high = figure.interval
    return f"{figure.value:.4f}", f"{low:.4f} to {high:.4f}"
