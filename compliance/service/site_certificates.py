"""Mutual TLS with sites: the certificate by which a site is known, beside its token.

* A connection may show a client certificate; nobody must. The handshake accepts exactly the
  certificates that sites were admitted with, each its own anchor: no authority can issue another,
  and whoever shows one proved that they hold its key.
* A certificate that was renewed works beside the new one until the next renewal: both are for the
  same key, and a site changes over when it next asks.
* Whether a site must have shown its own is decided behind the gate (`rules.may_come_by`), where a
  refusal is a log entry. The dates of a certificate are not looked at: it is pinned, and ends with
  the site. A site's duties towards data subjects do not end with a date.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Final

import uvicorn
from sqlalchemy import select, union

from compliance.service.access_tables import SiteRenewalRow
from compliance.service.registry import Registry
from compliance.service.tables import SiteRow

PEER_CERTIFICATE: Final = "peer_certificate"
"""Name in the state of an ASGI scope: the DER form of what the other side showed, if anything."""

_NO_CHECK_TIME: Final = ssl.VerifyFlags(0x200000)
"""`X509_V_FLAG_NO_CHECK_TIME` of OpenSSL, which Python has no name for."""


def accept_site_certificates(config: uvicorn.Config, registry: Registry) -> None:
    """Let a loaded configuration ask for client certificates and pass them on.

    Raises:
        ServiceUnavailable: When the database cannot be read.
    """
    context = config.ssl
    if context is None:
        return
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    with registry.reading() as session:
        present, former = SiteRow.certificate, SiteRenewalRow.former_certificate
        known = union(
            select(present).where(present.is_not(None)), select(former).where(former.is_not(None))
        )
        for (certificate,) in session.execute(known):
            context.load_verify_locations(cadata=certificate)
    registry.on_admitted.append(
        lambda certificate: context.load_verify_locations(cadata=certificate)
    )
    config.http_protocol_class = _telling(config.http_protocol_class)


def _telling(protocol: Any) -> type[asyncio.Protocol]:
    """A web protocol of uvicorn that tells the application what the other side showed."""

    class Telling(protocol):  # type: ignore[misc]
        app_state: dict[str, Any]

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            connection = transport.get_extra_info("ssl_object")
            shown = None if connection is None else connection.getpeercert(binary_form=True)
            self.app_state = {**self.app_state, PEER_CERTIFICATE: shown}

    return Telling
