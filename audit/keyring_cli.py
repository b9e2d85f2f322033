"""`audit keyring`: what the operator of a keyring does with its key-encryption key."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from audit.errors import MalformedInput, NotFound
from audit.key_managers import FILE_SETTINGS, ManagerSettings, read_toml
from audit.key_rotation import Progress
from audit.keyring import Keyring, KeyringStatus
from audit.options import Json
from audit.presentation import print_fields, progress_bar, say
from audit.terminal import print_json
from audit.vault_settings import DEFAULT_TIMEOUT_SECONDS, VaultSettings
from audit.vault_transit import VaultTransit
from audit.words import count_of

app = typer.Typer(
    name="keyring",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""
Rotate the key-encryption key of a keyring, or keep it elsewhere.

A keyring is the folder `keyring` of a compliance service or a site. Its data keys seal what the log
says of each subject; a key-encryption key wraps them: a file in the folder, or a key in Vault.

Services may run meanwhile, the log is not touched, and an interrupted command leaves every key
readable: run it again. After it, **older copies of the wrapped keys are useless**, so that what was
forgotten stays forgotten in backups. A copy of the whole folder made before holds the old key too.

Run these as the user who owns the folder.
""",
)

Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="Folder of the keyring.", show_default=False)
]


@app.command()
def show(directory: Folder, json: Json = False) -> None:
    """Say which key manager wraps, and how many keys there are under which version.

    Asks no service. `unfinished` means that a rotation was interrupted: `audit keyring rotate DIR`.

    Example: `audit keyring show site/keyring`
    """
    with Keyring.open(directory) as keyring:
        fields = _described(keyring.status())
    if json:
        print_json(fields)
    else:
        print_fields(fields)


@app.command()
def rotate(directory: Folder, json: Json = False) -> None:
    """Wrap every data key anew under a new key-encryption key, and destroy the old one.

    Do so after destroying keys, when a copy of the wrapped keys may have been taken, and on a
    calendar. It also ends what was interrupted.

    Example: `audit keyring rotate site/keyring`
    """
    with Keyring.open(directory) as keyring, _progress(json) as progress:
        count = keyring.rotate(progress)
        status = keyring.status()
    _report(count, status, json=json)


@app.command("use-vault")
def use_vault(
    directory: Folder,
    address: Annotated[
        str,
        typer.Option(metavar="URL", help="Of Vault, such as https://vault.example:8200."),
    ],
    key: Annotated[
        str, typer.Option(metavar="NAME", help="Transit key, for this keyring alone; made if new.")
    ],
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File that holds the token, read at each use."),
    ] = None,
    token_environment: Annotated[
        str, typer.Option(metavar="NAME", help="Environment variable that holds the token instead.")
    ] = "",
    ca_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="PEM file of the CA that vouches for Vault."),
    ] = None,
    mount: Annotated[
        str, typer.Option(metavar="PATH", help="Where the transit engine is mounted.")
    ] = "transit",
    namespace: Annotated[str, typer.Option(metavar="NAME", help="Namespace in Vault.")] = "",
    timeout_seconds: Annotated[
        int, typer.Option(metavar="SECONDS", help="How long Vault may take to answer.")
    ] = DEFAULT_TIMEOUT_SECONDS,
    existing_key: Annotated[
        bool, typer.Option(help="The transit key may exist; no other keyring uses it.")
    ] = False,
    json: Json = False,
) -> None:
    """Wrap every data key with a key in HashiCorp Vault's transit engine, and destroy the old one.

    The token needs what docs/key-management.md lists. Running services follow by themselves; they
    need the same token file or environment variable. From then on, nothing is appended to the log
    while Vault is down.

    Example: `audit keyring use-vault site/keyring --address https://vault.example:8200
    --key fiduciary-st-elm --token-file /run/vault/token`
    """
    settings = VaultSettings(
        address=address,
        key=key,
        mount=mount,
        namespace=namespace,
        ca_file=str(ca_file.resolve()) if ca_file else "",
        token_file=str(token_file.resolve()) if token_file else "",
        token_environment=token_environment,
        timeout_seconds=timeout_seconds,
    )
    with Keyring.open(directory) as keyring:
        # A key that this keyring uses already: the command was interrupted, or settings change.
        known = any(
            (each.options.get("address"), each.options.get("key")) == (address, key)
            for each in keyring.status().managers
        )
    vault = VaultTransit(settings)
    try:
        vault.create_key(existing=existing_key or known)
    finally:
        vault.close()
    _move(directory, ManagerSettings("vault", settings.options()), json=json)


@app.command("use-file")
def use_file(directory: Folder, json: Json = False) -> None:
    """Wrap every data key with a key in a file of the folder, and destroy the old one.

    Example: `audit keyring use-file site/keyring`
    """
    _move(directory, FILE_SETTINGS, json=json)


@app.command("use")
def use(
    directory: Folder,
    settings: Annotated[
        Path,
        typer.Argument(
            metavar="SETTINGS", help="TOML file with `kind` and its fields.", show_default=False
        ),
    ],
    json: Json = False,
) -> None:
    """Wrap every data key with any installed key manager, and destroy the old one.

    SETTINGS holds what the section `[manager]` of `key-manager.toml` will hold: `kind`, the name of
    the installed manager, perhaps `cache_seconds`, and the manager's own fields. See
    docs/key-management.md for how to write one.

    Example: `audit keyring use site/keyring kms.toml`
    """
    if not settings.is_file():
        raise NotFound(f"no file {settings}", fix="check the path")
    table = read_toml(settings)
    if "id" in table:
        raise MalformedInput(f"malformed {settings}: id is not yours to choose")
    _move(directory, ManagerSettings.parse(table, str(settings)), json=json)


def _move(directory: Path, settings: ManagerSettings, *, json: bool) -> None:
    with Keyring.open(directory) as keyring, _progress(json) as progress:
        count = keyring.move(settings, progress)
        status = keyring.status()
    _report(count, status, json=json)


def _progress(json: bool) -> AbstractContextManager[Progress | None]:
    return progress_bar("wrapping", quiet=json, unit="keys")


def _report(count: int, status: KeyringStatus, *, json: bool) -> None:
    fields = _described(status) | {"rewrapped": count}
    if json:
        print_json(fields)
        return
    by = escape(status.managers[0].kind)
    say(f"[bold green]done[/] {count_of(count, 'key')} wrapped anew by {by}")
    print_fields(_described(status))


def _described(status: KeyringStatus) -> dict[str, Any]:
    return {
        "manager": dict(status.managers[0].table()),
        "keys": sum(status.versions.values()),
        "versions": status.versions,
        "destroyed": status.destroyed,
        "unfinished": bool(status.retiring),
    }
