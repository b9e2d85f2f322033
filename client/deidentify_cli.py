"""`client deidentify`: how much of what identifies people this site's pipeline finds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audit.errors import MalformedInput, Refused
from audit.options import Json
from audit.terminal import err, out, print_json
from audit.words import count_of
from client.dataset_views import progress
from client.kinds_cli import kinds
from client.options import FolderOption
from client.recall_views import print_evaluation
from client.reveal_cli import reveal, reveal_key
from client.site import Site
from compliance.statements import utc_now

if TYPE_CHECKING:
    from client.recall.evaluation import Evaluation

DEFAULT_SAMPLE = 100
"""Without a miss it shows that at most 3 % of people's rows leak."""

app = typer.Typer(
    name="deidentify",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""
Measure how much of what identifies people this site's de-identification finds.

What is measured is kept sealed at the site and bound to the pipeline: another configuration or
version of the software has not been measured. `client data show` tells it with each dataset, plans
and your policy can ask for a minimum, and only shares and their limits leave the site.
""",
)

app.command("reveal-key")(reveal_key)
app.command()(reveal)
app.command()(kinds)


@app.command()
def evaluate(
    labelled: Annotated[
        Path,
        typer.Argument(
            metavar="LABELLED.json",
            help="Texts with every identifying span, as presidio-research writes them.",
            show_default=False,
        ),
    ],
    folder: FolderOption = None,
    json: Json = False,
) -> None:
    """Measure the pipeline on labelled texts, and keep what was measured.

    The file is a JSON list: `[{"full_text": "Ann left", "spans": [{"entity_type": "PERSON",
    "start_position": 0, "end_position": 3}]}]`. Labels do not matter, only whether each identifying
    character is found; white space does not count. A text in which one character is missed leaks.

    Intervals are 95 %: of characters by bootstrap over texts, of texts and whole spans by Wilson.
    What plans ask for are the one-sided limits: a text's mean recall by Hoeffding, the share of
    leaking texts by Clopper-Pearson. A small sample has wide limits.

    Use texts like your own that the recognisers were not written against. The texts are not kept.

    Exit codes: 0 measured, whatever the figures; 4 no such file; 5 it is malformed, or nothing in
    it can be measured.

    Examples: `client deidentify evaluate labelled.json` · `client deidentify evaluate labelled.json
    --json`
    """
    from client.deidentification.measurement import read_labelled
    from client.deidentification.pipeline import Deidentifier
    from client.deidentification.policy import read_replacement_policy
    from client.recall.evaluation import evaluate as measure
    from client.recall.kept import Measured, Measurements

    texts = read_labelled(labelled)
    with Site.open(folder) as site:
        deidentifier = Deidentifier(
            site.keyring.secret("surrogates"),
            policy=read_replacement_policy(site.paths.deidentify),
        )
        with progress(f"reading {labelled.name}", len(texts)) as advance:
            found = measure(texts, deidentifier.deidentify, advance)
        figures = found.figures("evaluation", utc_now())
        kept = Measurements(site.paths, site.keyring)
        measured = Measured(figures, found.to_json())
        kept.keep(deidentifier.digest, measured, site.journal, site.principal, "")
    if json:
        print_json(
            {
                "deidentification_digest": deidentifier.digest,
                "measured_at": figures.measured_at,
                **found.to_json(),
            }
        )
    else:
        print_evaluation(found, deidentifier.digest)


@app.command()
def review(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="What the dataset was added from.", show_default=False
        ),
    ],
    subject: Annotated[
        str,
        typer.Option(
            "--subject", metavar="COL", help="As for `client data add`.", show_default=False
        ),
    ] = "",
    text: Annotated[
        str, typer.Option("--text", metavar="COL", help="Likewise.", show_default=False)
    ] = "",
    known: Annotated[
        list[str] | None,
        typer.Option("--known", metavar="COL", help="Likewise.", show_default=False),
    ] = None,
    query: Annotated[
        str, typer.Option("--query", metavar="SQL|FILE", help="Likewise.", show_default=False)
    ] = "",
    password_file: Annotated[
        Path | None,
        typer.Option("--password-file", metavar="FILE", help="Likewise.", show_default=False),
    ] = None,
    dataset: Annotated[
        str, typer.Option("--dataset", metavar="NAME", help="The dataset to review.")
    ] = "default",
    sample: Annotated[
        int,
        typer.Option("--sample", metavar="N", min=1, max=10_000, help="How many people's rows."),
    ] = DEFAULT_SAMPLE,
    again: Annotated[
        bool, typer.Option("--again", help="Draw a new sample, and forget what was begun.")
    ] = False,
    folder: FolderOption = None,
    json: Json = False,
) -> None:
    """Look through a random sample of a dataset's own rows, and mark what was missed.

    One random row of each of N random people is shown as the file has it, with everything that the
    pipeline found in colour. You type what it missed. It is shown on this terminal alone, on a
    screen that leaves nothing in the scroll-back; only the figures go to standard output. `/quit`
    at any time: the same command goes on. Between two sittings it is kept sealed where the marks
    are, and no text.

    After the last row the share of rows with a leak and the recall are computed, with limits that
    hold with 95 % confidence (Clopper-Pearson; Hoeffding), and kept for this version of the
    dataset: replacing it, or another configuration, ends what was measured.

    Exit codes: 0 looked through, or ended for today; 3 it is not the dataset's source, the dataset
    was made by another pipeline, or this is no terminal; 4 no such source or dataset; 5 malformed
    source, or a dataset without text.

    Example: `client deidentify review notes.csv --subject patient_id --text note --dataset notes`
    """
    from client.deidentification.pipeline import Deidentifier
    from client.deidentification.policy import read_replacement_policy
    from client.intake import Columns, Intake
    from client.quarantine import cleaning_of
    from client.recall import review as reviewing
    from client.recall.kept import Measured, Measurements, SealedFolder
    from client.recall.review_screen import look_through
    from client.source_file import read_source
    from client.sources import open_source
    from client.vault import Vault

    if not at_terminal():
        raise Refused(
            "a review shows people's records, and this is no terminal",
            fix="run it on a terminal; only standard output may be redirected",
        )
    with Site.open(folder) as site, Vault.open(site.paths, site.keyring) as vault:
        reviewed = vault.dataset(dataset)
        deidentifier = Deidentifier(
            site.keyring.secret("surrogates"),
            policy=read_replacement_policy(site.paths.deidentify),
        )
        if reviewed.datasheet.deidentification != "identifiers-replaced":
            raise MalformedInput(
                f"{dataset} holds no text in which identifiers were replaced",
                fix="review a dataset of texts",
            )
        if reviewed.datasheet.deidentification_digest != deidentifier.digest:
            raise Refused(
                f"{dataset} was made by another configuration or version than the present one",
                fix="add it again with --replace, then review it",
            )
        kept = SealedFolder(site.paths.measurements, site.keyring)
        if again:
            reviewing.forget(kept, reviewed)
        session = reviewing.Session.load(kept, reviewed)
        if session is None:
            subjects = [held.pseudonym for held in vault.subjects_of(reviewed.id)]
            session = reviewing.Session.begin(reviewed, subjects, sample)
        given = open_source(source, query, password_file)
        usual = given.usual_columns
        checked = read_source(
            given,
            Columns(
                subject or "".join(usual.get("subject", ())),
                text or "".join(usual.get("text", ())),
                known=tuple(known or usual.get("known", ())),
                content="language",
            ),
            Intake(
                dataset,
                drop_duplicates=True,
                drop_empty=True,
                cleaning=cleaning_of(reviewed),
            ),
        )
        with progress("finding what is found", len(session.drawn)) as advance:
            rows = reviewing.rows_of(
                session,
                (record.source for record, _ in checked.read()),
                vault.each_example(dataset),
                vault.pseudonym,
                deidentifier.deidentify,
                advance,
            )
        session.save(kept, reviewed)
        console = err()
        with console.screen(hide_cursor=False):
            look_through(session, rows, console, input, lambda: session.save(kept, reviewed))
        found = reviewing.evaluated(rows, session)
        if found is not None:
            measured = Measured(found.figures("review", utc_now()), found.to_json())
            Measurements(site.paths, site.keyring).keep(
                deidentifier.digest, measured, site.journal, site.principal, reviewed.id
            )
            reviewing.forget(kept, reviewed)
    _print_review(found, reviewing.summary(session, rows), deidentifier.digest, json=json)


def at_terminal() -> bool:
    """Whether a person sits here: rows go to standard error, which is no file and no pipe."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _print_review(
    found: Evaluation | None, progress: dict[str, int], pipeline: str, *, json: bool
) -> None:
    if json:
        told = {} if found is None else {"deidentification_digest": pipeline, **found.to_json()}
        print_json({**progress, **told})
    elif found is None:
        out().print(
            f"looked at {progress['looked_at']} of {count_of(progress['rows'], 'row')}; the same "
            "command goes on",
            highlight=False,
        )
    else:
        print_evaluation(found, pipeline)
