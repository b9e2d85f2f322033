"""Commands about personal data breaches: the register, and the clock of its notifications."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer

from audit.errors import MalformedInput
from audit.options import Json, read_text
from audit.terminal import print_json
from compliance.breach_presentation import print_breach, print_breaches
from compliance.breach_views import BreachView
from compliance.commands.options import (
    DEFAULT_FOLDER,
    FolderOption,
    TokenOption,
    TrustOption,
    service,
)
from compliance.presentation import document
from compliance.rules.breaches import BreachRecipient, BreachState

_MAX_TEXT_BYTES: Final = 40_000
"""The service takes 10,000 characters."""

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The breach, such as 2026-3.", show_default=False)
]
AwareOption = Annotated[
    str,
    typer.Option(
        "--aware-at",
        metavar="TIME",
        help="When it became known, RFC 3339: the clock runs from here.",
        show_default=False,
    ),
]
EarlierOption = Annotated[
    str | None,
    typer.Option(
        "--aware-at",
        metavar="TIME",
        help="Correct when it became known; only to an earlier time.",
        show_default=False,
    ),
]
FactsOption = Annotated[
    str, typer.Option("--facts", metavar="TEXT", help="What happened.", show_default=False)
]


def _text(flag: str, help_text: str) -> Any:
    return typer.Option(flag, metavar="TEXT", help=help_text, show_default=False)


NewFactsOption = Annotated[str | None, _text("--facts", "What happened.")]
EffectsOption = Annotated[str | None, _text("--effects", "Likely consequences for people.")]
RemedyOption = Annotated[str | None, _text("--remedial-action", "What was done about it.")]
SubjectKindsOption = Annotated[
    str | None, _text("--categories-of-subjects", "Whose data, such as patients of 2025.")
]
DataKindsOption = Annotated[
    str | None, _text("--categories-of-data", "Which data, such as discharge letters.")
]
SubjectsOption = Annotated[
    int | None,
    typer.Option("--subjects", min=0, help="About how many people.", show_default=False),
]
RecordsOption = Annotated[
    int | None,
    typer.Option("--records", min=0, help="About how many records.", show_default=False),
]
SiteOption = Annotated[
    list[str] | None,
    typer.Option(
        "--site",
        metavar="SITE",
        help="Which site it concerns; repeatable. None: the whole service.",
        show_default=False,
    ),
]
RiskOption = Annotated[
    str | None,
    typer.Option(
        "--risk",
        help="To people: unknown, unlikely, likely or high. Only `unlikely` stops the clock.",
        show_default=False,
    ),
]
RiskReasonOption = Annotated[
    str | None, _text("--risk-reason", "Why the risk is what it is; needed where it is unlikely.")
]
UntoldOption = Annotated[
    str | None,
    _text("--reasons-not-to-tell-subjects", "Which exception lets you not tell the people."),
]


def list_breaches(
    state: Annotated[
        str | None, typer.Option(help="Only breaches that are open, or closed.")
    ] = None,
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """List the breaches, and how long is left to notify.

    Example: `compliance breaches list --state open`
    """
    with service(trust, token_file, folder) as client:
        found = client.breaches.list(cast("BreachState | None", state))
    print_json([document(view) for view in found]) if json else print_breaches(found)


def show(
    name: NameArgument,
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Show one breach with all that is stated of it.

    Example: `compliance breaches show 2026-3`
    """
    with service(trust, token_file, folder) as client:
        _print(client.breaches.show(name), json)


def add(
    name: NameArgument,
    aware_at: AwareOption,
    facts: FactsOption,
    role: Annotated[
        str,
        typer.Option(help="Your part as to these data: controller, or processor for another."),
    ] = "controller",
    effects: EffectsOption = None,
    remedial_action: RemedyOption = None,
    categories_of_subjects: SubjectKindsOption = None,
    categories_of_data: DataKindsOption = None,
    subjects: SubjectsOption = None,
    records: RecordsOption = None,
    risk: RiskOption = None,
    risk_reason: RiskReasonOption = None,
    site: SiteOption = None,
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Record a personal data breach, every one, whether or not it must be notified.

    What is not known yet can follow with `update`. A text that begins with `@` names a file to read
    it from, which keeps it out of the list of processes. Texts are encrypted; the log holds a
    commitment to them.

    Example: `compliance breaches add 2026-3 --aware-at 2026-11-26T08:30:00Z --facts @facts.txt`
    """
    stated = _stated(
        effects=effects,
        remedial_action=remedial_action,
        categories_of_subjects=categories_of_subjects,
        categories_of_data=categories_of_data,
        subjects=subjects,
        records=records,
        risk=risk,
        risk_reason=risk_reason,
        sites=site,
    )
    text = _read(facts)
    with service(trust, token_file, folder) as client:
        view = client.breaches.add(name, aware_at=aware_at, facts=text, role=role, **stated)
    _print(view, json)


def update(
    name: NameArgument,
    aware_at: EarlierOption = None,
    facts: NewFactsOption = None,
    effects: EffectsOption = None,
    remedial_action: RemedyOption = None,
    categories_of_subjects: SubjectKindsOption = None,
    categories_of_data: DataKindsOption = None,
    subjects: SubjectsOption = None,
    records: RecordsOption = None,
    risk: RiskOption = None,
    risk_reason: RiskReasonOption = None,
    site: SiteOption = None,
    reasons_not_to_tell_subjects: UntoldOption = None,
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """State something anew of a breach; what is not given stays as it is.

    Example: `compliance breaches update 2026-3 --risk high --remedial-action @done.txt`
    """
    stated = _stated(
        aware_at=aware_at,
        facts=facts,
        effects=effects,
        remedial_action=remedial_action,
        categories_of_subjects=categories_of_subjects,
        categories_of_data=categories_of_data,
        subjects=subjects,
        records=records,
        risk=risk,
        risk_reason=risk_reason,
        sites=site,
        reasons_not_to_tell_subjects=reasons_not_to_tell_subjects,
    )
    if not stated:
        raise MalformedInput("there is nothing to update", fix="give at least one option")
    with service(trust, token_file, folder) as client:
        _print(client.breaches.update(name, **stated), json)


def notify(
    name: NameArgument,
    to: Annotated[
        str,
        typer.Option(help="Whom you told: authority, subjects or controller.", show_default=False),
    ],
    at: Annotated[
        str,
        typer.Option(metavar="TIME", help="When you told them, RFC 3339.", show_default=False),
    ],
    reasons_for_delay: Annotated[
        str, _text("--reasons-for-delay", "Why so late; needed where it is.")
    ] = "",
    reference: Annotated[str, _text("--reference", "The authority's own reference.")] = "",
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Record that you told the authority, the people or the controller. It tells nobody itself.

    Example: `compliance breaches notify 2026-3 --to authority --at 2026-11-27T10:00:00Z`
    """
    with service(trust, token_file, folder) as client:
        view = client.breaches.notify(
            name,
            cast("BreachRecipient", to),
            at=at,
            reasons_for_delay=_read(reasons_for_delay),
            reference=reference,
        )
    _print(view, json)


def close(
    name: NameArgument,
    reason: Annotated[str, _text("--reason", "Why nothing more is to be done.")] = "",
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Close a breach for good. Refused until everything is stated and everybody told who must be.

    Example: `compliance breaches close 2026-3 --reason "keys replaced, authority content"`
    """
    with service(trust, token_file, folder) as client:
        _print(client.breaches.close(name, reason=_read(reason)), json)


def _print(view: BreachView, json: bool) -> None:
    print_json(document(view)) if json else print_breach(view)


def _stated(**values: str | int | list[str] | None) -> dict[str, str | int | list[str]]:
    return {
        name: _read(value) if isinstance(value, str) else value
        for name, value in values.items()
        if value is not None
    }


def _read(text: str) -> str:
    """A text, or what the file holds that `@FILE` names."""
    if not text.startswith("@"):
        return text
    return read_text(Path(text[1:]), _MAX_TEXT_BYTES, "name a file with the text after @").strip()
