"""`client data`: put records into the vault, look at what is there, take it out again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from audit.errors import ExitCode, MalformedInput, NotFound, Refused
from audit.options import Json
from audit.terminal import err, out, print_json
from audit.words import count_of
from client import quarantine_cli
from client.dataset_views import (
    described,
    print_dataset,
    print_datasets,
    print_leaks,
)
from client.export_cli import export
from client.intake_cli import add
from client.options import FolderOption
from client.risk_cli import risk
from client.site import Site
from compliance.statements import utc_now

app = typer.Typer(
    name="data",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""
Put records into this site's vault, and see what is there.

Records are **de-identified first** and stored encrypted, each under the key of its own person. The
text as you have it is never written to the site's folder and never leaves this machine.
""",
)

app.add_typer(quarantine_cli.app, name="quarantine")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The dataset.", show_default=False)]


app.command()(add)
app.command()(export)
app.command()(risk)


@app.command("list")
def list_datasets(folder: FolderOption = None, json: Json = False) -> None:
    """List the datasets in the vault.

    Examples: `client data list` · `client data list --json`
    """
    from client.recall.kept import Measurements
    from client.vault import Vault

    with Site.open(folder) as site, Vault.open(site.paths, site.keyring) as vault:
        datasets = vault.datasets()
        measurements = Measurements(site.paths, site.keyring)
        if json:
            print_json([described(dataset, measurements.of(dataset)) for dataset in datasets])
            return
    if not datasets:
        out().print("the vault is empty; `client data add FILE` stores records", highlight=False)
        return
    print_datasets(datasets)


@app.command()
def show(
    name: Name,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE.html",
            help="Write the datasheet as a page with plots, readable by you only.",
            show_default=False,
        ),
    ] = None,
    folder: FolderOption = None,
    json: Json = False,
) -> None:
    """Show what is known of a dataset: counts, labels, what was replaced and what was kept out.

    Its recall is what `client deidentify evaluate` or `review` measured of the very pipeline that
    made it. Never shows text; but it counts people, so keep a page that you write at the site.

    Exit codes: 4 no such dataset, 6 a measurement was altered.

    Examples: `client data show messages` · `client data show messages --json` · `client data show
    messages --html messages.html`
    """
    from client.datasheet_page import datasheet_page
    from client.plots import check_plot, write_plot
    from client.recall.kept import Measurements
    from client.vault import Vault

    check_plot(html, "--html", ".html")
    with Site.open(folder) as site, Vault.open(site.paths, site.keyring) as vault:
        dataset = vault.dataset(name)
        measured = Measurements(site.paths, site.keyring).of(dataset)
    if html is not None:
        html.touch(mode=0o600)
        html.chmod(0o600)
        write_plot(html, datasheet_page(dataset, measured, utc_now()), "--html")
    if json:
        print_json(described(dataset, measured))
    else:
        print_dataset(dataset, measured)
        if html is not None:
            out().print(f"datasheet: {escape(str(html))}", highlight=False)


@app.command()
def verify(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="The dataset; all by default.", show_default=False),
    ] = None,
    folder: FolderOption = None,
    json: Json = False,
) -> None:
    """Open every stored row, and compare digest and counts with the sealed datasheet.

    Exit codes: 0 all is well, 4 no such dataset, 6 something does not verify.

    Examples: `client data verify` · `client data verify messages --json`
    """
    from client.vault import Vault

    with Site.open(folder) as site, Vault.open(site.paths, site.keyring) as vault:
        names = [dataset.name for dataset in vault.datasets()] if name is None else [name]
        checks = [vault.verify(one) for one in names]
    failed = any(check.problems for check in checks)
    if json:
        print_json(
            {
                "verified": not failed,
                "datasets": [
                    {"name": c.name, "records": c.records, "problems": list(c.problems)}
                    for c in checks
                ],
            }
        )
    else:
        for check in checks:
            verdict = "[red]does not verify[/]" if check.problems else "[green]verified[/]"
            out().print(
                f"{check.name}: {count_of(check.records, 'record')}, {verdict}", highlight=False
            )
            for problem in check.problems:
                err().print(f"  {escape(problem)}", highlight=False)
    if failed:
        raise typer.Exit(int(ExitCode.VERIFICATION_FAILED))


@app.command()
def remove(
    name: Name,
    folder: FolderOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Delete a dataset's rows. This erases nobody: use `client erase` for a person.

    Exit codes: 2 nobody is there to ask and no --yes, 3 not confirmed, 4 no such dataset.

    Example: `client data remove messages --yes`
    """
    from client.ingest import Recorder
    from client.vault import Vault

    with Site.open(folder) as site, Vault.open(site.paths, site.keyring) as vault:
        dataset = vault.dataset(name)
        if not yes:
            _ask(dataset.records, name)
        Recorder(site.journal, site.principal).removed(dataset)
        vault.remove(name)
    if json:
        print_json({"removed": name, "records": dataset.records})
    else:
        out().print(f"removed {name}: {count_of(dataset.records, 'record')}", highlight=False)


def _ask(records: int, name: str) -> None:
    if not sys.stdin.isatty():
        raise typer.BadParameter("removed rows are gone: add --yes")
    if not typer.confirm(f"Delete the {count_of(records, 'record')} of {name}?", err=True):
        raise Refused("nothing was removed", fix="answer y, or add --yes")


@app.command()
def readmit(
    subject: Annotated[
        str,
        typer.Argument(metavar="SUBJECT", help="The id of an erased subject.", show_default=False),
    ],
    reason: Annotated[
        str,
        typer.Option("--reason", help="Why; goes into the journal.", show_default=False),
    ],
    folder: FolderOption = None,
    json: Json = False,
) -> None:
    """Let an erased subject's rows in again, when the person asks for it.

    Nothing that was erased comes back. Rows that are added from now on are stored under a new key.

    Exit codes: 4 the subject is not erased, 5 no reason given.

    Example: `client data readmit P-00417 --reason "withdrew the request on 3 May"`
    """
    from client.ingest import Recorder
    from client.vault import Vault

    if not reason.strip():
        raise MalformedInput("no reason given", fix="say why with --reason")
    with Site.open(folder) as site, Vault.open(site.paths, site.keyring) as vault:
        pseudonym = vault.pseudonym(subject)
        if not vault.is_erased(subject):
            raise NotFound("this subject is not erased", fix="check the id's spelling")
        Recorder(site.journal, site.principal).readmitted(pseudonym, reason.strip())
        vault.readmit(subject)
    if json:
        print_json({"readmitted": pseudonym})
    else:
        out().print("readmitted; the subject's rows will be stored again", highlight=False)


@app.command("check-leaks")
def check_leaks(
    planted: Annotated[
        Path,
        typer.Option(
            "--planted", metavar="FILE", help="What was planted, by subject.", show_default=False
        ),
    ],
    folder: FolderOption = None,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", metavar="NAME", help="Only this one.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Open the whole vault and count which planted identifiers are still in it.

    Case, accents, spaces and punctuation do not matter, and a family name alone counts too. Prints
    counts, never identifiers. Pictures are left out: their pixels cannot be searched.

    Exit codes: 0 counted, whatever the count; 4 no such file or dataset.

    Example: `client data check-leaks --planted planted.json --json`
    """
    from client.leaks import count_leaks, read_planted
    from client.vault import Vault

    expected = read_planted(planted)
    with Site.open(folder) as site, Vault.open(site.paths, site.keyring) as vault:
        datasets = vault.datasets() if dataset is None else [vault.dataset(dataset)]
        searched = [one.name for one in datasets if one.datasheet.content != "image"]
        records = [record for name in searched for record in vault.examples(name)]
        pseudonyms = {subject: vault.pseudonym(subject) for subject in expected.subjects}
    found = count_leaks(expected, records, pseudonyms)
    if json:
        print_json(
            {
                "planted": found.planted,
                "left": found.left,
                "planted_by_kind": dict(found.planted_by_kind),
                "left_by_kind": dict(found.left_by_kind),
                "records": found.records,
                "subjects_with_leak": found.subjects_with_leak,
            }
        )
    else:
        print_leaks(found)


@app.command()
def demo(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Where the files go.", show_default=False),
    ],
    profile: Annotated[
        str, typer.Option("--profile", metavar="hospital|bank", help="Whose messages.")
    ] = "hospital",
    site: Annotated[
        str, typer.Option("--site", metavar="NAME", help="Whose people: other sites have others.")
    ] = "demo",
    subjects: Annotated[
        int, typer.Option("--subjects", metavar="N", min=1, max=100_000, help="How many people.")
    ] = 300,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Same seed, same files.")] = 0,
    json: Json = False,
) -> None:
    """Write synthetic messages with known identifiers in them, to try everything with.

    `DIR/notes.csv` has the columns `subject_id`, `full_name`, `phone`, `text` and `label`;
    `DIR/planted.json` says which identifiers stand in the texts. Nobody in them exists.

    Exit codes: 9 the files exist.

    Example: `client data demo notes --profile bank --subjects 300 --seed 1`
    """
    from client.demo_notes import Profile, write_notes

    if profile not in tuple(Profile):
        raise MalformedInput(f"unknown profile {profile!r}", fix=f"one of {', '.join(Profile)}")
    written = write_notes(folder, Profile(profile), site=site, subjects=subjects, seed=seed)
    summary: dict[str, Any] = {
        "notes": str(written.notes),
        "planted": str(written.planted),
        "subjects": subjects,
        "records": written.records,
        "identifiers": written.identifiers,
        "labels": list(written.labels),
    }
    if json:
        print_json(summary)
    else:
        out().print(
            f"{count_of(written.records, 'message')} of {count_of(subjects, 'person', 'people')}"
            f" in {written.notes}\n"
            f"{count_of(written.identifiers, 'identifier')} in them: {written.planted}",
            highlight=False,
        )
