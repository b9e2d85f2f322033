"""`client data add`: a file of people's records into the vault."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audit.errors import MalformedInput
from audit.options import Json
from audit.terminal import err, out, print_json
from client.dataset_views import described, print_added, progress, source_counts
from client.options import FolderOption
from client.site import Site

if TYPE_CHECKING:
    from client.cleaning.settings import Cleaning
    from client.ingest import RecordDeidentifier
    from client.source_file import SourceFile


def add(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A .csv, .jsonl or .parquet file, a folder of Hugging Face `datasets`, "
            "fhir:BUNDLE.json (or a folder of bundles), or a database's SQLAlchemy URL.",
            show_default=False,
        ),
    ],
    subject: Annotated[
        str,
        typer.Option(
            "--subject",
            metavar="COL",
            help="Whose record it is. FHIR: the Patient's id, or another column, such as mrn.",
            show_default=False,
        ),
    ] = "",
    kind: Annotated[
        str,
        typer.Option("--kind", metavar="KIND", help="text, spans, language, table or image."),
    ] = "text",
    text: Annotated[
        str, typer.Option("--text", metavar="COL", help="The free text.", show_default=False)
    ] = "",
    label: Annotated[
        str, typer.Option("--label", metavar="COL", help="The class.", show_default=False)
    ] = "",
    spans: Annotated[
        str,
        typer.Option(
            "--spans",
            metavar="COL",
            help='Labelled parts of the text, `[{"start": 0, "end": 4, "label": "…"}, …]`.',
            show_default=False,
        ),
    ] = "",
    features: Annotated[
        list[str] | None,
        typer.Option(
            "--features",
            metavar="COL,COL,…",
            help="Columns of a table: numbers, and others in which no identifier is found.",
            show_default=False,
        ),
    ] = None,
    categories: Annotated[
        list[str] | None,
        typer.Option(
            "--categories",
            metavar="COL,COL,…",
            help="Columns of a table with a few values that many people share.",
            show_default=False,
        ),
    ] = None,
    suppress_rare: Annotated[
        bool,
        typer.Option(
            "--suppress-rare",
            help="Empty cells of --categories that fewer than 5 people share, instead of searching "
            "them for identifiers.",
        ),
    ] = False,
    image: Annotated[
        str,
        typer.Option(
            "--image",
            metavar="COL",
            help="Paths of PNG or JPEG files, relative to FILE's folder and inside it.",
            show_default=False,
        ),
    ] = "",
    group: Annotated[
        str,
        typer.Option(
            "--group",
            metavar="COL",
            help="What evaluation is sliced by, such as an age band or a ward; kept as it is.",
            show_default=False,
        ),
    ] = "",
    accept_unsearched_pixels: Annotated[
        bool,
        typer.Option(
            "--accept-unsearched-pixels",
            help="Store pictures, though nobody searches them for burned-in names or faces.",
        ),
    ] = False,
    folder: FolderOption = None,
    dataset: Annotated[
        str, typer.Option("--dataset", metavar="NAME", help="Name to store it under.")
    ] = "default",
    known: Annotated[
        list[str] | None,
        typer.Option(
            "--known",
            metavar="COL",
            help="A column that identifies the subject (name, phone, record number): searched for "
            "in the content of all of the subject's rows, never stored. Give it once for each "
            "column.",
            show_default=False,
        ),
    ] = None,
    purpose: Annotated[
        list[str] | None,
        typer.Option(
            "--purpose",
            metavar="NAME",
            help="What the records may be used for; plans with another purpose are refused. "
            "Give it once for each purpose.",
            show_default=False,
        ),
    ] = None,
    legal_basis: Annotated[
        str,
        typer.Option(
            "--legal-basis",
            metavar="BASIS",
            help="consent, contract, legal-obligation, vital-interests, public-task or "
            "legitimate-interests.",
            show_default=False,
        ),
    ] = "",
    consent: Annotated[
        str,
        typer.Option(
            "--consent",
            metavar="COL",
            help="yes or no: whether the row's person consents. A row without consent is left out.",
            show_default=False,
        ),
    ] = "",
    row_purposes: Annotated[
        str,
        typer.Option(
            "--row-purposes",
            metavar="COL",
            help="For which of the --purpose names a row may be used; a row for none is left out.",
            show_default=False,
        ),
    ] = "",
    row_legal_basis: Annotated[
        str,
        typer.Option(
            "--row-legal-basis",
            metavar="COL",
            help="A row's own legal basis; an empty cell means that of --legal-basis.",
            show_default=False,
        ),
    ] = "",
    clean: Annotated[
        Path | None,
        typer.Option(
            "--clean",
            metavar="FILE",
            help="A TOML file of cleaning steps: encoding, labels, length, near duplicates, …",
            show_default=False,
        ),
    ] = None,
    query: Annotated[
        str,
        typer.Option(
            "--query",
            metavar="SQL|FILE",
            help="What to ask a database: a SELECT, or the file that holds it.",
            show_default=False,
        ),
    ] = "",
    password_file: Annotated[
        Path | None,
        typer.Option(
            "--password-file",
            metavar="FILE",
            help="Holds the database's password; else FIDUCIARY_SQL_PASSWORD does.",
            show_default=False,
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a dataset of that name, all or nothing.")
    ] = False,
    allow_duplicates: Annotated[
        bool,
        typer.Option(
            "--allow-duplicates", help="Keep the first of equal rows instead of refusing the file."
        ),
    ] = False,
    drop_empty: Annotated[
        bool,
        typer.Option(
            "--drop-empty",
            help="Leave out rows that lack subject, content or label instead of refusing the file.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check the source, show the records of ten people as they are beside what would "
            "be stored, and store nothing. Text is shown on a terminal only.",
        ),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="N",
            min=1,
            max=64,
            help="Processes that de-identify text, 400 MB each.  [default: one a core, of a large "
            "source]",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """De-identify people's records and store them encrypted.

    The whole source is checked first: a missing column, broken UTF-8, an uneven row, an empty text
    or the same text twice for one subject is named with its line, and nothing is stored. Several
    different rows of one subject are fine: they are that person's records, and a name found in one
    is removed from all.

    Then each text is de-identified: names, addresses, numbers, dates and the like are replaced by
    consistent stand-ins of the same kind. A row that cannot be is kept out and counted. The dataset
    becomes visible in one step at the end, after an entry in the site's journal; Ctrl-C or a crash
    leaves no half of it, and the same command goes on where it stopped. A source may be larger than
    memory: it is read several times, and never copied.

    A plan uses the rows that are for its purpose on its legal basis: what was stated for the whole
    dataset holds, less what `--consent`, `--row-purposes` and `--row-legal-basis` say of a row.

    Rows of an erased subject are left out; `client data readmit` is the only way back.

    **Sources.** Files of rows; folders that `datasets` saved (all splits); FHIR R4 bundles, whose
    columns are `subject`, `mrn`, `text`, `resource`, `type`, `category`, `date` and the patient's
    `name`, `birth_date`, `phone`, `email`, `address` and `identifier`, these being searched for by
    themselves; a query to PostgreSQL, MySQL or SQLite in a session that cannot write, ordered so
    that it gives the same rows each time.

    A plan's task reads one kind of records. **text**: `--text` and `--label`. **spans**: `--text`
    and `--spans`, which are carried over to the stand-ins. **language**: `--text` alone. **table**:
    `--features`, `--categories` and `--label`; nothing is replaced in a table: a row with an
    identifier or a date in a cell is kept out. **image**: `--image` and `--label`; the stored
    picture has no metadata, but its pixels are not searched.

    Exit codes: 0 stored, 3 nothing left to store, or pixels not accepted, 4 no such file,
    5 malformed file or columns, 9 the dataset exists or another ingest runs.

    Examples: `client data add notes.csv --subject patient_id --text note --label topic --group ward
    --purpose triage` · `client data add calls.jsonl --subject customer --text message --label
    intent --known full_name --known phone --dataset calls` · `client data add hearts.csv --kind
    table --subject patient --features age,chol --categories sex,thal --label disease` · `client
    data add scans.csv --kind image --subject patient --image file --label finding
    --accept-unsearched-pixels` · `client data add fhir:bundle.json --dataset notes --label type` ·
    `client data add postgresql+psycopg://reader@db/ehr --query notes.sql --subject patient --text
    note --label topic`
    """
    from client.cleaning.settings import NO_CLEANING, read_cleaning
    from client.deidentification.policy import read_replacement_policy
    from client.deidentifier_pool import DeidentifierPool, usual_workers
    from client.ingest import Recorder, deidentifier_for, ingest
    from client.intake import COLUMNS_OF_CONTENT, Columns, Intake
    from client.source_file import read_source
    from client.sources import open_source
    from client.vault import Vault

    given = open_source(source, query, password_file)
    usual = given.usual_columns
    content = next((known_kind for known_kind in COLUMNS_OF_CONTENT if known_kind == kind), None)
    if content is None:
        raise MalformedInput(
            f"unknown kind {kind!r}", fix=f"one of {', '.join(COLUMNS_OF_CONTENT)}"
        )
    if "text" in COLUMNS_OF_CONTENT[content]:
        text = text or "".join(usual.get("text", ()))
    columns = Columns(
        subject or "".join(usual.get("subject", ())),
        text,
        label,
        tuple(known or usual.get("known", ())),
        content=content,
        group=group,
        spans=spans,
        features=_listed(features),
        categories=_listed(categories),
        suppress_rare=suppress_rare,
        image=image,
        consent=consent,
        purposes=row_purposes,
        legal_basis=row_legal_basis,
    )
    intake = Intake(
        dataset=dataset,
        purposes=tuple(dict.fromkeys(purpose or ())),
        legal_basis=legal_basis,
        replace=replace,
        drop_duplicates=allow_duplicates,
        drop_empty=drop_empty,
        accept_unsearched_pixels=accept_unsearched_pixels,
        cleaning=NO_CLEANING if clean is None else read_cleaning(clean),
    )
    with ExitStack() as stack:
        site = stack.enter_context(Site.open(folder))
        checked = read_source(given, columns, intake)
        secret = site.keyring.secret("surrogates")
        if workers is None:
            workers = 1 if dry_run else usual_workers(checked.characters)
        policy = read_replacement_policy(site.paths.deidentify)
        deidentifier = deidentifier_for(given.folder, columns, checked, secret, policy, workers)
        if isinstance(deidentifier, DeidentifierPool):
            stack.enter_context(deidentifier)
        if dry_run:
            _preview(checked, deidentifier, intake.cleaning, json=json)
            return
        with Vault.open(site.paths, site.keyring) as vault:
            recorder = Recorder(site.journal, site.principal)
            with progress(f"de-identifying {given.name}", checked.rows) as advance:
                result = ingest(
                    checked,
                    intake,
                    vault,
                    deidentifier,
                    recorder,
                    advance,
                    reveal=policy.reveal,
                    columns=columns,
                )
    if json:
        print_json(described(result.dataset) | {"source": source_counts(checked)})
    else:
        print_added(result, checked)


def _preview(
    source: SourceFile, deidentifier: RecordDeidentifier, cleaning: Cleaning, *, json: bool
) -> None:
    from client.preview import counted, in_words, preview, print_preview

    if source.content == "image":
        raise MalformedInput("pictures have no text to preview", fix="leave --dry-run out")
    rows = preview(source, deidentifier, cleaning)
    if err().is_terminal:
        print_preview(rows, err())
    if json:
        print_json(counted(rows))
    else:
        out().print(in_words(counted(rows)), highlight=False)


def _listed(options: list[str] | None) -> tuple[str, ...]:
    """Column names out of `a,b,c`, given once or several times."""
    names = (name.strip() for option in options or () for name in option.split(","))
    return tuple(name for name in names if name)
