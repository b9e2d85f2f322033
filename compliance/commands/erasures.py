"""Commands about erasures that reach models."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from audit.durable import write_durably
from audit.errors import MalformedInput, NotFound
from audit.options import Json
from audit.terminal import print_json
from audit.words import count_of
from compliance.api import ComplianceClient
from compliance.commands.options import (
    DEFAULT_FOLDER,
    FolderOption,
    TokenOption,
    TrustOption,
    plan_id_of,
    release_id_of,
    service,
)
from compliance.erasure_presentation import print_case, print_cases
from compliance.presentation import document, say, short
from compliance.rules.erasure_cases import CaseState
from compliance.session import make_body
from compliance.statements import CaseChoice, Evidence

CaseArgument = Annotated[
    str,
    typer.Argument(
        metavar="CASE", help="The case, the beginning of its id, or its release's name."
    ),
]


def list_cases(
    state: Annotated[
        str | None,
        typer.Option(
            metavar="STATE", help="Only these: open, retraining or closed.", show_default=False
        ),
    ] = None,
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """List the releases that erased subjects took part in, and what is owed for each.

    k subjects were erased; ε is what the model may still tell of them as a group (the largest of
    any site / all sites together). While a case is not closed, nobody gets a grant of its release.

    Example: `compliance erasures list --state open`
    """
    with service(trust, token_file, folder) as client:
        found = client.erasures.cases(_state(state))
    print_json([document(view) for view in found]) if json else print_cases(found)


def show(
    case: CaseArgument,
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Show a case: its release and run, the debt site by site, and what was decided.

    Example: `compliance erasures show 3f9a21`
    """
    with service(trust, token_file, folder) as client:
        view = client.erasures.case(_case_id(client, case))
    print_json(document(view)) if json else print_case(view)


def decide(
    case: CaseArgument,
    choice: Annotated[str, typer.Argument(metavar="CHOICE", help="retrain, rely or withdraw.")],
    reason: Annotated[
        str,
        typer.Option(help="Why. Every holder is told; never write a person's data here."),
    ],
    plan: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="With retrain: the approved retraining plan.", show_default=False
        ),
    ] = None,
    evidence: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=DIGEST",
            help="With rely: what was measured; give it once or more.",
            show_default=False,
        ),
    ] = None,
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Decide what becomes of a release that erased subjects took part in.

    - **withdraw**: recall it. Every grant ends, and every holder is told.
    - **rely**: keep it, because what it may tell of the erased is bounded and was attacked.
      `--evidence` names the release's own `evaluation.json` or `dp_statement.json`, and, where the
      plan was not audited at the sites, an attack's report: `NAME=sha256:…`.
    - **retrain**: another model takes its place. `--plan` names a plan for the same model, task and
      sites that was submitted after the erasure and approved; `compliance erasures conclude` ends
      the case when its release is approved.

    Exit codes: 3 it is your own, or the evidence is missing, 4 no such case or plan, 5 the plan or
    the evidence is another's, 9 closed already, or the plan is not approved or too early.

    Examples: `compliance erasures decide 3f9a21 withdraw --reason "two patients left the study"`
    """
    with service(trust, token_file, folder) as client:
        view = client.erasures.decide(
            _case_id(client, case),
            _choice(choice),
            reason=reason,
            retraining_plan=None if plan is None else plan_id_of(client, plan),
            evidence=[_evidence(text) for text in evidence or ()],
        )
    if json:
        print_json(document(view))
        return
    say(f"[green]decided[/] {escape(choice)} for release {short(view.release_id)}: {view.state}")
    if view.state == "retraining":
        say(f"Next: [bold]compliance erasures conclude {view.case_id[:12]} --release NEW[/]")


def conclude(
    case: CaseArgument,
    release: Annotated[
        str, typer.Option("--release", metavar="ID", help="The retrained, approved release.")
    ],
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Let a retrained release take the place of the case's, which is recalled with it.

    Exit codes: 3 it is your own, 4 no such case or release, 5 the release comes from another plan,
    9 no retraining is under way, or its release is not approved.

    Example: `compliance erasures conclude 3f9a21 --release 77b0e4`
    """
    with service(trust, token_file, folder) as client:
        view = client.erasures.conclude(_case_id(client, case), release_id_of(client, release))
    if json:
        print_json(document(view))
    else:
        say(f"[green]closed[/] case {view.case_id[:12]}: release {short(view.release_id)} recalled")


def receipt(
    erasure: Annotated[
        str,
        typer.Argument(metavar="ERASURE", help="Digest of the site's statement, sha256:…"),
    ],
    output: Annotated[Path, typer.Option("--out", "-o", help="File to write.")],
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Write an erasure's receipt with all that followed, for the subject.

    `audit verify-receipt` checks it on any machine, without the network.

    Example: `compliance erasures receipt sha256:… -o receipt.json`
    """
    with service(trust, token_file, folder) as client:
        found = client.erasures.receipt(erasure)
    text = json_text.dumps(found.to_json(), indent=2) + "\n"
    write_durably(output.absolute(), text.encode("utf-8"))
    if json:
        print_json({"receipt": str(output), "follow_ups": len(found.follow_ups)})
    else:
        say(f"wrote {escape(str(output))}: {len(found.follow_ups)} follow-ups")


def _case_id(client: ComplianceClient, text: str) -> str:
    found = [
        view.case_id
        for view in client.erasures.cases()
        if view.case_id.startswith(text.lower()) or view.release_name == text
    ]
    if not found:
        raise NotFound(f"there is no case {text}", fix="list them: `compliance erasures list`")
    if len(found) > 1:
        raise MalformedInput(
            f"{text} fits {count_of(len(found), 'case')}", fix="give more of the case's id"
        )
    return found[0]


def _state(text: str | None) -> CaseState | None:
    match text:
        case None | "open" | "retraining" | "closed":
            return text
        case _:
            raise typer.BadParameter("a state is open, retraining or closed")


def _choice(text: str) -> CaseChoice:
    match text:
        case "retrain" | "rely" | "withdraw":
            return text
        case _:
            raise typer.BadParameter("a choice is retrain, rely or withdraw")


def _evidence(text: str) -> Evidence:
    name, _, digest = text.partition("=")
    return make_body(Evidence, name=name, digest=digest)
