"""A dataset's datasheet as one HTML page with plots: no script, nothing from elsewhere. Pure.

What a plot shows stands beside it in words, so nobody needs to see it. The page counts people and
classes, so it belongs to the site; it holds no text of anybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from client.recall.kept import Measured
    from client.vault import Dataset

_WIDTH: Final = 720
_LABEL: Final = 220
_VALUE: Final = 190
_ROW: Final = 26
_MOST_BARS: Final = 40

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #5b6570; --bar: #2f6f9f; --line: #d5dade;
  --low: #b3541e; --back: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --dim: #9aa5b1; --bar: #6aa9d8;
  --line: #3a424b; --low: #e08a55; --back: #14181c; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back);
  max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.2rem; font-size: 1.15rem; }
p.about, figcaption, .note { color: var(--dim); }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1rem 0; } svg { width: 100%; height: auto; }
svg text { fill: var(--ink); font: 13px system-ui, sans-serif; }
.bar { fill: var(--bar); } .track { fill: var(--line); } .limit { stroke: var(--low);
  stroke-width: 3; } .range { stroke: var(--bar); stroke-width: 4; } .point { fill: var(--ink); }
code { font-size: .85em; }
"""


def datasheet_page(dataset: Dataset, measured: Sequence[Measured], shown_at: str) -> str:
    """The page.

    Args:
        dataset: What it is about.
        measured: What was measured of the pipeline that made it.
        shown_at: The present time, RFC 3339.
    """
    sheet = dataset.datasheet
    facts = [
        ("version", str(dataset.version)),
        ("added", sheet.created_at),
        ("records", str(sheet.records)),
        ("people", str(sheet.subjects)),
        ("content", sheet.content),
        ("purposes", ", ".join(sheet.purposes) or "none stated: no plan may use it"),
        ("legal basis", sheet.legal_basis or "not stated"),
        ("identifiers", sheet.deidentification.replace("-", " ")),
        ("digest of the rows", dataset.digest),
        ("digest of the de-identification", sheet.deidentification_digest),
    ]
    left_out = {
        "rows that repeat another": sheet.duplicates_dropped,
        "incomplete rows": sheet.empty_dropped,
        "rows of erased people": sheet.erased_rows_left_out,
        **{f"kept out: {why}": count for why, count in sheet.quarantined.items()},
    }
    labels = "spans of each label" if sheet.content == "spans" else "records of each class"
    parts = [
        f"<h1>{escape(dataset.name)}</h1>",
        f'<p class="about">Datasheet, shown at {escape(shown_at)}. It counts people: keep it at '
        "the site.</p>",
        _facts(facts),
        "<h2>How well identifiers are found</h2>",
        *(_measured(each) for each in measured),
    ]
    if not measured:
        parts.append(
            '<p class="note">Nobody measured the pipeline that made this dataset: <code>client '
            "deidentify evaluate</code> or <code>review</code> does.</p>"
        )
    for title, counts in (
        (f"What is in it: {labels}", sheet.label_counts),
        ("Groups by which evaluation is sliced", sheet.groups),
        ("Identifiers that were replaced, by kind", sheet.replacements),
        ("Cleaning, rows by step", sheet.cleaned),
        ("What was left out", {name: count for name, count in left_out.items() if count}),
    ):
        parts.append(f"<h2>{escape(title)}</h2>")
        parts.append(_bars(title, counts) if counts else '<p class="note">nothing</p>')
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>Datasheet of {escape(dataset.name)}</title>\n<style>{_STYLE}</style></head>\n"
        "<body><main>\n" + "\n".join(parts) + "\n</main></body></html>\n"
    )


def _facts(rows: Iterable[tuple[str, str]]) -> str:
    cells = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in rows
    )
    return f"<table>{cells}</table>"


def _measured(measured: Measured) -> str:
    """A measurement: its two demanded limits, and every figure with its interval."""
    figures = measured.figures
    told = (
        f"{figures.method} of {figures.measured_at[:10]}: with 95 % confidence a text's recall is "
        f"at least {figures.recall_at_least} on average, and at most {figures.leak_share_at_most} "
        "of texts have a leak."
    )
    rows: list[tuple[str, Mapping[str, Any]]] = [
        (name.replace("_", " ").replace("f2", "F2"), measured.details[name])
        for name in ("character_recall", "character_precision", "character_f2")
        if name in measured.details
    ]
    if "documents_with_leak" in measured.details:
        rows.append(("texts with a leak", measured.details["documents_with_leak"]))
    rows += [
        (f"whole {kind}", each)
        for kind, each in measured.details.get("full_span_recall", {}).items()
    ]
    return f"<p>{escape(told)}</p>" + (_ranges(told, rows) if rows else "")


def _ranges(title: str, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Points with their 95 % intervals, on a scale from 0 to 1."""
    span = _WIDTH - _LABEL - _VALUE
    drawn = []
    for at, (name, figure) in enumerate(rows):
        value, (low, high) = figure["value"], figure["interval"]
        y = at * _ROW + _ROW / 2
        left, right = _LABEL + low * span, _LABEL + high * span
        words = f"{value:.3f} ({low:.3f} to {high:.3f})"
        drawn.append(
            f"<g>{_label(name, y)}"
            f'<rect class="track" x="{_LABEL}" y="{y - 1}" width="{span}" height="2"/>'
            f'<line class="range" x1="{left:.1f}" x2="{right:.1f}" y1="{y}" y2="{y}"/>'
            f'<circle class="point" cx="{_LABEL + value * span:.1f}" cy="{y}" r="4"/>'
            f'<text x="{_WIDTH - _VALUE + 10}" y="{y + 4}">{words}</text></g>'
        )
    return _figure(title, drawn, "Points: what was seen. Lines: 95 % intervals. From 0 to 1.")


def _bars(title: str, counts: Mapping[str, int]) -> str:
    """Bars, the longest first; beyond a page of them the rest are one."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    if len(ordered) > _MOST_BARS:
        rest = ordered[_MOST_BARS - 1 :]
        ordered = ordered[: _MOST_BARS - 1]
        ordered.append((f"{len(rest)} more", sum(count for _, count in rest)))
    total, most = sum(counts.values()), max(count for _, count in ordered)
    span = _WIDTH - _LABEL - _VALUE
    drawn = []
    for at, (name, count) in enumerate(ordered):
        y = at * _ROW + _ROW / 2
        width = max(1.0, span * count / most) if most else 0.0
        share = f" ({count / total:.1%})" if total else ""
        drawn.append(
            f"<g>{_label(name, y)}"
            f'<rect class="bar" x="{_LABEL}" y="{y - 8}" width="{width:.1f}" height="16" rx="2"/>'
            f'<text x="{_LABEL + width + 8:.1f}" y="{y + 4}">{count}{share}</text></g>'
        )
    return _figure(title, drawn, "")


def _label(name: str, y: float) -> str:
    short = name if len(name) <= 30 else f"{name[:29]}…"
    return (
        f'<text x="{_LABEL - 10}" y="{y + 4}" text-anchor="end">{escape(short)}'
        f"<title>{escape(name)}</title></text>"
    )


def _figure(title: str, drawn: Sequence[str], caption: str) -> str:
    height = _ROW * len(drawn)
    told = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{escape(title, quote=True)}">{"".join(drawn)}</svg>{told}</figure>'
    )
