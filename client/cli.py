"""The `client` command: take part in a federation, on the site's own terms."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from audit.errors import ExitCode, FiduciaryError, NotFound, Unauthorised, Unreachable
from audit.options import Json
from audit.running_options import (
    IntervalOption,
    LogFormat,
    LogFormatOption,
    MetricsPortOption,
    WatchOption,
)
from audit.terminal import VersionOption, err, print_error, print_json, run_app
from audit.watching import WatchEnd
from client import (
    budget_cli,
    datasets_cli,
    deidentify_cli,
    erasure_cli,
    evaluate_cli,
    health_cli,
    peers_cli,
    policy_cli,
    requests_cli,
    retention_cli,
    subject_cli,
)
from client.kit import group_digits
from client.options import FolderOption
from client.presentation import print_checks, print_head, say
from client.site import DEFAULT_FOLDER, Site

app = typer.Typer(
    name="client",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""
Take part in a Fiduciary federation, on your site's own terms.

Your records never leave this machine. A plan trains on them only when **your** policy, **your**
datasets and **your** privacy budget allow it; the coordinator can ask, and nothing more. What this
site did, refused and erased is in its own journal, which anybody can verify.

**From nothing to training**

- `client join north.kit --fingerprint 3fa2…` makes the site's folder and its keys, and enrols
- `client data add notes.csv --subject patient_id --text note --label topic --purpose triage`
  de-identifies the rows and stores them encrypted
- edit `site/policy.toml`: a fresh policy **refuses every plan**; name the purposes that you allow
- `client check` tells what is missing, and how to mend it
- `client start` serves until Ctrl-C

**At any time**

- `client budget` shows what was spent, what is reserved, and what is left
- `client deidentify evaluate LABELLED.json` measures how much of what identifies people is found
- `client evaluate-privacy PLAN` tests whether training here leaks as little as a plan promises
- `client policy check plan.toml` explains, rule by rule, what your site would say to a plan
- `client subject SUBJECT` tells what is held of a data subject, and which plans could use it
- `client erase SUBJECT` erases a data subject and keeps a signed receipt
- `client requests list` shows what data subjects ask of this site; `client start` answers most
- `client status` shows what the site is doing
- `client health` tells a container engine whether the site serves
- `client peers` shows the other sites' keys, to compare by telephone
- `client retention show` shows when payloads of the site's journal are shredded
- `client witness` checks the audit log and vouches for it, as `client start` does by itself
- `audit verify site/journal.sqlite` verifies the site's journal

**Where.** `--dir`, else `FIDUCIARY_SITE`, else `./site`.

**Exit codes.** 0 done · 2 wrong usage · 3 a rule says no · 4 no such thing · 5 malformed input ·
6 does not verify · 7 a service does not answer · 8 not accepted · 9 exists or used already ·
10 the privacy budget does not allow it · 20-28 `client check` · 130 ended by Ctrl-C
""",
)
app.add_typer(datasets_cli.app, name="data")
app.add_typer(deidentify_cli.app, name="deidentify")
app.add_typer(policy_cli.app, name="policy")
app.add_typer(retention_cli.app, name="retention")
app.add_typer(requests_cli.app, name="requests")


@app.callback()
def _root(_: VersionOption = False) -> None:
    pass


@app.command()
def join(
    kit: Annotated[
        Path,
        typer.Argument(metavar="KIT", help="The coordinator's kit file.", show_default=False),
    ],
    folder: FolderOption = None,
    fingerprint: Annotated[
        str | None,
        typer.Option(
            "--fingerprint",
            metavar="HEX",
            help="What the coordinator read out to you; another kit is refused.",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[
        float,
        typer.Option(
            "--wait", metavar="SECONDS", min=0, help="How long to wait for the admission."
        ),
    ] = 300,
    json: Json = False,
) -> None:
    """Join a federation with the kit that its coordinator gave you.

    The kit's signature and expiry are checked; nothing is written when either is wrong. Then this
    site's keys are made, here, and never leave. The kit's one-time token is spent to enrol, and the
    command waits until the coordinator admits the site.

    **Compare the fingerprint** with the coordinator by telephone, on a number that you already
    know. It covers everything that your site will trust: the federation's CA, the coordinator's
    key, and the compliance service.

    Run the same command again to go on after an interruption, or to fetch the certificate later.

    Exit codes: 0 admitted or waiting for admission, 3 the kit has expired, 5 it is no kit, 6 it was
    altered or has another fingerprint, 7 the compliance service does not answer, 9 it was used.

    Example: `client join north.kit --fingerprint "3fa2 77b0 …" --wait 600`
    """
    from client.enrolment import Waiting, join
    from client.network import connect_service

    target = folder or Path(DEFAULT_FOLDER)
    joined = join(
        kit,
        target,
        connect=connect_service,
        waiting=Waiting(wait, time.sleep, lambda: datetime.now(UTC)),
        expected_fingerprint=fingerprint,
        announce=lambda message: err().print(escape(message), highlight=False),
    )
    if json:
        print_json(
            {
                "site": joined.name,
                "federation": joined.federation,
                "folder": str(joined.folder),
                "fingerprint": joined.fingerprint,
                "stage": joined.stage,
            }
        )
        return
    say(f"fingerprint {group_digits(joined.fingerprint)}")
    if fingerprint is None:
        say("[yellow]compare it with the coordinator by telephone before you go on[/]")
    if joined.stage == "pending":
        say(f"[yellow]pending[/]: the coordinator runs `server admit {joined.name}`;")
        say("then run this command again")
        return
    say(f"[green]joined[/] {joined.federation} as {joined.name}, in {escape(str(joined.folder))}")
    say("its policy.toml [bold]refuses every plan[/] until you name the purposes that you allow")


@app.command()
def check(folder: FolderOption = None, json: Json = False) -> None:
    """Tell whether this site could take part, and what to do where it could not.

    Nine checks; each failure names its remedy and has its own exit code. The first check that
    fails decides.

    | exit code | check | what it looks at |
    |---|---|---|
    | 20 | connection | compliance service and coordinator answer, the site is admitted |
    | 21 | clock | at most 30 s apart from the compliance service's |
    | 22 | certificate | own key and name, the federation's CA, dates |
    | 23 | keys | readable by you only, the ones that the site enrolled with |
    | 24 | model | the base model is here and loads |
    | 25 | dataset | there is one, and every row opens |
    | 26 | policy | can be read, and allows something |
    | 27 | budget | the ledger is whole, and something is left |
    | 28 | compute | `compute.toml` can be read, and its device is here |

    Example: `client check --json | jq '.checks[] | select(.outcome == "failed")'`
    """
    from client.base_models import load_base_model
    from client.enrolment import Waiting, await_admission
    from client.network import NetworkProbe, connect_service
    from client.preflight import Preflight, exit_code_of

    with Site.open(folder) as site:
        once = Waiting(0, time.sleep, lambda: datetime.now(UTC))
        try:
            await_admission(site, connect=connect_service, waiting=once)
        except (Unreachable, Unauthorised, NotFound):
            pass  # The checks below say what is wrong, and more.
        except FiduciaryError as error:
            print_error(error)
        with err().status("checking"):
            checks = Preflight(
                site, NetworkProbe(site), lambda: datetime.now(UTC), load_base_model
            ).run()
    code = exit_code_of(checks)
    if json:
        print_json({"exit_code": int(code), "checks": [item.to_json() for item in checks]})
    else:
        print_checks(checks)
    raise typer.Exit(int(code))


@app.command()
def start(
    folder: FolderOption = None,
    once: Annotated[
        bool,
        typer.Option("--once", help="End after the first plan that ended, or was refused here."),
    ] = False,
    metrics_port: MetricsPortOption = None,
    log_format: LogFormatOption = LogFormat.PLAIN,
) -> None:
    """Serve the coordinator: train the plans that this site allows, until Ctrl-C.

    The site dials out; it opens no port but that of metrics, if you ask for it. When the connection
    is lost it dials again, with growing pauses. For each task the site decides anew: the plan's
    signature, its approval and its place in the audit log, then your policy, datasets, base model
    and budget. The whole plan's budget is reserved before the first gradient, and a round is never
    trained twice.

    The site is a witness: at its start, before each round and every minute it checks that the
    compliance service's audit log extends what it saw before, and cosigns it. When the log shrank,
    forked, was rewritten or is signed by another key, the site trains nothing, journals the alarm,
    keeps the evidence in `alarms/`, and ends.

    It computes as `compute.toml` in the site's folder says: engine, device or devices, precision,
    memory. Each round shows what of the plan's epsilon is spent, records a second and the time
    left; that stays on this screen. Where a plan asks for it, this site's trainer is audited first.

    Ctrl-C and SIGTERM end it within seconds, at any point. A round that was being trained is spent.

    `--metrics-port` and `--log-format json` are for monitoring: docs/monitoring.md lists what they
    tell. Both are off unless you ask, are for this site's own eyes, and count no subjects.

    Exit codes: 0 ended by SIGTERM, or with `--once` the plan completed; 1 with `--once`, the run
    failed; 3 with `--once`, this site refused the plan; 6 the audit log misbehaved; 8 the
    coordinator does not know this site; 9 it is running already; 130 ended by Ctrl-C.

    Examples: `client start` · `client start --once --dir /srv/fiduciary/north`
    """
    import signal
    from contextlib import nullcontext

    from audit.process_events import JsonLines
    from client.enrolment import Waiting, await_admission
    from client.erasure import unfinished
    from client.event_kinds import EVENTS
    from client.metrics import monitored
    from client.network import connect_service, fleet_connector, open_service
    from client.progress import JsonReporter, Reporter, TerminalReporter
    from client.stopping import StopSignal
    from client.worker import Ending, Worker

    def shown(site: Site) -> Reporter:
        if log_format is LogFormat.PLAIN:
            return TerminalReporter(err())
        return JsonReporter(JsonLines("client", EVENTS, sys.stderr, {"site": site.name}))

    with (
        Site.open(folder) as site,
        connect_service(site.trust, site.token) as newcomer,
        StopSignal() as stop,
        monitored(site, shown(site), metrics_port) as reporter,
    ):
        reporter.say(f"site {site.name} of {site.federation}")
        reporter.event("worker-started")
        for pseudonym in unfinished(site):
            reporter.say(
                f"an erasure was interrupted ({pseudonym[:12]}…): run `client erase` again",
                problem=True,
            )
            reporter.event("erasure-interrupted")
        # Admitted in the meantime: the certificate is fetched, nobody needs to run `join` again.
        await_admission(
            site,
            connect=lambda _trust, _token: nullcontext(newcomer),
            waiting=Waiting(0, time.sleep, lambda: datetime.now(UTC)),
            announce=reporter.say,
        )
        with open_service(site) as service:
            worker = Worker(
                site,
                connect=fleet_connector(site),
                service=service,
                stop=stop,
                reporter=reporter,
                once=once,
            )
            ending = worker.run()
        reporter.say(f"ended: {ending.value}")
        reporter.event("worker-ended", ending=ending.value)
        received = stop.received
    match ending:
        case Ending.STOPPED if received == signal.SIGINT:
            raise typer.Exit(int(ExitCode.INTERRUPTED))
        case Ending.FAILED:
            raise typer.Exit(int(ExitCode.UNEXPECTED))
        case Ending.REFUSED:
            raise typer.Exit(int(ExitCode.REFUSED))
        case Ending.STOPPED | Ending.COMPLETED:
            return


app.command()(budget_cli.budget)


@app.command()
def status(
    folder: FolderOption = None,
    watching: WatchOption = False,
    interval: IntervalOption = 1.0,
    json: Json = False,
) -> None:
    """Show what the site is doing, and what waits. Needs no network.

    `--watch` keeps the worker before you: round and steps, records a second, epsilon spent,
    reserved and left, the last problem, and the time left. That time comes from measured rounds of
    the same phase; until a phase has one, none is shown. With `--json` it prints one JSON object a
    line.

    Exit codes: 0 shown, or ended by q; 130 ended by Ctrl-C.

    Examples: `client status --json | jq .worker.doing` · `client status --watch`
    """
    from client.status import print_status, read_status
    from client.watch_screen import watch_status

    with Site.open(folder) as site:
        if watching:
            ended = watch_status(site, as_json=json, interval_seconds=interval)
            raise typer.Exit(ExitCode.INTERRUPTED if ended is WatchEnd.INTERRUPTED else 0)
        found = read_status(site)
    if json:
        print_json(found)
    else:
        print_status(found)


@app.command()
def witness(folder: FolderOption = None, json: Json = False) -> None:
    """Check the audit log once, and vouch for it with a cosignature.

    `client start` does so by itself. Use this from cron at a site that does not train just now: the
    more sites look, and the more often, the sooner a rewritten log is noticed, and by more.

    The log's head must be signed by the log's key and extend the head that this site cosigned last
    (C2SP tlog-cosignature). If it does, it is stored in `log-checkpoint` and handed to the service.
    If it does not, the alarm is journalled, and both heads are kept in `alarms/`: they prove to
    anybody that the log has two histories.

    Exit codes: 0 checked and cosigned; 6 the log misbehaved, or `log-checkpoint` was altered; 7 the
    service does not answer.

    Examples: `client witness` · `*/5 * * * * client witness --dir /srv/fiduciary/north`
    """
    from client.network import open_service
    from client.witnessing import Witnessing

    with Site.open(folder) as site, open_service(site) as service:
        found = Witnessing(site, service).round()
    if found.problem is not None:
        raise found.problem
    if json:
        print_json(found.to_json())
        return
    print_head(found.to_json())


app.command()(health_cli.health)
app.command()(subject_cli.subject)
app.command()(erasure_cli.erase)
app.command()(evaluate_cli.evaluate_privacy)
app.command()(peers_cli.peers)


def main() -> None:
    """Entry point of the `client` command."""
    run_app(app, extra="site")
