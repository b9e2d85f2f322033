"""`server release`: releases, for the coordinator and for those who use them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from audit.durable import write_durably
from audit.encoding import encode_base64
from audit.errors import Conflict, MalformedInput, NotFound
from audit.hpke import create_private_key, load_private_key
from audit.keys import VerifyKey
from audit.options import Json
from audit.terminal import out, print_json
from compliance.api import ComplianceClient
from compliance.tokens import read_token
from compliance.trust import Trust
from server import screens
from server.fetch import fetch_release, find_release
from server.options import Folder, open_federation

release_app = typer.Typer(
    help="""
Releases: list them, and download one that was granted to you.

A consumer makes a key, gives its public half to a compliance officer, and fetches:

- `server release keygen consumer.key`
- `server release fetch RELEASE --out model --trust trust.json --token-file my.token
  --key consumer.key --coordinator-key KEY`
""",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@release_app.command("list")
def list_releases(folder: Folder = None, *, json: Json = False) -> None:
    """List what was released, and what became of it."""
    screens.show_releases(open_federation(folder), as_json=json)


@release_app.command()
def keygen(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the private key goes.")],
    *,
    json: Json = False,
) -> None:
    """Make a key for receiving releases. Its public half goes to a compliance officer.

    The public half is printed, and lies beside the private key in a file that ends in `.pub`. Keys
    for backups (`compliance backup --recipient`) are made in the same way.

    Exit codes: 4 no such folder, 9 one of both files exists.

    Example: `server release keygen consumer.key`
    """
    public_file = file.with_suffix(".pub")
    if public_file == file:
        raise typer.BadParameter("a name that ends in .pub is for the public half")
    if public_file.exists():
        raise Conflict(f"{public_file} exists already", fix="choose another file")
    public = encode_base64(create_private_key(file).public_key().public_bytes_raw())
    write_durably(public_file, f"{public}\n".encode(), mode=0o644)
    if json:
        print_json({"key": str(file), "public_key": public, "public_key_file": str(public_file)})
        return
    out().print(f"private key: {escape(str(file))} (keep it)")
    out().print(f"public key:  {public}, also in {escape(str(public_file))}", highlight=False)
    out().print("next, by an officer: compliance grant RELEASE --to YOU --public-key KEY …")


@release_app.command()
def fetch(
    release: Annotated[
        str,
        typer.Argument(
            metavar="RELEASE", help="Its id, the beginning of it, its name, or `@ALIAS`."
        ),
    ],
    *,
    output: Annotated[Path, typer.Option("--out", help="Folder to make.")],
    trust: Annotated[
        Path,
        typer.Option("--trust", envvar="FIDUCIARY_TRUST", help="trust.json of the service."),
    ],
    token_file: Annotated[
        Path,
        typer.Option("--token-file", envvar="FIDUCIARY_TOKEN_FILE", help="Your token."),
    ],
    key: Annotated[Path, typer.Option("--key", help="Your private key, from keygen.")],
    coordinator_key: Annotated[
        str | None,
        typer.Option(
            help="Whose signature to expect: the line `coordinator key` of `server status`, or a "
            "file that holds it.",
            show_default="the federation in --dir",
        ),
    ] = None,
    save_signing_key: Annotated[
        Path | None,
        typer.Option(
            help="Write the key of the release's model.sig there, for `model_signing verify key`.",
            show_default=False,
        ),
    ] = None,
    folder: Folder = None,
    json: Json = False,
) -> None:
    """Download, verify, decrypt and unpack a release that was granted to you.

    Every check comes before the folder appears. It then loads with plain transformers and peft.
    """
    expected = _coordinator_key(coordinator_key, folder)
    with ComplianceClient(Trust.load(trust), read_token(token_file)) as compliance:
        fetched = fetch_release(
            compliance,
            find_release(compliance, release),
            output,
            key=load_private_key(key, fix="make one: server release keygen FILE"),
            coordinator=expected,
        )
    if save_signing_key is not None:
        pem = fetched.manifest.model_signing_key
        if pem is None:
            raise NotFound("this release was made before releases had a model.sig")
        write_durably(save_signing_key.absolute(), pem.encode("ascii"), mode=0o644)
    if json:
        print_json(
            {
                "release_id": fetched.release_id,
                "folder": str(fetched.folder),
                "manifest": fetched.manifest.body(),
            }
        )
        return
    screens.show_fetched(fetched)


def _coordinator_key(given: str | None, folder: Path | None) -> VerifyKey:
    if given is None:
        try:
            return open_federation(folder).identity.public
        except NotFound as error:
            raise MalformedInput(
                "it is not said whose signature the release must carry",
                fix="pass --coordinator-key KEY; the coordinator reads it from `server status`",
            ) from error
    path = Path(given)
    return VerifyKey.parse(path.read_text("utf-8") if path.is_file() else given)
