"""Commands about who one is to the service."""

from __future__ import annotations

import threading
import webbrowser
from typing import Annotated

import typer
from rich.markup import escape

from audit.durable import write_durably
from audit.errors import FiduciaryError, Unauthorised
from audit.options import Json
from audit.terminal import err, print_json
from compliance.api import ComplianceClient
from compliance.commands.options import (
    DEFAULT_FOLDER,
    FolderOption,
    TokenOption,
    TrustOption,
    load_trust,
    service,
    session_file,
)
from compliance.presentation import document, print_fields, roles_and_sites, say
from compliance.tokens import read_token

LOGIN_SECONDS = 300


def login(
    browser: Annotated[
        bool, typer.Option(help="Open the address in a browser, besides printing it.")
    ] = True,
    trust: TrustOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Log in at the organisation's login provider, and act as that person from then on.

    The service must know a provider ([oidc] in compliance.toml). What comes back is a token for
    about an hour, in a file that you alone can read; the other commands use it, unless
    `--token-file` names another, until `compliance logout`.

    Example: `compliance login --trust trust.json`
    """
    from compliance.browser_login import log_in

    facts = load_trust(trust, folder)

    def show(address: str) -> None:
        err().print(f"Log in here: {escape(address)}", highlight=False, soft_wrap=True)
        if browser:
            # Some browsers end only when the page was read, which waits for us.
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    with ComplianceClient(facts) as client:
        session = log_in(client, show, timeout_seconds=LOGIN_SECONDS)
    kept = session_file(facts)
    kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_durably(kept, f"{session.token}\n".encode("ascii"))
    if json:
        print_json({**document(session), "token": None, "token_file": str(kept)})
        return
    print_fields(
        {
            "principal": session.name,
            "roles": roles_and_sites(session.roles, session.sites),
            "until": session.expires_at or "",
        }
    )
    if not session.confirmed:
        confirm = f"[bold]compliance principals confirm {escape(session.name)}[/]"
        say(f"\nNothing is allowed until a second officer has said: {confirm}")


def logout(
    trust: TrustOption = None, folder: FolderOption = DEFAULT_FOLDER, json: Json = False
) -> None:
    """End the session that `compliance login` began, and forget its token.

    Example: `compliance logout`
    """
    facts = load_trust(trust, folder)
    kept = session_file(facts)
    ended = False
    if kept.exists():
        try:
            with ComplianceClient(facts, read_token(kept)) as client:
                client.access.log_out()
                ended = True
        except Unauthorised:
            pass  # it had ended by itself
        except FiduciaryError:
            kept.unlink()
            raise  # forgotten here; that it ends there, too, could not be said
        kept.unlink()
    print_json({"ended": ended}) if json else say("logged out" if ended else "nobody was logged in")


def whoami(
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Show as whom, in which roles and for which sites the other commands act.

    Example: `compliance whoami`
    """
    with service(trust, token_file, folder) as client:
        view = client.access.identity()
    if json:
        print_json(document(view))
        return
    print_fields(
        {
            "principal": view.name,
            "roles": roles_and_sites(view.roles, view.sites),
            "until": view.expires_at or "revoked",
        }
    )
