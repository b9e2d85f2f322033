"""`server simulate`: what a plan would achieve, before anybody trains."""

from __future__ import annotations

import secrets
import tempfile
import threading
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from audit.errors import MalformedInput
from audit.options import Json
from audit.terminal import err, out, print_json
from audit.words import count_of
from client.plots import check_plot, write_plot

if TYPE_CHECKING:
    from client.simulation.partition import Dealt
    from client.simulation.records import Collected, ColumnNames
    from compliance.statements import TaskName

DEFAULT_SITES = 20
DEFAULT_BANDWIDTH_MBIT = 50.0


def simulate(
    plan: Annotated[Path, typer.Argument(metavar="PLAN.TOML", help="The plan file.")],
    *,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="Public records: .csv, .jsonl or .parquet.", show_default=False
        ),
    ] = None,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="Synthetic messages to a hospital instead.")
    ] = False,
    subject: Annotated[
        str, typer.Option("--subject", metavar="COL", help="Whose record it is.")
    ] = "",
    text: Annotated[str, typer.Option("--text", metavar="COL", help="The free text.")] = "",
    label: Annotated[str, typer.Option("--label", metavar="COL", help="The class.")] = "",
    spans: Annotated[
        str, typer.Option("--spans", metavar="COL", help="Labelled parts of the text.")
    ] = "",
    features: Annotated[
        list[str] | None,
        typer.Option(
            "--features",
            metavar="COL,COL,…",
            help="Columns of a table; the plan's unless given.",
            show_default=False,
        ),
    ] = None,
    image: Annotated[
        str, typer.Option("--image", metavar="COL", help="Paths of PNG or JPEG files.")
    ] = "",
    group: Annotated[
        str, typer.Option("--group", metavar="COL", help="What evaluation is sliced by.")
    ] = "",
    site_column: Annotated[
        str,
        typer.Option("--site-column", metavar="COL", help="A site for each value of this column."),
    ] = "",
    sites: Annotated[
        int | None,
        typer.Option(
            "--sites", min=1, max=1000, help="Simulated sites.", show_default=str(DEFAULT_SITES)
        ),
    ] = None,
    subjects: Annotated[
        int | None,
        typer.Option(
            "--subjects",
            min=1,
            help="Synthetic subjects of each site.",
            show_default="the plan's nominal_subjects",
        ),
    ] = None,
    skew: Annotated[
        float | None,
        typer.Option(
            "--skew",
            metavar="ALPHA",
            help="Label skew: Dirichlet concentration, 0.1 is strong; all sites alike without it.",
            show_default=False,
        ),
    ] = None,
    epsilon: Annotated[
        list[float] | None,
        typer.Option(
            "--epsilon",
            help="Instead of the plan's; give it several times to sweep.",
            show_default=False,
        ),
    ] = None,
    rounds: Annotated[
        list[int] | None,
        typer.Option(
            "--rounds", min=1, help="Of recommended phases; likewise.", show_default=False
        ),
    ] = None,
    clipping: Annotated[
        list[float] | None,
        typer.Option(
            "--clipping",
            help="Clipping norm of every phase, with the same noise in the weights; likewise.",
            show_default=False,
        ),
    ] = None,
    quorum: Annotated[
        int | None,
        typer.Option(
            "--quorum", min=1, help="Of simulated sites.", show_default="the plan's share"
        ),
    ] = None,
    dropout: Annotated[
        float,
        typer.Option(
            "--dropout", metavar="RATE", help="Chance that a site is unavailable in a round."
        ),
    ] = 0.0,
    policy: Annotated[
        Path | None,
        typer.Option(
            "--policy",
            help="A policy.toml that every site has: who would refuse?",
            show_default=False,
        ),
    ] = None,
    bandwidth: Annotated[
        float,
        typer.Option("--bandwidth-mbit", help="Of each site's link, for a round's seconds."),
    ] = DEFAULT_BANDWIDTH_MBIT,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Processes that compute.", show_default="one a core"),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", min=0, help="Repeats a simulation.", show_default="drawn, and shown"
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Write an SVG.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Try a plan on simulated sites: choose epsilon, clipping and rounds before anybody trains.

    The plan's rounds, quorum, checks and aggregation are the coordinator's own, and each site's
    guard, trainer and accountant are a site's; Flower's simulation engine carries the messages. The
    sites of the file are replaced by simulated ones. No federation and no service is needed.

    **Only public or synthetic records belong here.** Nothing is de-identified, no budget is spent,
    and the noise can be repeated from the seed. The models are removed at the end, and there is no
    way to release one.

    It needs the extra: `pip install 'fiduciary[simulation]'`.

    Exit codes: 0 every variant came to its end, 1 Ray did not start or died, 3 a variant failed,
    4 the extra or a file is missing, 5 the plan file or the records are malformed.

    Examples: `server simulate plan.toml --synthetic --sites 200 --epsilon 3 --epsilon 8`

    `server simulate plan.toml --data notes.csv --subject id --text note --label topic --skew 0.5`
    """
    from server.simulation.engine import require_engine

    check_plot(plot)
    _check(data, synthetic, site_column, sites, skew, dropout, bandwidth)
    require_engine()

    from client.simulation.records import ColumnNames
    from server.plan_file import read_plan_file
    from server.simulation import screens
    from server.simulation.plot import sweep_svg
    from server.simulation.run import Simulation, require_possible, run_simulation
    from server.simulation.variants import left_out, plan_of, share_of_data, variants
    from server.simulation.wire import Conditions

    file = read_plan_file(plan)
    drawn = secrets.randbelow(2**31) if seed is None else seed
    compared = variants(_decimals(epsilon), rounds or [], _decimals(clipping))
    names = ColumnNames(
        subject,
        text,
        label,
        spans,
        _columns(features) or tuple(feature.name for feature in file.features),
        image,
        group,
        site_column,
    )
    with tempfile.TemporaryDirectory(prefix="fiduciary-simulation-") as name:
        folder = Path(name)
        count = sites or DEFAULT_SITES
        collected = _collect(
            folder / "notes",
            data,
            file.plan.task,
            names,
            subjects=count * (subjects or file.privacy.nominal_subjects),
            seed=drawn,
        )
        dealt, said = _deal(collected, count, drawn, skew)
        plans = tuple(plan_of(file, plan, list(dealt), each, quorum) for each in compared)
        for each in plans:
            require_possible(each, dropout)
        people = len({record.subject for record in collected.records})
        said = [*said, *left_out(file), *filter(None, [share_of_data(plans[0], people)])]
        conditions = Conditions(bandwidth, dropout, drawn)
        simulation = Simulation(
            plans,
            dealt,
            conditions,
            policy="" if policy is None else _policy(policy),
            workers=workers or _cores(),
        )
        console = err()
        for line in (screens.NOT_PRIVATE, f"seed {drawn}", *said):
            console.print(escape(line), highlight=False)
        (folder / "simulation").mkdir()
        with screens.Progressing(console, len(plans)) as watcher:
            figures = run_simulation(simulation, folder / "simulation", watcher, threading.Event())
    if json:
        print_json(
            screens.document_of(
                figures,
                conditions,
                sites=len(dealt),
                subjects=people,
                records=len(collected.records),
                said=said,
            )
        )
    else:
        screens.print_table(out(), figures)
        out().print(escape(screens.explanation(conditions)), highlight=False)
    for line in screens.failures(figures):
        console.print(escape(line), highlight=False)
    if plot is not None:
        write_plot(plot, sweep_svg(figures))
    if any(each.verdict != "completed" for each in figures):
        raise typer.Exit(3)


def _check(
    data: Path | None,
    synthetic: bool,
    site_column: str,
    sites: int | None,
    skew: float | None,
    dropout: float,
    bandwidth: float,
) -> None:
    """Refuse options that contradict each other, before anything slow is done."""
    if (data is None) != synthetic:
        raise typer.BadParameter("give a file, or --synthetic", param_hint="--data")
    if synthetic and site_column:
        raise typer.BadParameter("synthetic records have none", param_hint="--site-column")
    if site_column and (sites is not None or skew is not None):
        raise typer.BadParameter("it says who is where", param_hint="--site-column")
    if not 0 <= dropout < 1:
        raise typer.BadParameter("give a chance from 0 to below 1", param_hint="--dropout")
    if not bandwidth > 0:
        raise typer.BadParameter("give a number above 0", param_hint="--bandwidth-mbit")


def _collect(
    folder: Path,
    data: Path | None,
    task: TaskName,
    names: ColumnNames,
    *,
    subjects: int,
    seed: int,
) -> Collected:
    from client.simulation.records import SYNTHETIC_LABELS, read_file
    from client.simulation.records import synthetic as synthetic_records

    if data is not None:
        return read_file(data, task, names)
    if task != "text-classification":
        raise MalformedInput(
            f"the synthetic messages are for text-classification, and the plan is for {task}",
            fix=f"give records with --data; the messages' labels are {', '.join(SYNTHETIC_LABELS)}",
        )
    return synthetic_records(folder, subjects, seed)


def _deal(
    collected: Collected, sites: int, seed: int, skew: float | None
) -> tuple[Dealt, list[str]]:
    """Records by site, and what there is to say of them."""
    from client.simulation import partition

    said = []
    if collected.repeated or collected.incomplete:
        said.append(
            f"left out: {count_of(collected.repeated, 'row')} that another repeats, "
            f"{collected.incomplete} with something missing"
        )
    if collected.sites:
        dealt, several = partition.deal_as_told(collected.records, collected.sites)
        if several:
            said.append(
                f"{count_of(several, 'subject')} with records at several sites: each is at the one"
                " with most"
            )
        return dealt, said
    names = partition.site_names(sites)
    if skew is None:
        return partition.deal_evenly(collected.records, names, seed), said
    return partition.deal_skewed(collected.records, names, seed, skew), said


def _policy(path: Path) -> str:
    from client.policy import read_policy

    read_policy(path)
    return path.read_text(encoding="utf-8")


def _columns(given: list[str] | None) -> tuple[str, ...]:
    listed = (name.strip() for names in given or () for name in names.split(","))
    return tuple(name for name in listed if name)


def _decimals(values: list[float] | None) -> list[Decimal]:
    return [Decimal(repr(value)) for value in values or ()]


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
