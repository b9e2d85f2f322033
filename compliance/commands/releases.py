"""Commands about releases and their grants."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.markup import escape

from audit.options import Json
from audit.terminal import print_json
from compliance.commands.options import (
    DEFAULT_FOLDER,
    FolderOption,
    ReasonOption,
    ReleaseArgument,
    TokenOption,
    TrustOption,
    read_public_key,
    release_id_of,
    service,
)
from compliance.presentation import (
    document,
    print_release,
    print_releases,
    say,
    short,
)
from compliance.statements import format_time


def releases(
    release: Annotated[
        str | None,
        typer.Argument(metavar="[ID]", help="Show this release in full.", show_default=False),
    ] = None,
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """List releases, or show one in full with its grants.

    Example: `compliance releases 77b0e4`
    """
    with service(trust, token_file, folder) as client:
        if release is None:
            found = client.releases()
            print_json([document(view) for view in found]) if json else print_releases(found)
            return
        shown = client.release(release_id_of(client, release))
    print_json(document(shown)) if json else print_release(shown)


def approve_release(
    release: ReleaseArgument,
    reason: ReasonOption = "",
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Approve a release that somebody else submitted. It can then be granted.

    Exit codes: 3 it is your own, 8 you are no officer, 9 decided already or not uploaded yet.

    Example: `compliance approve release 77b0e4`
    """
    with service(trust, token_file, folder) as client:
        view = client.approve_release(release_id_of(client, release), reason=reason)
    if json:
        print_json(document(view))
    else:
        name = short(view.release_id)
        say(f"[green]approved[/] release {name}, log entry {view.approved_position}")
        say(f"Next: [bold]compliance grant {name} --to PRINCIPAL --public-key KEY …[/]")


def reject_release(
    release: ReleaseArgument,
    reason: ReasonOption = "",
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Reject a release. Nobody can ever download it.

    Example: `compliance reject release 77b0e4 --reason "accuracy below the requirement"`
    """
    with service(trust, token_file, folder) as client:
        view = client.reject_release(release_id_of(client, release), reason=reason)
    if json:
        print_json(document(view))
    else:
        say(f"[red]rejected[/] release {short(view.release_id)}")


def grant(
    release: ReleaseArgument,
    to: Annotated[str, typer.Option("--to", metavar="PRINCIPAL", help="Who may download.")],
    public_key: Annotated[
        str,
        typer.Option(
            metavar="KEY",
            help="Their X25519 public key in base64, as `server release keygen` prints it, or a"
            " file that holds it.",
        ),
    ],
    purpose: Annotated[
        str, typer.Option(help="What for: the purpose of the release's plan, such as `triage`.")
    ],
    days: Annotated[int, typer.Option(min=1, max=1096, help="How many days it lasts.")] = 30,
    downloads: Annotated[
        int | None,
        typer.Option(
            min=1, max=100_000, help="How often they may download.", show_default="no limit"
        ),
    ] = None,
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Let a principal download an approved release, for a purpose and a time, so many times.

    The purpose is the one that the release's plan was approved for; another is refused.

    The release's data key is sealed to their public key: nobody else can open what they download.
    A download counts when it begins. Granted anew, they are counted anew.

    Exit codes: 3 another purpose, or nobody grants to themselves, 5 no such principal, 9 it is not
    approved.

    Example: `compliance grant 77b0e4 --to triage-desk --public-key KEY --purpose triage --days 30`
    """
    expires_at = format_time(datetime.now(UTC) + timedelta(days=days))
    key = read_public_key(public_key)
    with service(trust, token_file, folder) as client:
        view = client.grant(
            release_id_of(client, release),
            to,
            public_key=key,
            purpose=purpose,
            expires_at=expires_at,
            max_downloads=downloads,
        )
    if json:
        print_json(document(view))
    else:
        say(
            f"[green]granted[/] release {short(view.release_id)} to {escape(view.principal)}"
            f" until {view.expires_at}"
        )
        say(f"They fetch it: [bold]server release fetch {short(view.release_id)} …[/]")


def revoke_grant(
    release: ReleaseArgument,
    principal: Annotated[
        str, typer.Option("--from", metavar="PRINCIPAL", help="Whose grant ends.")
    ],
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Take a grant back. The next download is refused; copies made before are not undone.

    Example: `compliance revoke grant 77b0e4 --from triage-desk`
    """
    with service(trust, token_file, folder) as client:
        view = client.revoke_grant(release_id_of(client, release), principal)
    if json:
        print_json(document(view))
    else:
        say(f"[red]revoked[/] the grant of {short(view.release_id)} to {escape(view.principal)}")
