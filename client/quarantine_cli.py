"""`client data quarantine`: rows that were kept out, why, and what becomes of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from audit.errors import Refused
from audit.options import Json
from audit.terminal import err, out, print_json
from audit.words import count_of
from client.options import FolderOption
from client.site import Site

app = typer.Typer(
    name="quarantine",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""
Rows that an ingest kept out of a dataset: why, and what becomes of them.

A row that cannot be de-identified is never stored, and never trained on. What is kept of it, sealed
under its subject's key, says which row of the source it is and why; the text stays in the source.
Adding the dataset again, erasing the subject, or removing the dataset ends it.
""",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The dataset.", show_default=False)]
Number = Annotated[
    int, typer.Argument(metavar="ROW", help="Its number in the list.", show_default=False)
]
SourceArgument = Annotated[
    str,
    typer.Argument(metavar="SOURCE", help="What the dataset was added from.", show_default=False),
]
Query = Annotated[
    str,
    typer.Option("--query", metavar="SQL|FILE", help="As for `client data add`."),
]
Password = Annotated[
    Path | None,
    typer.Option("--password-file", metavar="FILE", help="Likewise.", show_default=False),
]


@app.command("list")
def list_rows(name: Name, folder: FolderOption = None, json: Json = False) -> None:
    """List the rows that wait, with the reason and what to do. Never shows text.

    Exit codes: 4 no such dataset, 6 an entry was altered.

    Examples: `client data quarantine list notes` · `client data quarantine list notes --json`
    """
    from client.quarantine import advice
    from client.vault import Vault

    with Site.open(folder) as site, Vault.open(site.paths, site.keyring) as vault:
        entries = vault.kept_out(name)
    if json:
        rows = [{"row": e.number, "reason": e.reason, "advice": advice(e)} for e in entries]
        print_json({"dataset": name, "rows": rows})
        return
    if not entries:
        out().print(f"no row of {name} waits", highlight=False)
        return
    table = Table("row", "reason", "what to do", box=None)
    for entry in entries:
        table.add_row(str(entry.number), escape(entry.reason), advice(entry))
    out().print(table)
    counts = Counter(entry.reason for entry in entries)
    told = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
    out().print(f"waiting: {count_of(len(entries), 'row')}, {told}", highlight=False)


@app.command()
def show(
    name: Name,
    number: Number,
    source: SourceArgument,
    query: Query = "",
    password_file: Password = None,
    folder: FolderOption = None,
) -> None:
    """Show a row as the source has it, on this terminal alone, and why it was kept out.

    Exit codes: 3 this is no terminal, 4 no such dataset or row, or the source holds it no more.

    Example: `client data quarantine show notes 3 notes.csv`
    """
    from rich.text import Text

    from audit.terminal import visible
    from client.quarantine import advice, find, waiting
    from client.sources import open_source
    from client.vault import Vault

    _require_terminal()
    with Site.open(folder) as site, Vault.open(site.paths, site.keyring) as vault:
        entry = waiting(vault, name, number)
        given = open_source(source, query, password_file)
        found = find(vault, vault.dataset(name), entry, given)
    console = err()
    console.print(f"row {number}: {escape(entry.reason)}; {advice(entry)}\n", highlight=False)
    console.print(Text(visible(found.record.source.text)))


@app.command()
def release(
    name: Name,
    number: Number,
    source: SourceArgument,
    query: Query = "",
    password_file: Password = None,
    folder: FolderOption = None,
    json: Json = False,
) -> None:
    """Cut out of a row what keeps it out, see what comes of the rest, and add that to the dataset.

    The row is shown on this terminal alone. You type what to cut out, one thing a line; an empty
    line ends it. The rest is de-identified with everything that is known of its subject, and shown
    beside the original; when you agree it joins the dataset, in one step. A row that the pipeline
    keeps out again stays out.

    Exit codes: 3 kept out again, not agreed to, or this is no terminal; 4 no such dataset or row,
    or the source holds it no more.

    Example: `client data quarantine release notes 3 notes.csv`
    """
    from client.deidentification.pipeline import Deidentifier, Quarantined
    from client.deidentification.policy import read_replacement_policy
    from client.preview import Previewed, print_preview
    from client.quarantine import find, waiting
    from client.quarantine import release as admit
    from client.recall.review import Session
    from client.recall.review_screen import look_through
    from client.sources import open_source
    from client.vault import Vault

    _require_terminal()
    with Site.open(folder) as site, Vault.open(site.paths, site.keyring) as vault:
        dataset, entry = vault.dataset(name), waiting(vault, name, number)
        found = find(vault, dataset, entry, open_source(source, query, password_file))
        policy = read_replacement_policy(site.paths.deidentify)
        deidentifier = Deidentifier(site.keyring.secret("surrogates"), policy=policy)
        if deidentifier.digest != dataset.datasheet.deidentification_digest:
            raise Refused(
                f"{name} was made by another configuration or version than the present one",
                fix="add it again with --replace",
            )
        row, session = found.row(), Session(dataset.id, deidentifier.digest, {"": 0})
        with err().screen(hide_cursor=False):
            looked = look_through(session, [row], err(), input, lambda: None)
        marks = session.marks_of(row)
        if not looked or marks is None:
            raise Refused("the row was left as it is", fix="run the command again")
        cut = found.without(marks)
        outcome = cut.outcome(deidentifier)
        if not isinstance(outcome, Quarantined):
            with err().screen(hide_cursor=False):
                print_preview([Previewed(cut.record.source.text, outcome)], err())
                agreed = typer.confirm(f"Add this to {name}?", err=True)
            if not agreed:
                raise Refused("the row was left as it is", fix="run the command again")
        changed = admit(
            vault, site.journal, site.principal, dataset, entry, cut, outcome, policy.reveal
        )
    if json:
        print_json({"released": number, "dataset": name, "records": changed.records})
    else:
        out().print(
            f"released row {number}: {name} has {count_of(changed.records, 'record')}",
            highlight=False,
        )


@app.command()
def discard(
    name: Name,
    number: Number,
    reason: Annotated[
        str,
        typer.Option("--reason", help="Why; goes into the journal.", show_default=False),
    ],
    folder: FolderOption = None,
    json: Json = False,
) -> None:
    """Leave a row out for good. The datasheet goes on counting it.

    Exit codes: 4 no such dataset or row, 5 no reason given.

    Example: `client data quarantine discard notes 3 --reason "a scan without text"`
    """
    from client.quarantine import discard as leave_out
    from client.quarantine import waiting
    from client.vault import Vault

    with Site.open(folder) as site, Vault.open(site.paths, site.keyring) as vault:
        dataset, entry = vault.dataset(name), waiting(vault, name, number)
        leave_out(vault, site.journal, site.principal, dataset, entry, reason)
    if json:
        print_json({"discarded": number, "dataset": name})
    else:
        out().print(f"discarded row {number} of {name}", highlight=False)


def _require_terminal() -> None:
    from client.deidentify_cli import at_terminal

    if not at_terminal():
        raise Refused(
            "a row is a person's record, and this is no terminal",
            fix="run it on a terminal; only standard output may be redirected",
        )
