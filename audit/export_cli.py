"""`audit export`: what an officer hands to a regulator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from audit.bundle_verifier import verify_bundle
from audit.errors import ExitCode
from audit.exporting import export_bundle
from audit.keyring import Keyring
from audit.options import Json, Log, WitnessOption, witness_keys
from audit.presentation import print_report, progress_bar, say
from audit.search import EntryFilter, parse_positions
from audit.source import open_source
from audit.terminal import print_json
from audit.words import count_of


def export(
    log: Log,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="FILE", help="File to make, such as evidence.zip."),
    ],
    actor: Annotated[str | None, typer.Option(help="Only entries by this actor.")] = None,
    action: Annotated[
        str | None, typer.Option(help="Only this action, or with a trailing `.` all below it.")
    ] = None,
    object_: Annotated[
        str | None,
        typer.Option(
            "--object", metavar="ID", help="Only entries about this: a digest, or its first digits."
        ),
    ] = None,
    subject: Annotated[str | None, typer.Option(help="Only entries of this pseudonym.")] = None,
    entries: Annotated[
        str | None,
        typer.Option(
            metavar="POSITIONS",
            help="Only the entries at these positions, such as `8-18,22`: as `compliance log` lists"
            " them for a plan, a release or a site.",
        ),
    ] = None,
    keyring: Annotated[
        Path | None,
        typer.Option(
            "--keyring",
            metavar="DIR",
            help="Open payloads with this keyring and put them in, readable. Needs its owner.",
        ),
    ] = None,
    witness: WitnessOption = None,
    json: Json = False,
) -> None:
    """Write evidence into one file that verifies anywhere, without this log and without us.

    Without a filter the bundle holds the whole log, which its reader recomputes. With a filter it
    holds only the entries that are asked for, each with the proof that it is in the log, made
    against the checkpoint that most witnesses cosigned.

    Payloads stay encrypted unless `--keyring` is given: then whoever has the file can read them.
    The written file is verified before this command ends.

    Examples: `audit export compliance.sqlite -o evidence.zip` ·
    `audit export compliance.sqlite --entries 8-18,22 --keyring keyring -o plan.zip`
    """
    filters = (
        actor,
        action,
        object_,
        subject,
        parse_positions(entries) if entries is not None else None,
    )
    wanted = EntryFilter(*filters) if any(filters) else None
    keys = Keyring.open(keyring) if keyring else None
    try:
        with open_source(log) as source, progress_bar("exporting", quiet=json) as progress:
            exported = export_bundle(
                source,
                output,
                wanted=wanted,
                keys=keys,
                witnesses=witness_keys(witness),
                progress=progress,
            )
    finally:
        if keys is not None:
            keys.close()
    with progress_bar("verifying", quiet=json) as progress:
        report = verify_bundle(output, progress=progress)
    if json:
        print_json(
            {
                "file": str(output),
                "kind": exported.kind,
                "entries": exported.entries,
                "payloads": exported.payloads,
                "forgotten": exported.forgotten,
                "size_bytes": output.stat().st_size,
                "report": report.to_json(),
            }
        )
    else:
        print_report(str(output), report)
        if exported.forgotten:
            forgotten = count_of(exported.forgotten, "payload")
            say(f"forgotten: {forgotten}, which nobody can open any more")
        if exported.payloads:
            say("[yellow]This file holds readable payloads.[/] Hand it over as you would them.")
        say(f"next: audit verify {escape(str(output))} --key LOG_KEY")
    if not report.ok:
        raise typer.Exit(ExitCode.VERIFICATION_FAILED)
