"""Commands about reports for a regulator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer
from rich.markup import escape

from audit.durable import write_durably
from audit.errors import MalformedInput
from audit.options import Json, read_bytes
from audit.terminal import err, out, print_json
from compliance.api import ComplianceClient
from compliance.commands.options import (
    DEFAULT_FOLDER,
    FolderOption,
    TokenOption,
    TrustOption,
    service,
)
from compliance.presentation import print_fields, print_table, say
from compliance.report_views import ReportFormat

_FORMATS: Final[dict[str, ReportFormat]] = {
    ".html": "html",
    ".htm": "html",
    ".md": "markdown",
    ".json": "json",
}

MAX_FILE_BYTES: Final = 256 * 1024 * 1024
"""No report is larger; a larger file is something else."""


def report(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="The report; without it: list them.", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Write here: FILE.html, FILE.md or FILE.json. Beside it FILE.tlog-proof, the proof"
            " that the log knows just this file.",
            show_default=False,
        ),
    ] = None,
    verify: Annotated[
        Path | None,
        typer.Option(
            "--verify",
            metavar="FILE",
            help="Make nothing; check that the service made this file, and when.",
            show_default=False,
        ),
    ] = None,
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Make a report for a regulator from what the system did.

    Without `-o` it is printed as Markdown. Each figure names the log entries that it comes from; an
    HTML report carries their proofs, which `audit verify-proof` checks offline. What only people
    can state is taken from `organisation.toml` in the compliance folder, or is plainly blank.

    Making a report is itself an entry of the log, with the digest of the file: `--verify` finds it,
    and fails with exit code 6 when the file was changed.

    Examples: `compliance report` · `compliance report gdpr-33 -o breaches.html` ·
    `compliance report gdpr-33 --verify breaches.html`
    """
    with service(trust, token_file, folder) as client:
        if verify is not None:
            _verify(client, name, verify, json)
        elif name is None:
            _list(client, json)
        else:
            _make(client, name, output, json)


def _list(client: ComplianceClient, json: bool) -> None:
    found = client.reports.list()
    if json:
        print_json([kind.model_dump() for kind in found])
        return
    rows = [(kind.name, kind.title, kind.law) for kind in found]
    print_table(("report", "what it is", "law"), rows, "no reports")


def _make(client: ComplianceClient, name: str, output: Path | None, json: bool) -> None:
    if output is None:
        made = client.reports.make(name, "json" if json else "markdown")
        out().file.write(made.content.decode("utf-8"))
        return
    wanted = _FORMATS.get(output.suffix.lower())
    if wanted is None:
        raise MalformedInput(
            f"{output.name} says no format of a report", fix="name it .html, .md or .json"
        )
    made = client.reports.make(name, wanted)
    proof = client.reports.proof(made)
    proof_file = output.with_name(f"{output.name}.tlog-proof")
    write_durably(output, made.content)
    write_durably(proof_file, proof.encode("utf-8"), mode=0o644)
    if json:
        print_json(
            {
                "report": name,
                "file": str(output),
                "proof": str(proof_file),
                "digest": made.digest,
                "position": made.position,
            }
        )
        return
    err().print(
        f"{escape(str(output))}: entry {made.position} of the log, {made.digest}", highlight=False
    )


def _verify(client: ComplianceClient, name: str | None, path: Path, json: bool) -> None:
    entry = client.reports.find(read_bytes(path, MAX_FILE_BYTES, "name the file of a report"), name)
    said = entry.payload or {}
    if json:
        print_json(
            {
                "verified": True,
                "file": str(path),
                "report": said.get("report"),
                "made_at": entry.time,
                "made_by": entry.actor,
                "position": entry.position,
                "leaf_hash": entry.leaf_hash,
            }
        )
        return
    say(f"[bold green]verified[/] {escape(str(path))}: just this file was made")
    print_fields(
        {
            "report": str(said.get("report", "(forgotten)")),
            "made": f"{entry.time}, for {entry.actor}",
            "log entry": f"{entry.position}",
            "about": f"the first {said.get('log_size', '?')} entries of the log",
        }
    )
