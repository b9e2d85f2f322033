"""Sending a message to a data subject.

* `Mailer` is all that the rest knows. `SmtpMailer` speaks SMTP over TLS (RFC 8314, or STARTTLS),
  `FileMailer` writes each message to a file, for tests and laptops.
* A message is short text. It holds no identifier but the address that it goes to.
"""

from __future__ import annotations

import secrets
import smtplib
import ssl
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from pathlib import Path
from typing import Final, Protocol

from audit.durable import write_durably
from audit.errors import Unreachable
from compliance.service.subject_settings import MailSettings

TIMEOUT_SECONDS: Final = 20.0


class Mailer(Protocol):
    """Sends one message."""

    def send(self, recipient: str, subject: str, text: str) -> None:
        """Hand the message over.

        Raises:
            Unreachable: When it was not taken; it may be sent again later.
        """


def make_mailer(settings: MailSettings, folder: Path) -> Mailer:
    """The mailer that the settings name.

    Args:
        settings: The settings.
        folder: The compliance folder, to which paths are relative.
    """
    if settings.kind == "files":
        return FileMailer(folder / settings.folder, settings.sender)
    return SmtpMailer(settings, folder)


class FileMailer:
    """Writes messages to a folder, one file each, readable by its owner alone."""

    def __init__(self, folder: Path, sender: str) -> None:
        self._folder = folder
        self._sender = sender

    def send(self, recipient: str, subject: str, text: str) -> None:
        """Write the message."""
        message = _message(self._sender, recipient, subject, text)
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            number = len(list(self._folder.glob("*.eml"))) + 1
            name = f"{number:06}-{secrets.token_hex(4)}.eml"
            write_durably(self._folder / name, message.as_bytes())
        except OSError as error:
            raise Unreachable("the folder for mail cannot be written") from error


class SmtpMailer:
    """Hands messages to a mail server."""

    def __init__(self, settings: MailSettings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder

    def send(self, recipient: str, subject: str, text: str) -> None:
        """Hand the message to the server."""
        settings = self._settings
        message = _message(settings.sender, recipient, subject, text)
        try:
            with self._connect() as server:
                if settings.user:
                    server.login(settings.user, self._password())
                server.send_message(message)
        # The server's own words may repeat the address.
        except (OSError, smtplib.SMTPException) as error:
            raise Unreachable(
                f"the mail server did not take a message: {type(error).__name__}",
                fix="check [mail] in requests.toml, and the server's own log",
            ) from error

    def _connect(self) -> smtplib.SMTP:
        settings, context = self._settings, self._context()
        if settings.security == "tls":
            return smtplib.SMTP_SSL(
                settings.host, settings.port, timeout=TIMEOUT_SECONDS, context=context
            )
        server = smtplib.SMTP(settings.host, settings.port, timeout=TIMEOUT_SECONDS)
        try:
            server.starttls(context=context)
        except BaseException:
            server.close()
            raise
        return server

    def _context(self) -> ssl.SSLContext:
        authority = self._settings.certificate_authority
        cafile = str(self._folder / authority) if authority else None
        return ssl.create_default_context(cafile=cafile)

    def _password(self) -> str:
        return (self._folder / self._settings.password_file).read_text("utf-8").strip()


def _message(sender: str, recipient: str, subject: str, text: str) -> EmailMessage:
    message = EmailMessage()
    message["From"] = sender
    message["To"] = recipient
    message["Subject"] = subject
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2])
    message.set_content(text)
    return message
