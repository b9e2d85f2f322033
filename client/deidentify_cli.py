"""`client deidentify`: how much of what identifies people this site's pipeline finds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from audit.terminal import print_json
from client.dataset_views import progress
from client.policy_cli import FolderOption, Json
from client.recall_views import print_evaluation
from client.site import Site
from compliance.statements import utc_now

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
    from client.recall.evaluation import evaluate as measure
    from client.recall.kept import Measured, Measurements

    texts = read_labelled(labelled)
    with Site.open(folder) as site:
        deidentifier = Deidentifier(site.keyring.secret("surrogates"))
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
