"""The `client requests` commands: what data subjects ask of this site, and the answers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from audit.errors import Refused
from audit.options import Json
from audit.terminal import err, print_error, print_json
from audit.words import count_of
from client.erasure_cli import send_waiting
from client.network import open_service
from client.options import FolderOption
from client.outbox import Delivery, Outbox
from client.presentation import say
from client.request_settings import read_request_settings
from client.site import Site
from client.subject_desk import SubjectDesk
from client.subject_exclusions import lift_exclusions
from client.vault.store import Vault
from compliance.presentation import print_table
from compliance.statements import SubjectAnswer
from compliance.subject_requests_views import SitePart

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""
See what data subjects ask of this site, and answer.

`client start` fetches requests and acts on erasure, objection and restriction by itself; the rest
waits for you. `requests.toml` in the site's folder changes which: `automatic = ["erasure", …]`.

The compliance service never learns who a subject is: the identifiers are sealed to a key of this
site, and only these commands show them, to you.
""",
)

IdArgument = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="The request, or the first digits of its id.", show_default=False
    ),
]


@app.command("list")
def list_requests(folder: FolderOption = None, json: Json = False) -> None:
    """List what waits for this site, the most urgent first. Asks the compliance service.

    Exit codes: 0 listed, 7 the compliance service does not answer.

    Example: `client requests list`
    """
    with _desk(folder) as (site, desk):
        parts = list(desk.parts())
        automatic = read_request_settings(site.paths.request_settings).automatic
    if json:
        print_json([_described(part, automatic) for part in parts])
        return
    rows = [
        (
            part.request_id[:8],
            part.right,
            part.due_at[:10],
            _waits_for(part, automatic),
            str(part.reminders),
        )
        for part in parts
    ]
    heads = ("id", "asks for", "due", "waits for", "reminders")
    print_table(heads, rows, "no requests wait for this site")


@app.command()
def show(request: IdArgument, folder: FolderOption = None, json: Json = False) -> None:
    """Show one request, and **who it is**: this prints the subject's identifiers.

    Exit codes: 0 shown, 3 identity is not proven yet, 4 no such request, 6 sealed to another key.

    Example: `client requests show 3fa2c1`
    """
    with _desk(folder) as (site, desk):
        part = desk.part(request)
        identifiers = desk.identify(part)
        automatic = read_request_settings(site.paths.request_settings).automatic
    if json:
        who = identifiers.model_dump(mode="json", exclude={"format", "package_key"})
        print_json({**_described(part, automatic), **who})
        return
    say(f"request {part.request_id}: [bold]{part.right}[/], due {part.due_at[:10]}")
    for subject_id in identifiers.subject_ids:
        say(f"subject [bold]{escape(subject_id)}[/]")
    if identifiers.details:
        say(f"says: {escape(identifiers.details)}")
    handed = "sealed to the subject's own key" if identifiers.package_key else "handed over by you"
    if part.right in ("access", "portability"):
        say(f"a copy of the data would be {handed}")


@app.command()
def confirm(
    request: IdArgument,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="How you checked, such as identity-card. Never what was shown.",
            show_default=False,
        ),
    ],
    folder: FolderOption = None,
) -> None:
    """State, signed, that you know who asks. Only then does the service send the identifiers.

    Exit codes: 0 stated, 4 no such request, 7 the service does not answer, 9 it is known already.

    Example: `client requests confirm 3fa2c1 --method identity-card`
    """
    with _desk(folder) as (_, desk):
        part = desk.part(request)
        desk.confirm(part, method)
    say(f"request {part.request_id[:8]}: stated that you know who asks")


@app.command()
def answer(
    request: IdArgument,
    folder: FolderOption = None,
    refuse: Annotated[
        str | None,
        typer.Option(
            "--refuse",
            metavar="GROUND",
            help="Say no, on a ground of the law such as legal-obligation; a wrong one lists them.",
            show_default=False,
        ),
    ] = None,
    not_found: Annotated[
        bool, typer.Option("--not-found", help="Say that the subject is not known here.")
    ] = False,
    corrected: Annotated[
        bool, typer.Option("--corrected", help="Of a rectification: you corrected the records.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Do what a subject asks for, and sign the answer; or say no.

    Access and portability make a copy of the subject's data: sealed to the subject's key where the
    request brought one, else a file in `packages/` that you hand over and then delete. Erasure
    cannot be undone.

    Exit codes: 0 answered (also when the answer still waits to be sent), 2 nobody is there to ask
    and no `--yes`, 3 identity is not proven, or something must be done first, 4 no such request.

    Examples: `client requests answer 3fa2c1` ·
    `client requests answer 3fa2c1 --refuse legal-obligation`
    """
    if refuse is not None and not_found:
        raise typer.BadParameter("choose one of --refuse and --not-found")
    with _desk(folder) as (site, desk):
        part = desk.part(request)
        if refuse is not None or not_found:
            done = desk.decline(part, ground=refuse)
        else:
            if not yes:
                _ask(part)
            done = desk.act(part, "operator", corrected=corrected)
        delivery = send_waiting(site, Outbox(site))
        file = site.paths.packages / f"{part.request_id}.json"
        package = file if done.delivery == "by-operator" else None
    if json:
        print_json(
            {
                "answer": done.body(),
                "package": None if package is None else str(package),
                "sent": delivery.sent,
                "waiting": delivery.waiting,
                "rejected": delivery.rejected,
            }
        )
        return
    _print(done, package, delivery)


@app.command("lift")
def lift_exclusion(
    request: IdArgument,
    reason: Annotated[
        str,
        typer.Option(
            "--reason",
            help="Why, for the record. Never write a person's data here.",
            show_default=False,
        ),
    ],
    folder: FolderOption = None,
) -> None:
    """End an objection's or restriction's effect: the records may be used again. Needs no network.

    Tell the subject before you lift a restriction (GDPR Art. 18(3)).

    Exit codes: 0 lifted, 4 no exclusion came from this request.

    Example: `client requests lift 3fa2c1 --reason "the subject withdrew the objection"`
    """
    with Site.open(folder) as site, Vault.open(site.paths, site.keyring) as vault:
        count = lift_exclusions(site, vault, request, reason)
    say(f"lifted: records of {count_of(count, 'subject')} may be used again")


@app.command("rotate-key")
def rotate_key(folder: FolderOption = None, json: Json = False) -> None:
    """Replace the key to which subjects' identifiers are sealed for this site.

    New requests are sealed to the new key. What was sealed to the old one is still opened; when all
    of it is answered, and a day has passed, `client start` destroys the old key. A copy of the old
    key that somebody took then opens nothing that came after.

    Exit codes: 0 replaced, 7 the compliance service does not answer (nothing was replaced, or
    `client start` will tell it).

    Example: `client requests rotate-key`
    """
    with _desk(folder) as (_, desk):
        stated = desk.rotate_key()
    if json:
        print_json(stated.body())
        return
    say(f"requests are sealed to key {stated.generation} from now on")
    say("the old key opens what was sealed to it, and is destroyed when all of that is answered")


@contextmanager
def _desk(folder: Path | None) -> Iterator[tuple[Site, SubjectDesk]]:
    with (
        Site.open(folder) as site,
        open_service(site) as service,
        Vault.open(site.paths, site.keyring) as vault,
        site.ledger() as ledger,
    ):
        yield site, SubjectDesk(site, vault, ledger, service)


def _waits_for(part: SitePart, automatic: tuple[str, ...]) -> str:
    if part.sealed is None:
        return "you: confirm who asks" if part.identity == "site-verified" else "proof of identity"
    return "`client start`" if part.right in automatic else "you: answer"


def _described(part: SitePart, automatic: tuple[str, ...]) -> dict[str, Any]:
    shown = part.model_dump(mode="json", exclude={"sealed"})
    return {**shown, "waits_for": _waits_for(part, automatic)}


def _ask(part: SitePart) -> None:
    if not sys.stdin.isatty():
        raise typer.BadParameter("this acts on a person's data: add --yes")
    if not typer.confirm(f"Act on request {part.request_id[:8]} ({part.right})?", err=True):
        raise Refused("nothing was done", fix="answer y, or add --yes")


def _print(done: SubjectAnswer, package: Path | None, delivery: Delivery) -> None:
    say(f"request {done.request[:8]}: [bold]{done.outcome}[/]")
    if package is not None:
        say(f"hand over {escape(str(package))} to the subject, then delete it")
    if delivery.problem is not None:
        err().print("[yellow]the answer waits:[/] it is done, and told to the service later")
        print_error(delivery.problem)
    for reason in delivery.rejected:
        print_error(Refused(f"the compliance service did not take a statement: {reason}"))
