"""The login provider: its description, its keys, and the exchange of a code for an ID token.

* HTTPS only, to the provider that `compliance.toml` names, without redirects; its own CA may be
  given. Answers are bounded in size and time.
* Description and keys are kept for an hour. A token that names an unknown key makes them be read
  again, so that a rotation is noticed at once, but not more often than twice a minute.
* OpenID Connect Discovery 1.0; RFC 6749, with PKCE (RFC 7636).
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import httpx

from audit.errors import MalformedInput
from compliance.service.errors import ServiceUnavailable
from compliance.service.id_tokens import BadToken, Jwk, UnknownKey, verify_token
from compliance.service.request import parse_json

KEPT_FOR: Final = timedelta(hours=1)
READ_AGAIN_AFTER: Final = timedelta(seconds=30)

TIMEOUT_SECONDS: Final = 10.0
MAX_ANSWER_BYTES: Final = 256 * 1024

_UNAVAILABLE: Final = "the login provider does not answer as it should"
_TRY_AGAIN: Final = "try again; if it goes on, check [oidc] in compliance.toml, and the provider"


@dataclass(frozen=True)
class Description:
    """What a provider says of itself."""

    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    read_at: datetime


class Provider:
    """One OpenID provider; safe under threads.

    Args:
        issuer: Its name, which is also its address.
        client_id: This service's name there.
        client_secret: This service's secret there; None for a public client.
        ca_file: Whom to trust for its certificate; the system's authorities without it.
        clock: The present time.
    """

    def __init__(
        self,
        issuer: str,
        client_id: str,
        client_secret: str | None,
        ca_file: Path | None,
        clock: Callable[[], datetime],
    ) -> None:
        self.issuer = issuer
        self.client_id = client_id
        self._secret = client_secret
        self._clock = clock
        self._http = httpx.Client(
            verify=ssl.create_default_context(cafile=ca_file),
            timeout=TIMEOUT_SECONDS,
            trust_env=False,
            follow_redirects=False,
        )
        self._lock = threading.Lock()
        self._description: Description | None = None
        self._keys: tuple[datetime, list[Jwk]] | None = None

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def authorization_url(self, **parameters: str) -> str:
        """Where a person logs in.

        Raises:
            ServiceUnavailable: When the provider's description cannot be had.
        """
        endpoint = self._describe().authorization_endpoint
        query = urlencode(
            {"response_type": "code", "client_id": self.client_id, **parameters}, quote_via=quote
        )
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{query}"

    def exchange(self, code: str, code_verifier: str, redirect_uri: str) -> str:
        """The ID token for an authorization code.

        Raises:
            BadToken: When the provider refuses the code.
            ServiceUnavailable: When it does not answer as it should.
        """
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "code_verifier": code_verifier,
            "redirect_uri": redirect_uri,
            "client_id": self.client_id,
        }
        # RFC 6749 section 2.3.1: both parts are form-encoded before they are joined.
        auth = None
        if self._secret is not None:
            auth = httpx.BasicAuth(quote(self.client_id, safe=""), quote(self._secret, safe=""))
        status, answer = self._send("POST", self._describe().token_endpoint, data=form, auth=auth)
        if status in (400, 401, 403):
            raise BadToken("code-refused")
        token = answer.get("id_token")
        if status != 200 or not isinstance(token, str):
            raise _unavailable("token endpoint")
        return token

    def verify(self, token: str) -> dict[str, Any]:
        """What an ID token says, once its signature is known to be the provider's.

        Raises:
            BadToken: When it is not.
            ServiceUnavailable: When the keys cannot be had.
        """
        keys = self._read_keys(KEPT_FOR)
        try:
            return verify_token(token, keys)
        except UnknownKey:
            return verify_token(token, self._read_keys(READ_AGAIN_AFTER))

    def _describe(self) -> Description:
        with self._lock:
            known, now = self._description, self._clock()
            if known is not None and now - known.read_at < KEPT_FOR:
                return known
            status, answer = self._send("GET", f"{self.issuer}/.well-known/openid-configuration")
            if status != 200 or answer.get("issuer") != self.issuer:
                raise _unavailable("description")
            self._description = Description(
                _https(answer, "authorization_endpoint"),
                _https(answer, "token_endpoint"),
                _https(answer, "jwks_uri"),
                now,
            )
            return self._description

    def _read_keys(self, kept_for: timedelta) -> list[Jwk]:
        address = self._describe().jwks_uri
        with self._lock:
            now = self._clock()
            if self._keys is not None and now - self._keys[0] < kept_for:
                return self._keys[1]
            status, answer = self._send("GET", address)
            keys = answer.get("keys")
            if status != 200 or not isinstance(keys, list):
                raise _unavailable("keys")
            self._keys = (now, [key for key in keys if isinstance(key, dict)])
            return self._keys[1]

    def _send(self, method: str, address: str, **options: Any) -> tuple[int, dict[str, Any]]:
        """One bounded exchange; an answer that is no JSON object counts as an empty one."""
        body = b""
        try:
            with self._http.stream(method, address, **options) as response:
                for piece in response.iter_bytes():
                    body += piece
                    if len(body) > MAX_ANSWER_BYTES:
                        raise _unavailable("size")
        except httpx.HTTPError as error:
            raise _unavailable("connection") from error
        try:
            document = parse_json(body)
        except MalformedInput:
            document = None
        return response.status_code, document if isinstance(document, dict) else {}


def _https(answer: dict[str, Any], name: str) -> str:
    address = answer.get(name)
    if not isinstance(address, str) or urlsplit(address).scheme != "https":
        raise _unavailable(name)
    return address


def _unavailable(what: str) -> ServiceUnavailable:
    return ServiceUnavailable(f"{_UNAVAILABLE}: {what}", fix=_TRY_AGAIN)
