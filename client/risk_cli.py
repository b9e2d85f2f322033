"""`client data risk`: how many people share what a table says of each."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from audit.errors import MalformedInput
from audit.options import Json
from audit.terminal import out, print_json
from client.options import FolderOption
from client.site import Site


def risk(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The dataset.", show_default=False)],
    columns: Annotated[
        list[str],
        typer.Option(
            "--columns",
            metavar="COL,COL,…",
            help="Quasi-identifiers: what others may know of a person.",
            show_default=False,
        ),
    ],
    k: Annotated[
        int, typer.Option("--k", min=2, help="From how many people on it is shared enough.")
    ] = 5,
    folder: FolderOption = None,
    json: Json = False,
) -> None:
    """Count how many people share each combination of quasi-identifiers of a table (k-anonymity).

    Shows counts, never values. Nothing is changed: to lower the risk, add the dataset again with
    coarser columns, or with `--suppress-rare`. Differential privacy protects what is trained either
    way; this is about who looks at the records.

    Exit codes: 4 no such dataset, 5 it is no table or has no such column.

    Example: `client data risk hearts --columns age,sex --k 5`
    """
    from client.risk import measure_risk
    from client.vault import Vault

    wanted = [one.strip() for option in columns for one in option.split(",") if one.strip()]
    with Site.open(folder) as site, Vault.open(site.paths, site.keyring) as vault:
        if vault.dataset(name).datasheet.content != "table":
            raise MalformedInput(f"{name} is no table", fix="`client data list` tells what each is")
        found = measure_risk(vault.each_example(name), wanted, k)
    if json:
        print_json(asdict(found))
        return
    table = Table("", "", box=None, show_header=False)
    for label, count in (
        ("people", found.subjects),
        ("combinations", found.combinations),
        ("people who share the rarest", found.k),
        (f"combinations of fewer than {k} people", found.rare_combinations),
        ("people with such a combination", found.subjects_at_risk),
        ("people with one that nobody shares", found.unique_subjects),
        (f"combinations of {k} or more, all of one class", found.one_class_combinations),
        *((f"values of {column} that fewer have", n) for column, n in found.rare_values.items()),
    ):
        table.add_row(label, str(count))
    out().print(table)
