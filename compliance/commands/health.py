"""`compliance health`: for container engines and load balancers on the service's own machine."""

from __future__ import annotations

from typing import Final

import httpx

from audit.errors import Unreachable
from audit.options import Json
from audit.terminal import print_json
from compliance.commands.options import DEFAULT_FOLDER, FolderArgument
from compliance.presentation import say
from compliance.trust import Trust

TIMEOUT_SECONDS: Final = 5.0
"""Shorter than the patience of whoever asks; the service answers within milliseconds."""

_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  listened on, not dialled

_OWN_NAME: Final = "localhost"
"""Every certificate of `compliance init` holds it, whatever others call the service."""


def health(
    folder: FolderArgument = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Ask the service of this folder, on this machine, whether it can serve.

    It dials the port of `compliance.toml` and expects the certificate of `trust.json`; no token is
    used. The service is well when it answers and its database does.

    Exit codes: 0 it is well, 7 it does not answer, or its database does not.

    Example: `compliance health /srv/compliance`
    """
    from compliance.service.folder import Folder
    from compliance.service.settings import read_settings

    opened = Folder(folder)
    settings, trust = read_settings(opened.settings), Trust.load(opened.trust)
    host = _EVERYWHERE.get(settings.host, settings.host)
    place = f"[{host}]:{settings.port}" if ":" in host else f"{host}:{settings.port}"
    try:
        with httpx.Client(
            verify=trust.ssl_context(), trust_env=False, timeout=TIMEOUT_SECONDS
        ) as client:
            answer = client.get(f"https://{place}/health", extensions={"sni_hostname": _OWN_NAME})
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise Unreachable(
            f"the compliance service does not answer at {place}: {reason}",
            fix=f"start it: `compliance start {folder}`",
        ) from error
    if answer.status_code != httpx.codes.OK:
        raise Unreachable(
            f"the compliance service at {place} cannot serve: it answered {answer.status_code}",
            fix="check that its database runs and has space",
        )
    print_json({"status": "ok"}) if json else say(f"the compliance service at {place} is well")
