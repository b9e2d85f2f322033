"""Logging people in: a ticket for each login, and whom the provider vouches for.

* A ticket is signed and holds no secret: beginning a login writes nothing, so nobody can fill the
  database by beginning many. It is spent in the transaction that opens the session.
* `state` and `nonce` come from the ticket, so that an answer of the provider fits one login only.
  The code verifier (RFC 7636) stays with the command that began it: a stolen code is useless.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from audit.keyring import Keyring
from compliance import rules
from compliance.rules.logins import (
    MAX_LOGIN,
    Expected,
    GroupRole,
    login_refused,
    may_trust_claims,
    person_by_groups,
    person_name,
)
from compliance.service.errors import Denied, enforce
from compliance.service.id_tokens import BadToken
from compliance.service.provider import Provider
from compliance.service.request import parse_json
from compliance.statements import format_time


@dataclass(frozen=True)
class Ticket:
    """One login that was begun."""

    login_id: str
    redirect_uri: str
    code_challenge: str
    expires_at: datetime


@dataclass(frozen=True)
class Person:
    """Somebody whom the provider vouched for.

    Attributes:
        bearer: Name and roles, by the person's claims.
        tag: HMAC of the provider's identifier of the person.
    """

    bearer: rules.Bearer
    tag: str


class LoginDesk:
    """Logins by one provider.

    Args:
        provider: The provider.
        keyring: Has the secrets that sign tickets and hide identifiers.
        audience: Whom ID tokens must be for.
        name_claim: The claim that names a person.
        groups_claim: The claim that lists a person's groups.
        scopes: What the provider is asked for.
        given: What each group gives.
        session: How long a session lasts.
        clock: The present time.
    """

    def __init__(
        self,
        provider: Provider,
        keyring: Keyring,
        *,
        audience: str,
        name_claim: str,
        groups_claim: str,
        scopes: Sequence[str],
        given: Sequence[GroupRole],
        session: timedelta,
        clock: Callable[[], datetime],
    ) -> None:
        self.session = session
        self._provider = provider
        self._keyring = keyring
        self._audience = audience
        self._name_claim = name_claim
        self._groups_claim = groups_claim
        self._scopes = tuple(scopes)
        self._given = tuple(given)
        self._clock = clock

    def close(self) -> None:
        """Give the connections back."""
        self._provider.close()

    def begin(self, redirect_uri: str, code_challenge: str) -> tuple[str, str, str, datetime]:
        """Begin a login.

        Returns:
            Where the person logs in, the ticket, the `state` to expect, and when all that ends.
        """
        ticket = Ticket(
            secrets.token_urlsafe(24),
            redirect_uri,
            code_challenge,
            self._clock().replace(microsecond=0) + MAX_LOGIN,
        )
        state = self._derive("state", ticket.login_id)
        address = self._provider.authorization_url(
            redirect_uri=redirect_uri,
            scope=" ".join(self._scopes),
            state=state,
            nonce=self._derive("nonce", ticket.login_id),
            code_challenge=code_challenge,
            code_challenge_method="S256",
        )
        return address, self._write(ticket), state, ticket.expires_at

    def read_ticket(self, text: str, state: str, code_verifier: str) -> Ticket:
        """A ticket that was begun here, by whoever holds the verifier, and is not over.

        Raises:
            Denied: When it was not.
        """
        ticket = self._read(text)
        challenge = hashlib.sha256(code_verifier.encode("ascii")).digest()
        if self._clock() >= ticket.expires_at:
            raise Denied(login_refused("login-expired"))
        if not hmac.compare_digest(_encode(challenge), ticket.code_challenge) or (
            not hmac.compare_digest(state.encode(), self._derive("state", ticket.login_id).encode())
        ):
            raise Denied(login_refused("login-foreign"))
        return ticket

    def identify(self, ticket: Ticket, code: str, code_verifier: str) -> Person:
        """Whom the provider vouches for.

        Raises:
            Denied: When it vouches for nobody, or its word is not valid.
            ServiceUnavailable: When it does not answer as it should.
        """
        try:
            token = self._provider.exchange(code, code_verifier, ticket.redirect_uri)
            claims = self._provider.verify(token)
        except BadToken as error:
            raise Denied(login_refused(f"login-{error}")) from error
        expected = Expected(
            self._provider.issuer,
            self._provider.client_id,
            self._audience,
            self._derive("nonce", ticket.login_id),
        )
        enforce(may_trust_claims(claims, expected, self._clock()))
        name = person_name(claims, self._name_claim)
        if name is None:
            raise Denied(login_refused("login-name"))
        bearer = person_by_groups(name, claims, self._groups_claim, self._given)
        return Person(bearer, self._derive("person", f"{claims['iss']}\n{claims['sub']}"))

    def _derive(self, purpose: str, text: str) -> str:
        secret = self._keyring.secret("logins")
        tag = hmac.digest(secret, f"{purpose}\n{text}".encode("utf-8", "surrogatepass"), "sha256")
        return tag.hex()

    def _write(self, ticket: Ticket) -> str:
        document = {
            "id": ticket.login_id,
            "redirect_uri": ticket.redirect_uri,
            "code_challenge": ticket.code_challenge,
            "expires_at": format_time(ticket.expires_at),
        }
        body = _encode(json.dumps(document).encode())
        return f"{body}.{self._derive('ticket', body)}"

    def _read(self, text: str) -> Ticket:
        body, _, tag = text.partition(".")
        if not hmac.compare_digest(tag.encode(), self._derive("ticket", body).encode()):
            raise Denied(login_refused("login-foreign"))
        document: dict[str, Any] = parse_json(_decode(body))  # our own, by its tag
        return Ticket(
            document["id"],
            document["redirect_uri"],
            document["code_challenge"],
            datetime.fromisoformat(document["expires_at"]),
        )


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def _decode(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError) as error:
        raise Denied(login_refused("login-foreign")) from error
