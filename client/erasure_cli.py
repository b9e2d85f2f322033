"""`client erase`: the command that forgets a data subject."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from audit.errors import Refused, Unauthorised, Unreachable
from audit.options import Json
from audit.terminal import err, print_error, print_json
from audit.words import count_of
from client.network import open_service
from client.options import FolderOption
from client.outbox import Delivery, Outbox
from client.presentation import print_erasure, say
from client.site import Site


def erase(
    subject: Annotated[
        str | None,
        typer.Argument(
            metavar="SUBJECT",
            help="The subject's id, as it stood in the file's subject column.",
            show_default=False,
        ),
    ] = None,
    folder: FolderOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    send_pending: Annotated[
        bool,
        typer.Option("--send-pending", help="Only send receipts that were not sent yet."),
    ] = False,
    json: Json = False,
) -> None:
    """Erase a data subject: every record, and the key that could read old copies of them.

    Erased records are in no later round, also while `client start` runs, and the subject's rows are
    left out when the same file is added again. This cannot be undone.

    The site signs a receipt that names every plan which may have used the records before, keeps it
    in `receipts/`, and sends it to the compliance service. When the service is away the erasure
    still happens, and the receipt is sent by the next `client erase --send-pending` or
    `client start`. Nothing that is written or sent holds the id: receipts name a keyed pseudonym.

    Exit codes: 0 erased (also when the receipt still waits), 2 nobody is there to ask and no
    `--yes`, 3 not confirmed, 4 no such subject.

    Examples: `client erase P-00417` · `client erase P-00417 --yes --json` ·
    `client erase --send-pending`
    """
    from client.erasure import erase_subject
    from client.outbox import Outbox
    from client.vault.store import Vault

    with Site.open(folder) as site:
        erased = None
        if subject is not None:
            if not yes:
                _confirm()
            with Vault.open(site.paths, site.keyring) as vault, site.ledger() as ledger:
                erased = erase_subject(site, vault, ledger, subject)
        elif not send_pending:
            raise typer.BadParameter("name a SUBJECT, or use --send-pending")
        delivery = send_waiting(site, Outbox(site))
        delivered = erased is not None and erased.receipt_file.exists()
        if json:
            print_json(
                {
                    "erased": None if erased is None else erased.receipt.body(),
                    "statement": None if erased is None else erased.statement,
                    "site_receipt": None if erased is None else str(erased.own_receipt),
                    "receipt": str(erased.receipt_file) if erased and delivered else None,
                    "sent": delivery.sent,
                    "waiting": delivery.waiting,
                    "rejected": delivery.rejected,
                }
            )
            return
        if erased is not None:
            print_erasure(erased, delivered=delivered)
    if delivery.problem is not None:
        err().print("[yellow]the receipt waits:[/] the erasure is done, and it is sent later")
        print_error(delivery.problem)
    for reason in delivery.rejected:
        print_error(Refused(f"the compliance service did not take a statement: {reason}"))
    if erased is None:
        say(f"{count_of(delivery.sent, 'statement')} sent, {delivery.waiting} waiting")


def _confirm() -> None:
    if not sys.stdin.isatty():
        raise typer.BadParameter("erasing cannot be undone: add --yes")
    if not typer.confirm("Erase this subject for ever?", err=True):
        raise Refused("nothing was erased", fix="answer y, or add --yes")


def send_waiting(site: Site, outbox: Outbox) -> Delivery:
    """Send what waits; a site without a federation keeps it."""
    if not outbox.files():
        return Delivery()
    if not site.paths.token.exists():
        return Delivery(waiting=len(outbox.files()))
    try:
        with open_service(site) as service:
            return outbox.send(service)
    except (Unreachable, Unauthorised) as error:
        return Delivery(waiting=len(outbox.files()), problem=error)
