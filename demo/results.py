"""The page of results: in the terminal, as HTML with plots, and as JSON."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from audit.words import count_of
from demo.story import Results

HERE = Path(__file__).parent

REPORT_KEYS = (
    "accuracy",
    "macro_f1",
    "accuracy_interval",
    "macro_roc_auc",
    "expected_calibration_error",
    "labels",
    "epsilon_by_site",
    "delta",
    "identifiers_planted",
    "identifiers_left",
    "log_entries",
    "log_verified",
    "tamper_detected",
    "erasure_receipt_verified",
    "release_loaded",
    "seconds",
)
"""Keys of `report.json` that others may rely on; it may hold more."""


def rows(results: Results) -> list[tuple[str, str, str]]:
    """What was found, one line each: name, value, what it means."""
    left, planted = results.identifiers_left, results.identifiers_planted
    share = f"{1 - left / planted:.1%} removed" if planted else "none planted"
    worst = max(results.epsilon_by_site.values(), default=0.0)
    return [
        (
            "accuracy",
            f"{results.accuracy:.3f}",
            "held-out subjects of all sites, counts summed; 95 % interval {:.3f} to {:.3f}".format(
                *results.accuracy_interval
            ),
        ),
        ("macro F1", f"{results.macro_f1:.3f}", "every topic counts the same"),
        (
            "macro ROC-AUC",
            _measured(results.macro_roc_auc),
            "how well a topic's messages are told from the rest, 0.5 is guessing",
        ),
        (
            "calibration error",
            _measured(results.expected_calibration_error),
            "how far confidence and accuracy lie apart on average",
        ),
        (
            "always the commonest topic",
            f"{results.majority_share:.3f}",
            "what guessing would score",
        ),
        (
            "privacy loss ε",
            f"{worst:.2f}",
            f"largest site, δ = {results.delta:g}, add or remove one subject",
        ),
        ("identifiers left", f"{left} of {planted}", f"{share}, searched for in the stored text"),
        (
            "audit log",
            f"{count_of(results.log_entries, 'entry')}, {_held(results.log_verified)}",
            "recomputed without any secret",
        ),
        ("tampered copy", _caught(results.tamper_detected), results.tamper_message),
        (
            "erasure receipt",
            _held(results.erasure_receipt_verified),
            f"{count_of(results.erased_records, 'record')} and the subject's key are gone",
        ),
        (
            "release",
            "loads" if results.release_loaded else "does NOT load",
            "plain transformers and peft, no Fiduciary",
        ),
        ("time", f"{results.seconds:.0f} s", "on this machine, every process included"),
    ]


def _measured(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"


def _held(value: bool) -> str:
    return "verified" if value else "NOT verified"


def _caught(value: bool) -> str:
    return "caught" if value else "NOT caught"


def print_results(results: Results, console: Console) -> None:
    """Print the page of results."""
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(style="cyan")
    table.add_column(style="dim")
    for row in rows(results):
        table.add_row(*row)
    console.print(Panel(table, title="One private federated run", title_align="left"))


def write_reports(results: Results, folder: Path) -> tuple[Path, Path]:
    """Write `report.html` and `report.json` and return their paths."""
    data = folder / "report.json"
    data.write_text(json.dumps(asdict(results), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    html = folder / "report.html"
    html.write_text(render_html(results), encoding="utf-8")
    return html, data


def render_html(results: Results) -> str:
    """The results as one self-contained page: no script, no request to anywhere."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("report.html.j2").render(
        results=results,
        rows=rows(results),
        rounds_plot=_rounds_plot(results.rounds),
        chapters=sorted(results.seconds_by_chapter.items(), key=lambda item: -item[1]),
    )


def _rounds_plot(rounds: list[dict[str, Any]]) -> str:
    """Accuracy and ε over the rounds, as SVG."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    figure, accuracy_axis = plt.subplots(figsize=(7.2, 3.0), layout="constrained")
    numbers = [entry["round"] + 1 for entry in rounds]
    measured = [(n, e["accuracy"]) for n, e in zip(numbers, rounds, strict=True) if e["accuracy"]]
    accuracy_axis.plot(
        *zip(*measured, strict=True) if measured else ([], []), "o-", color="#0b6e4f"
    )
    accuracy_axis.set(xlabel="round", ylabel="accuracy", ylim=(0, 1))
    accuracy_axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    accuracy_axis.yaxis.label.set_color("#0b6e4f")
    epsilon_axis = accuracy_axis.twinx()
    epsilon_axis.step(numbers, [e["epsilon"] for e in rounds], where="mid", color="#8a1c4a")
    epsilon_axis.set(ylabel="ε spent (largest site)", ylim=(0, None))
    epsilon_axis.yaxis.label.set_color("#8a1c4a")
    for axis in (accuracy_axis, epsilon_axis):
        axis.spines[["top"]].set_visible(False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]
