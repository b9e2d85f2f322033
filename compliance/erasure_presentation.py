"""What the `erasures` commands show to people. Scripts use `--json`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from audit.words import count_of
from compliance.erasure_views import ErasureCaseView
from compliance.presentation import print_fields, print_table, short

_COLOURS = {"open": "red", "retraining": "yellow", "closed": "green"}
_SHORT_CASE = 12


def print_cases(cases: Sequence[ErasureCaseView]) -> None:
    """Cases, one a line."""
    rows = [
        (
            case.case_id[:_SHORT_CASE],
            case.release_name,
            short(case.release_id),
            Text(case.state, style=_COLOURS[case.state]),
            f"{case.debt.subjects}",
            f"{case.debt.epsilon} / {case.debt.epsilon_together}",
            case.debt.delta,
            case.choice or "",
            case.opened_at,
        )
        for case in cases
    ]
    heads = ("case", "name", "release", "state", "k", "ε site / all", "δ", "decided", "opened")
    print_table(heads, rows, "no cases")


def print_case(case: ErasureCaseView) -> None:
    """One case, with all that an officer decides on."""
    debt, decided = case.debt, case.decided
    start = case.start_from
    print_fields(
        {
            "case": case.case_id,
            "state": case.state,
            "release": f"{case.release_name} {case.release_id}, {case.release_state}",
            "run": case.plan_id,
            "opened": f"{case.opened_at}, log entry {case.position}",
            "erased": f"{count_of(debt.subjects, 'subject')}, by {', '.join(case.erasures)}",
            "debt": f"ε {debt.epsilon} at δ {debt.delta} for any one site's erased subjects, "
            f"ε {debt.epsilon_together} for all of them together",
            "retraining starts": "from the base model"
            if start is None
            else f"from at most {count_of(start.rounds, 'round')} of {start.plan_name}"
            f" {start.plan_id} (model "
            f"{start.model or 'not reported'}), whatever of them is kept, or from the base model",
            "decision": ""
            if decided is None
            else f"{decided.choice} by {decided.decided_by} at {decided.decided_at}: "
            f"{decided.reason}",
            "evidence": ""
            if decided is None
            else ", ".join(f"{item.name} {item.digest}" for item in decided.evidence),
            "retraining plan": case.retraining_plan or "",
            "replaced by": case.replaced_by or "",
            "closed": case.closed_at or "",
        }
    )
    print_table(
        ("site", "k", "first round", "ε", "by the lemma"),
        [
            (
                name,
                f"{site.subjects}",
                f"{site.first_round}",
                site.epsilon,
                f"ε {site.lemma_epsilon} at δ {site.lemma_delta}",
            )
            for name, site in debt.sites.items()
        ],
        "",
    )
