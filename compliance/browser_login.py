"""Logging a person in with their browser, by the authorization code flow for native apps.

* The answer comes to a loopback port of this machine (RFC 8252 section 7.3), and counts only with
  the `state` that the service told. Whatever else comes to the port is answered 404.
* The code alone opens nothing: the verifier (RFC 7636) never leaves this process but to the
  service, over its pinned TLS.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from audit.errors import Refused
from compliance.access_views import NewSession
from compliance.api import ComplianceClient

_PAGE: Final = """<!doctype html><html lang="en"><meta charset="utf-8">
<title>Fiduciary</title><p>{text} You can close this window.</p></html>
"""
_MAX_CODE: Final = 4000


class _Answer(HTTPServer):
    """Waits on a loopback port for the one answer that belongs to a login."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.state = ""
        self.code: str | None = None
        self.error: str | None = None


class _Handler(BaseHTTPRequestHandler):
    server: _Answer
    timeout = 5  # a browser that opens a connection and says nothing must not block the answer

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        query = parse_qs(address.query)
        state = "".join(query.get("state", [])).encode()
        known = hmac.compare_digest(state, self.server.state.encode())
        code, error = query.get("code", []), query.get("error", [])
        if address.path != "/callback" or not known or len(code) + len(error) != 1:
            self._say(404, "This is not the login that was waited for.")
        elif error:
            self.server.error = error[0]
            self._say(200, "The login was refused.")
        else:
            self.server.code = code[0][:_MAX_CODE]
            self._say(200, "You are logged in.")

    def _say(self, status: int, text: str) -> None:
        page = _PAGE.format(text=text).encode()
        self.send_response(status)
        self.send_header("content-type", "text/html; charset=utf-8")
        self.send_header("content-length", str(len(page)))
        self.send_header("cache-control", "no-store")
        self.send_header("content-security-policy", "default-src 'none'; frame-ancestors 'none'")
        self.send_header("referrer-policy", "no-referrer")
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: Any) -> None:
        """Say nothing: the path holds the code."""


def log_in(
    client: ComplianceClient, show: Callable[[str], None], *, timeout_seconds: float
) -> NewSession:
    """Log a person in.

    Args:
        client: A client of the service, without a token.
        show: Told the address to open in a browser.
        timeout_seconds: How long to wait for the person.

    Raises:
        Refused: When the provider refuses the person, or nobody came back in time.
        Unauthorised: When the service does not take the provider's word.
    """
    verifier = secrets.token_urlsafe(48)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest())
    with _Answer() as waiting:
        begun = client.access.begin_login(
            redirect_uri=f"http://127.0.0.1:{waiting.server_port}/callback",
            code_challenge=challenge.decode().rstrip("="),
        )
        waiting.state = begun.state
        show(begun.authorization_url)
        deadline = time.monotonic() + timeout_seconds
        while waiting.code is None and waiting.error is None:
            waiting.timeout = deadline - time.monotonic()
            if waiting.timeout <= 0:
                raise Refused(
                    "nobody came back from the login provider in time",
                    fix="run `compliance login` again, and open the address in a browser here",
                )
            waiting.handle_request()
        if waiting.code is None:
            reason = "".join(c for c in waiting.error or "" if c.isascii() and c.isprintable())
            raise Refused(f"the login provider refused the login: {reason[:80]}")
        return client.access.finish_login(begun, code=waiting.code, code_verifier=verifier)
