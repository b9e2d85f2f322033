"""`client evaluate-privacy`: whether this installation keeps what a plan promises."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from audit.errors import VerificationFailed
from audit.keys import VerifyKey
from audit.options import Json
from audit.terminal import err, out, print_json
from audit.words import count_of
from client.options import FolderOption
from client.policy_cli import find_plan
from client.presentation import say, short
from client.site import Site

if TYPE_CHECKING:
    from client.learning.membership import Estimate
    from client.privacy_evaluation import PrivacyEvaluation


def evaluate_privacy(
    plan: Annotated[
        str,
        typer.Argument(
            metavar="PLAN",
            help="A submitted plan: its id, first digits, or name. A plan.toml. A signed plan.",
            show_default=False,
        ),
    ],
    folder: FolderOption = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            metavar="PATH",
            help="A release of the plan (its folder), or a state, to attack with own records.",
            show_default=False,
        ),
    ] = None,
    canaries: Annotated[
        int,
        typer.Option(
            "--canaries", min=20, max=100_000, help="Made-up subjects: more are a sharper test."
        ),
    ] = 4000,
    engine: Annotated[
        Literal["one_backward", "hooks"] | None,
        typer.Option(
            "--engine",
            help="Whose gradients to audit.  [default: the one of compute.toml]",
            show_default=False,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE.svg",
            help="Draw how far canaries moved that were in, and that were out.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Test whether training here leaks as little as a plan promises.

    **The audit** trains made-up subjects, *canaries*, with the plan's noise, sampling rate, steps,
    clipping norm and cap, and this installation's own trainer. A coin decides which of them are in.
    How well that can be told from the result is a lower bound on epsilon, with its confidence. It
    uses no record of anybody, and spends no budget.

    **The attack** (`--model`) guesses from a trained model's losses which of this site's subjects
    trained it and which were held out. Only figures over all subjects are shown.

    A bound above the promise means that the promise is broken: stop training, and tell whoever
    answers for the software. Bounds below it prove nothing; they are what this test could find. The
    result is in the site's journal before it is shown.

    Exit codes: 0 no bound contradicts the promise, 6 one does, 4 no such plan or model, or no
    record here that it was trained on, 5 the plan or the model cannot be read. 6 is also for a file
    whose plan this federation's coordinator has not signed, and 1 for a picture that cannot be
    written.

    Examples: `client evaluate-privacy 3fa2c1` ·
    `client evaluate-privacy triage-2026 --model release/ --plot canaries.svg`
    """
    from client.canary_plot import canary_svg
    from client.compute import read_compute
    from client.network import open_service
    from client.plots import check_plot, write_plot
    from client.privacy_evaluation import Promise, evaluate_privacy, read_promise

    check_plot(plot)
    with Site.open(folder) as site:
        if Path(plan).is_file():
            promise = read_promise(Path(plan), lambda: VerifyKey.parse(site.kit.coordinator_key))
        else:
            with open_service(site) as service:
                view = find_plan(service, plan)
            promise = Promise.of(view.plan_id, view.plan)
        with err().status("auditing") as status:
            found = evaluate_privacy(
                site,
                promise,
                model=model,
                canaries=canaries,
                engine=engine or read_compute(site.paths.compute).engine,
                progress=lambda done, total: status.update(f"auditing round {done} of {total}"),
            )
    if plot is not None:
        title = f"canaries of plan {found.plan_name} ({short(found.plan_id)})"
        write_plot(plot, canary_svg(found.audit.canaries, title))
    if json:
        print_json(found.to_json())
    else:
        _print(found)
        if plot is not None:
            say(f"wrote {escape(str(plot))}")
    if not found.passes:
        raise VerificationFailed(
            f"plan {found.plan_name} promises epsilon {found.audit.claimed}, and at least "
            f"{found.lower_bound} was measured",
            fix="stop training with this installation, and report it",
        )


def _print(found: PrivacyEvaluation) -> None:
    audit = found.audit
    say(
        f"plan {escape(found.plan_name)} ({short(found.plan_id)}) promises epsilon {audit.claimed} "
        f"at delta {audit.delta:f}, for adding or removing one {found.unit}"
    )
    table = Table(show_edge=False, pad_edge=False)
    for column in ("test", "epsilon is at least", "confidence", "verdict"):
        table.add_column(column, overflow="fold")
    for bound in found.bounds:
        table.add_row(
            bound.method,
            f"{bound.epsilon}",
            f"{bound.confidence:.1%}",
            "[green]allowed[/]" if bound.epsilon <= audit.claimed else "[red]broken[/]",
        )
    out().print(table)
    canaries = len(audit.canaries.scores)
    noise = "any amount" if audit.noise_at_most is None else f"at most {audit.noise_at_most} times"
    say(
        f"{count_of(canaries, 'canary')}, {count_of(audit.canaries.steps, 'step')}, engine"
        f" {audit.engine}: "
        f"the noise is {noise} {'' if audit.noise_at_most is None else 'the promised'}".rstrip()
    )
    if found.attack is None:
        say("[dim]no model was attacked: name one with --model[/]")
    else:
        attack = found.attack
        say(
            f"attack on {count_of(attack.members, 'subject')} that trained and {attack.others}"
            f" held out: ROC-AUC {_shown(attack.area)}, recognised at 1 % false positives "
            f"{_shown(attack.caught_at_low_rate)} (95 % intervals)"
        )
    say(
        "[green]no bound contradicts the promise[/]"
        if found.passes
        else "[bold red]the promise is broken[/]"
    )


def _shown(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
