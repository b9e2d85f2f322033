"""`server`: run a federation."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from audit.errors import ExitCode, Unreachable
from audit.options import Json
from audit.running_options import (
    IfMissingOption,
    IntervalOption,
    LogFormat,
    LogFormatOption,
    MetricsPortOption,
    WatchOption,
)
from audit.terminal import VersionOption, err, out, print_json, run_app
from audit.watching import WatchEnd
from server import screens, site_cli
from server.federation import (
    CONTROL_HOST,
    DEFAULT_CONTROL_PORT,
    DEFAULT_FLEET_PORT,
    Federation,
    default_folder,
)
from server.founding import create_federation
from server.options import Folder, FolderArgument, open_federation
from server.release_cli import release_app
from server.simulate_cli import simulate

app = typer.Typer(
    name="server",
    help="""
Run a federation: invite sites, propose training plans, coordinate their rounds.

Sites keep their records and their veto. A plan is approved by a compliance officer who did not
write it, a round counts when its report is in the compliance service's log, and what sites send
back is private already.

**A first federation**

- `server init --compliance trust.json --token-file coordinator.token` makes the folder and its CA
- `server start` serves sites and runs approved plans, until Ctrl-C
- `server invite st-elm` writes a kit: hand it over, read its fingerprint out by telephone
- `server admit st-elm`, once the site has joined
- `server simulate plan.toml --synthetic` tries a plan on simulated sites
- `server submit plan.toml`, then an officer: `compliance approve plan ID`
- `server checkpoints` lists models that a later plan may start from
- `server status` shows sites, rounds and what each site has spent; `server health` is for container
  engines

**Where.** `--dir`, else `FIDUCIARY_FEDERATION`, else `./federation`.

**Exit codes.** 0 done · 2 wrong usage · 3 refused · 4 no such thing · 5 malformed input · 6 does
not verify · 7 a service does not answer · 8 not accepted · 9 exists or used already ·
130 interrupted
""",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(release_app, name="release")
app.command()(simulate)


@app.callback()
def _root(_: VersionOption = False) -> None:
    pass


@app.command()
def init(
    folder: FolderArgument = None,
    *,
    compliance: Annotated[
        Path, typer.Option("--compliance", help="trust.json of the compliance service.")
    ],
    token_file: Annotated[
        Path, typer.Option("--token-file", help="The coordinator's token for that service.")
    ],
    name: Annotated[str, typer.Option(help="The federation's name.")] = "federation",
    host: Annotated[
        str, typer.Option(help="Name or address by which sites reach this machine.")
    ] = CONTROL_HOST,
    fleet_port: Annotated[int, typer.Option(help="Port for the sites.")] = DEFAULT_FLEET_PORT,
    control_port: Annotated[
        int, typer.Option(help="Port for yourself, on loopback only.")
    ] = DEFAULT_CONTROL_PORT,
    dir_option: Folder = None,
    if_missing: IfMissingOption = False,
    json: Json = False,
) -> None:
    """Make a federation: its CA, TLS certificate, signing identity and settings.

    The coordinator's key is recorded at the compliance service, once. The folder appears complete
    or not at all.
    """
    target = folder or dir_option or default_folder()
    if if_missing and (target / "federation.toml").exists():
        federation = Federation.open(target)
    else:
        federation = create_federation(
            target,
            name=name,
            trust_file=compliance,
            token_file=token_file,
            host=host,
            fleet_port=fleet_port,
            control_port=control_port,
        )
    if json:
        print_json(screens.federation_json(federation))
        return
    out().print(
        f"federation [bold]{escape(federation.settings.name)}[/] in {escape(str(federation.root))}"
    )
    out().print(f"fingerprint {screens.fingerprint(federation)}", highlight=False)
    out().print("next: server invite SITE, then server start")


app.command()(site_cli.invite)
app.command()(site_cli.sites)
app.command()(site_cli.admit)
app.command()(site_cli.revoke)


@app.command()
def start(
    folder: FolderArgument = None,
    *,
    dir_option: Folder = None,
    metrics_port: MetricsPortOption = None,
    log_format: LogFormatOption = LogFormat.PLAIN,
) -> None:
    """Serve the sites and run approved plans, until Ctrl-C.

    Nothing starts without an approval from the compliance service. A run that was interrupted goes
    on from its last finished round.

    `--metrics-port` and `--log-format json` are for monitoring: docs/monitoring.md lists what they
    tell. Both are off unless you ask; metrics are served to this machine alone.

    Exit codes: 0 ended by SIGTERM, 9 a port is in use, 130 ended by Ctrl-C.
    """
    # Flower and torch take a second to load; the other commands need not wait for them.
    from audit.process_events import JsonLines
    from server.event_kinds import EVENTS
    from server.monitoring import monitored
    from server.progress import JsonReporter, LineReporter, LiveReporter, Reporter
    from server.service import serve, stopping_on_signals

    logging.getLogger("httpx").setLevel(logging.WARNING)
    federation = open_federation(folder or dir_option)
    console, stop = err(), threading.Event()
    as_json = log_format is LogFormat.JSON
    live = LiveReporter(console) if console.is_terminal and not as_json else None
    reporter: Reporter = live or LineReporter(console)
    if as_json:
        about = {"federation": federation.settings.name}
        reporter = JsonReporter(JsonLines("server", EVENTS, sys.stderr, about))
    with (
        stopping_on_signals(stop) as signals,
        live or nullcontext(),
        monitored(reporter, metrics_port) as (reporter, metrics),
    ):
        serve(federation, reporter, stop, metrics)
    if signal.SIGINT in signals:
        raise typer.Exit(ExitCode.INTERRUPTED)


@app.command()
def health(folder: FolderArgument = None, *, dir_option: Folder = None, json: Json = False) -> None:
    """Ask the coordinator of this folder, on this machine, whether it serves its sites.

    For container engines and the like: it asks at the control port, on loopback. Who is online and
    what must be mended, `server status` tells.

    Exit codes: 0 it serves, 7 it does not answer.

    Example: `server health /srv/federation`
    """
    from server.status import live_state

    federation = open_federation(folder or dir_option)
    control = f"{CONTROL_HOST}:{federation.settings.control_port}"
    if live_state(federation) is None:
        raise Unreachable(
            f"the coordinator does not answer at {control}",
            fix=f"start it: `server start {federation.root}`",
        )
    if json:
        print_json({"status": "ok"})
        return
    out().print(f"the coordinator at {control} serves its sites", highlight=False)


@app.command()
def submit(
    plan: Annotated[Path, typer.Argument(metavar="PLAN.TOML", help="The plan file.")],
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and show the plan, and stop there.")
    ] = False,
    folder: Folder = None,
    json: Json = False,
) -> None:
    r"""Propose a training plan: check it, show what it costs, sign it and hand it in.

    The noise is computed from the epsilon that you promise; the base model's digest is that of the
    model on this machine. A complete file, to copy; what `#` says is optional:

    ```toml
    [plan]
    name = "message-routing"
    # token-, image-, tabular-classification; causal-language-modelling
    task = "text-classification"
    labels = ["billing", "clinical"]   # none where language is modelled
    sites = ["st-elm", "lakeside"]
    purpose = "message-routing"
    legal_basis = "legitimate-interests"
    retention_days = 365
    # base_model = "embedded:all-MiniLM-L6-v2"  # "tabular:linear" for a table
    # groups = ["north", "south"]      # evaluate by group, at sites with groups
    # class_weights = "histogram"      # rare labels weigh more, by noisy counts
    # focal_gamma = 2                  # so do examples that are hard
    # privacy_audit = true             # each site tests its trainer first
    # rounds = 40                      # instead of stating phases

    [privacy]
    epsilon = 8
    delta = 1e-5
    nominal_subjects = 1000
    # unit = "record"                  # single records; sites must allow that

    # [adapter]
    # rank = 8
    # layers = 2                       # only the upper two have LoRA

    # [starts_from]                    # a kept model, not the base model
    # plan = "message-routing-3"       # whose rest is trained, or [[phases]]
    # rounds = 20                      # see `server checkpoints`

    # [[features]]                     # columns of a table, with public ranges
    # name = "age"
    # kind = "number"                  # or "category" with values = ["a", "b"]
    # low = 0
    # high = 120

    # [[phases]]                       # recommended ones where none is stated
    # kind = "probe"                   # histogram, probe, adapter, full
    # rounds = 10
    # steps_per_round = 2
    # sampling_rate = 1.0
    # learning_rate = 2.0
    # max_grad_norm = 1.0
    # batch_limit = { subjects = 500, max_population = 5000 }
    ```

    A name belongs to one plan, until an officer rejects it. A file that was submitted before is
    recognised: the plan that there is is shown, and nothing is handed in.

    Exit codes: 0 submitted, or there already; 4 no such file, 5 it is not a plan, 7 the compliance
    service does not answer, 9 another plan has this name.
    """
    from server.submission import propose

    federation = open_federation(folder)
    with federation.compliance() as compliance:
        proposal = propose(federation, compliance, plan)
        if not json:
            screens.show_proposal(proposal)
        if not dry_run and proposal.submitted is None:
            compliance.submit_plan(proposal.statement)
    if json:
        submitted = not dry_run and proposal.submitted is None
        print_json({**proposal.to_json(), "submitted": submitted, "state": proposal.submitted})
    elif proposal.submitted is not None:
        screens.show_submitted(proposal)
    elif dry_run:
        out().print(f"nothing was handed in; next: server submit {escape(str(plan))}")
    else:
        out().print(f"submitted as {proposal.plan_id}", highlight=False)
        out().print(f"next, by an officer: compliance approve plan {proposal.plan_id}")


@app.command()
def checkpoints(
    plan: Annotated[
        str | None,
        typer.Argument(metavar="[PLAN]", help="Only of this plan: name or id."),
    ] = None,
    *,
    remove_after: Annotated[
        int | None,
        typer.Option(
            "--remove-after",
            metavar="ROUNDS",
            min=0,
            help="Remove the plan's models of more rounds than these for good, first.",
            show_default=False,
        ),
    ] = None,
    folder: Folder = None,
    json: Json = False,
) -> None:
    """List the models that were kept after rounds of plans, for a later plan to start from.

    `kept_checkpoints` in federation.toml says of how many rounds of each plan; they are encrypted,
    and removed when the plan's retention is over. In a plan file:

    ```toml
    [starts_from]
    plan = "message-routing-3"
    rounds = 20
    ```

    A retraining without somebody who was erased starts from at most as many rounds as
    `compliance erasures show` says. Models of more rounds hold them: `server start` removes those
    by itself once an officer has decided, and `--remove-after` at once. Their keys are destroyed,
    and nobody can start from them any more.

    Exit codes: 4 none of the plan's is kept, 5 several plans fit.

    Examples: `server checkpoints message-routing-3` · `server checkpoints 3fa2c1 --remove-after 20`
    """
    federation = open_federation(folder)
    if remove_after is not None:
        if plan is None:
            raise typer.BadParameter("--remove-after needs a plan")
        federation.checkpoints.remove(plan, remove_after, datetime.now(UTC))
    screens.show_checkpoints(federation, plan, as_json=json)


@app.command()
def status(
    folder: FolderArgument = None,
    *,
    dir_option: Folder = None,
    watching: WatchOption = False,
    interval: IntervalOption = 2.0,
    json: Json = False,
) -> None:
    """Show the federation: sites, plans, rounds, epsilon by site, last errors.

    Works with the coordinator or the compliance service stopped, and says so.

    `--watch` keeps the run that is going on before you: rounds, what each site does, epsilon spent
    and left, rounds an hour, the time left. That time comes from measured rounds of the same phase;
    until a phase has one, none is shown. With `--json` it prints one JSON object a line.

    Exit codes: 0 shown, or ended by q; 130 ended by Ctrl-C.

    Examples: `server status --watch` · `server status --watch --json | jq .plans[].pace`
    """
    federation = open_federation(folder or dir_option)
    if not watching:
        screens.show_status(federation, as_json=json)
        return
    from server.watch_screen import watch_status

    ended = watch_status(federation, as_json=json, interval_seconds=interval)
    if ended is WatchEnd.INTERRUPTED:
        raise typer.Exit(ExitCode.INTERRUPTED)


def main() -> None:
    """Entry point of the `server` command."""
    run_app(app, extra="coordinator")
