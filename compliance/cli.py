"""The `compliance` command: run the service, and do an officer's work."""

from __future__ import annotations

import secrets
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from audit.errors import ExitCode
from audit.options import Json
from audit.running_options import (
    IfMissingOption,
    LogFormat,
    LogFormatOption,
    MetricsPortOption,
)
from audit.terminal import VersionOption, err, print_json, run_app
from compliance.commands import add_commands
from compliance.commands.options import DEFAULT_FOLDER, FolderArgument
from compliance.presentation import print_fields, say
from compliance.trust import Trust

DEFAULT_PORT = 8443

app = typer.Typer(
    name="compliance",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""
Decide what a Fiduciary federation may do, and keep the evidence that it was decided.

The compliance service records every plan, approval, round, release, grant and erasure. A change
and its entry in the audit log are **one transaction**: no entry, no action. Refusals are entries
too.

**Run the service:** `init`, `start`, `health`, `migrate`, `backup`, `restore`.

**An officer's work:** `plans`, `approve`, `reject`, `releases`, `gates`, `compare`, `alias`,
`grant`, `revoke`, `recall`, `notices`, `sites`, `requests`, `principals`, `log`, `retention`,
`breaches`, `report`.

**Who you are.** Officer commands talk to the service over TLS. `--trust` (or `FIDUCIARY_TRUST`)
names the service's `trust.json`, `--token-file` (or `FIDUCIARY_TOKEN_FILE`) the file with your
token. `compliance login` makes a session instead, and `compliance whoami` says as whom you act.
Without all that the files of the compliance folder are used (`FIDUCIARY_COMPLIANCE`, else
`./compliance-data`), and there the officer's token.

**A first hour**

- `compliance init` makes the folder; hand `trust.json` and `tokens/coordinator.token` to the
  coordinator
- `compliance start` serves until Ctrl-C
- `compliance plans` lists what waits; `compliance plans 3fa2c1` shows one plan in full
- `compliance approve plan 3fa2c1`
- `compliance principals add triage-desk --role consumer`
- `compliance grant 77b0e4 --to triage-desk --public-key KEY --purpose triage --days 30`

An ID is a digest, its first six or more digits, or a name that only one thing has; of a release
also `@ALIAS`.

**Exit codes.** 0 done · 2 wrong usage · 3 a rule says no · 4 no such thing · 5 malformed input ·
6 does not verify · 7 the service does not answer · 8 token missing, ended, or of the wrong role ·
9 exists or was decided already, or the port is in use · 130 ended by Ctrl-C
""",
)


@app.callback()
def _root(_: VersionOption = False) -> None:
    pass


def _clock() -> datetime:
    return datetime.now(UTC)


@app.command(rich_help_panel="Run the service")
def init(
    folder: FolderArgument = DEFAULT_FOLDER,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Port; 0 picks a free one and keeps it.")
    ] = DEFAULT_PORT,
    public_host: Annotated[
        str | None,
        typer.Option(
            help="Name or address under which others reach the service, if it is another.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the audit log, unique in the world, such as `hospital.example/audit`."
            " Made up unless given.",
            show_default=False,
        ),
    ] = None,
    database_url: Annotated[
        str | None,
        typer.Option(
            help="SQLAlchemy URL of an empty database instead of SQLite in the folder; its"
            " password belongs in a file: `…?password_file=FILE`.",
            show_default=False,
        ),
    ] = None,
    if_missing: IfMissingOption = False,
    json: Json = False,
) -> None:
    """Make a compliance folder: keys, certificate, database, audit log, three first tokens.

    It is made whole or not at all. All secrets stay in the folder, readable by you alone:

    - `trust.json` is public; everyone needs it, and should get it from you, not over the network
    - `tokens/coordinator.token` goes to the coordinator, for `server init`
    - `tokens/officer.token` and `tokens/auditor.token` go to those people

    Exit codes: 0 made, 5 a setting is not usable, 9 the folder is not empty.

    Example: `compliance init /srv/compliance --host 0.0.0.0 --public-host compliance.example`
    """
    if if_missing and (folder / "compliance.toml").exists():
        _show_made(folder, folder / "trust.json", json=json, made=False)
        return
    from compliance.service.folder import NewService, create_folder
    from compliance.service.settings import DEFAULT_DATABASE_URL

    new = NewService(
        host=host,
        port=port,
        public_host=public_host or ("localhost" if host in ("0.0.0.0", "::") else host),  # noqa: S104
        origin=name or f"fiduciary.local/{secrets.token_hex(6)}",
        database_url=database_url or DEFAULT_DATABASE_URL,
    )
    made = create_folder(folder, new, _clock)
    _show_made(folder, made.trust, json=json, made=True)


def _show_made(folder: Path, trust_file: Path, *, json: bool, made: bool) -> None:
    trust = Trust.load(trust_file)
    if json:
        print_json(
            {
                "folder": str(folder),
                "made": made,
                "trust_file": str(trust_file),
                "url": trust.url,
                "origin": trust.origin,
                "log_key": trust.log_key.encoded(),
                "certificate_fingerprint": trust.fingerprint,
            }
        )
        return
    print_fields(
        {
            "folder": str(folder),
            "address": trust.url,
            "log": trust.origin,
            "log key": trust.log_key.encoded(),
            "certificate": trust.fingerprint,
        }
    )
    if not made:
        say("\nIt was there already; nothing was changed.")
        return
    coordinator_token = trust_file.parent / "tokens" / "coordinator.token"
    say(f"\nStart it: [bold]compliance start {escape(str(folder))}[/]")
    say(
        f"Give the coordinator [bold]{escape(str(trust_file))}[/] and"
        f" [bold]{escape(str(coordinator_token))}[/], for `server init`."
    )


@app.command(rich_help_panel="Run the service")
def start(
    folder: FolderArgument = DEFAULT_FOLDER,
    metrics_port: MetricsPortOption = None,
    log_format: LogFormatOption = LogFormat.PLAIN,
) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Before it listens it checks that key files are there and private, that they belong to
    `trust.json`, that the database is at the revision that this version works on (`compliance
    migrate`), and that the audit log is the one that its last checkpoint signed. Requests in flight
    get a few seconds to finish; what was answered is on disk.

    `--metrics-port` and `--log-format json` are for monitoring: docs/monitoring.md lists what they
    tell. Both are off unless you ask; metrics are served to this machine alone.

    Exit codes: 0 ended by SIGTERM, 3 a key file is open to others, 4 a file is missing, 6 the log
    or a key does not verify, 9 the port is in use or the database needs `compliance migrate`, 130
    ended by Ctrl-C.

    Example: `compliance start /srv/compliance`
    """
    from audit.metrics_port import HOST, PATH
    from audit.process_events import JsonLines
    from compliance.event_kinds import EVENTS
    from compliance.service import process_log
    from compliance.service.folder import Folder, open_registry
    from compliance.service.listener import serve
    from compliance.service.metrics import monitored
    from compliance.service.settings import read_settings

    plain = log_format is LogFormat.PLAIN
    if plain:
        process_log.set_up_plain()
    else:
        process_log.set_up_json(JsonLines("compliance", EVENTS, sys.stderr))
    opened = Folder(folder)
    settings = read_settings(opened.settings)
    registry = open_registry(opened, _clock)

    def tell(message: str) -> None:
        if plain:
            err().print(message, highlight=False)

    def ready() -> None:
        tell(
            f"compliance service at {registry.trust.url}, log {registry.trust.origin}; Ctrl-C ends"
            " it"
        )
        started = process_log.event("service-started", port=settings.port)
        process_log.logger.info("the service started", extra=started)

    try:
        with monitored(registry, metrics_port) as (watched, metrics, port):
            if port is not None:
                tell(f"metrics at http://{HOST}:{port}{PATH}")
            ended_by = serve(watched, opened, settings.host, settings.port, ready, metrics)
    finally:
        registry.close()
    tell("compliance service ended")
    process_log.logger.info("the service ended", extra=process_log.event("service-ended"))
    if ended_by is signal.SIGINT:
        raise typer.Exit(ExitCode.INTERRUPTED)


add_commands(app)


def main() -> None:
    """Entry point of the `compliance` command."""
    run_app(app, extra="compliance")
