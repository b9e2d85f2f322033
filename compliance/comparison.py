"""Two releases side by side: what they reach, what they cost, where they come from. Pure.

It decides nothing: an interval that overlaps another's is shown as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from audit.words import count_of
from compliance.gate_views import GatesView
from compliance.release_views import ReleaseView
from compliance.resources import Answer, PlanView
from compliance.statements import GroupEvaluation, ReleaseEvaluation

WHERE_FROM = "plan."
"""Prefix of the lines that are about the plans."""

_EXPECTED = frozenset({"name", "created_at", "format", "author"})
"""Of a plan, what always differs and says nothing of the model."""


class Line(Answer):
    """One fact about both; `differs` where they are not the same."""

    fact: str
    first: str
    second: str
    differs: bool


class Comparison(Answer):
    """Two releases. Plans are compared field by field: only what differs is told of them."""

    first: str
    second: str
    lines: tuple[Line, ...]


def compare(
    first: tuple[ReleaseView, PlanView, GatesView], second: tuple[ReleaseView, PlanView, GatesView]
) -> Comparison:
    """What two releases have in common, and what not."""
    facts = [_facts(*each) for each in (first, second)]
    names = list(dict.fromkeys([*facts[0], *facts[1]]))
    told = [_line(name, facts[0].get(name, ""), facts[1].get(name, "")) for name in names]
    plans = [_flat(each[1].statement.body) for each in (first, second)]
    paths = sorted({*plans[0], *plans[1]})
    different = [
        _line(f"{WHERE_FROM}{path}", plans[0].get(path, ""), plans[1].get(path, ""))
        for path in paths
        if path.split(".")[0] not in _EXPECTED and plans[0].get(path) != plans[1].get(path)
    ]
    return Comparison(
        first=first[0].release_id, second=second[0].release_id, lines=(*told, *different)
    )


def _facts(release: ReleaseView, plan: PlanView, gates: GatesView) -> dict[str, str]:
    manifest = release.manifest
    metrics, measured = manifest.metrics, manifest.evaluation
    spent = sorted(manifest.epsilon_by_site.items())
    facts = {
        "name": manifest.name,
        "state": release.state,
        "created": manifest.created_at,
        "accuracy": f"{metrics.accuracy}{_interval(measured)}",
        "macro F1": "" if metrics.macro_f1 is None else f"{metrics.macro_f1}",
        "perplexity": "" if metrics.perplexity is None else f"{metrics.perplexity}",
        "held-out examples": f"{metrics.examples}",
        "ε by site": ", ".join(f"{site} {value}" for site, value in spent),
        "ε with start": ", ".join(
            f"{site} {value}" for site, value in sorted(manifest.epsilon_with_start.items())
        ),
        "δ": f"{manifest.delta}",
        "sites": ", ".join(plan.plan.sites),
        "base model": f"{manifest.base_model.name} {manifest.base_model.digest}",
    }
    for group in () if measured is None else measured.groups:
        facts[f"accuracy of {group.group}"] = _group(group)
    facts |= {f"gate {gate.name}": gate.verdict for gate in gates.gates}
    return {name: value for name, value in facts.items() if value}


def _interval(measured: ReleaseEvaluation | None) -> str:
    if measured is None:
        return ""
    return f" ({measured.accuracy_low} to {measured.accuracy_high})"


def _group(group: GroupEvaluation) -> str:
    return f"{group.accuracy} ({group.low} to {group.high}), {count_of(group.examples, 'example')}"


def _flat(value: Any, path: str = "") -> dict[str, str]:
    """Every value of a document by its dotted path."""
    if isinstance(value, Mapping):
        parts = [
            _flat(each, f"{path}.{name}" if path else str(name)) for name, each in value.items()
        ]
    elif isinstance(value, list) and any(isinstance(each, dict | list) for each in value):
        parts = [_flat(each, f"{path}.{number}") for number, each in enumerate(value, start=1)]
    else:
        told = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        return {path: told}
    return {name: each for part in parts for name, each in part.items()}


def _line(fact: str, first: str, second: str) -> Line:
    return Line(fact=fact, first=first, second=second, differs=first != second)
