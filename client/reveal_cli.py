"""`client deidentify reveal-key` and `reveal`: originals, for who holds the key to them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from audit.encoding import encode_base64
from audit.options import Json
from audit.terminal import out, print_json
from audit.words import count_of
from client.options import FolderOption
from client.site import Site


def reveal_key(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A new file for the private key.", show_default=False),
    ],
    json: Json = False,
) -> None:
    """Make the key to which originals are sealed, and print its public half for `deidentify.toml`.

    Whoever has the file, and the site's folder, can put names back. So make it elsewhere, or move
    it away: with the officer who decides when somebody may be identified again.

    Exit codes: 4 there is no such folder, 9 the file exists.

    Example: `client deidentify reveal-key officer-reveal.pem`
    """
    from audit.hpke import create_private_key

    public = encode_base64(create_private_key(file).public_key().public_bytes_raw())
    if json:
        print_json({"private_key": str(file), "public_key": public})
    else:
        out().print(
            f"private key in {file}; keep it away from the site\n\n"
            f'[reveal]\npublic_key = "{public}"\nkinds = ["PERSON", "IDENTIFIER"]',
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def reveal(
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help="The dataset.", show_default=False)
    ],
    subject: Annotated[
        str,
        typer.Option(
            "--subject",
            metavar="ID",
            help="The subject's id, as it stands in the source.",
            show_default=False,
        ),
    ],
    key: Annotated[
        Path,
        typer.Option("--key", metavar="FILE", help="The private key.", show_default=False),
    ],
    reason: Annotated[
        str, typer.Option("--reason", help="Why; goes into the journal.", show_default=False)
    ],
    folder: FolderOption = None,
    json: Json = False,
) -> None:
    """Put the originals back into one subject's records, and show them.

    Only kinds that `[reveal]` named when the dataset was added can be put back. The entry in the
    site's journal comes first, sealed with the subject's own key: `client subject` tells of it.

    Exit codes: 4 no such dataset, subject or key file, 5 no reason given or no key in the file,
    6 the key is another.

    Example: `client deidentify reveal letters --subject P-00417 --key officer-reveal.pem --reason
    "incidental finding, decided by the ethics board on 3 May"`
    """
    from audit.hpke import load_private_key
    from client.originals import reveal as put_back
    from client.vault import Vault

    private = load_private_key(key, fix="name the file that `client deidentify reveal-key` made")
    with Site.open(folder) as site, Vault.open(site.paths, site.keyring) as vault:
        found = put_back(vault, dataset, subject, private, site.journal, site.principal, reason)
    if json:
        print_json([{"text": one.text, "originals": one.originals} for one in found])
        return
    for one in found:
        out().print(one.text, highlight=False, markup=False, soft_wrap=True)
        out().print(f"({count_of(one.originals, 'original')} put back)", style="dim")
