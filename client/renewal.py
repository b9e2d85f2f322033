"""The site's node certificate, renewed before it ends, without anybody's help.

* The site asks the compliance service, with a request that its identity signs over the present
  certificate; the coordinator answers when it next looks; the site fetches the answer.
* The node key stays: the coordinator knows the site by it, and no round notices.
* A new certificate is believed as the first was, by the federation's CA alone, and only when it
  ends later than the present one. Until then the old one works, too.
* The service looks at no dates: a site whose certificate ended while it was away asks all the same.
  Whether there is a newer one it asks by its token alone then: the service may know the old one no
  more, as after a backup was restored.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final, Protocol

from cryptography import x509

from audit.durable import write_durably
from audit.errors import VerificationFailed
from audit.log import Entry
from audit.statement import SignedStatement, sign_statement
from client.certificates import certificate_request, check_certificate, read_certificate
from client.site import Site
from compliance.resources import Recorded, SiteView
from compliance.statements import CertificateRenewal, certificate_digest, format_time

RENEW_BEFORE: Final = timedelta(days=60)
"""So long before its end the next certificate is asked for: time for a coordinator on holiday."""

WARN_BEFORE: Final = timedelta(days=30)
"""So long before its end the operator is told that nobody has answered."""


class RenewalService(Protocol):
    """The part of the compliance service that renews certificates."""

    def site(self, name: str, *, by_token_alone: bool = False) -> SiteView:
        """How the service knows a site."""

    def request_renewal(self, name: str, request: SignedStatement) -> Recorded:
        """Ask for the next certificate."""


class Renewal:
    """Renews one site's certificate.

    Args:
        site: Whose.
        service: The compliance service.
        now: The present time.
    """

    def __init__(self, site: Site, service: RenewalService, now: Callable[[], datetime]) -> None:
        self._site = site
        self._service = service
        self._now = now

    def tend(self) -> bool:
        """Ask for the next certificate when it is time, and fetch it when it is there.

        Returns:
            Whether there is a new one, which new connections show.

        Raises:
            VerificationFailed: When what came is not this site's, or ends no later.
            FiduciaryError: When the service is away, or refuses.
        """
        present = present_certificate(self._site)
        if present is None or present.not_valid_after_utc - self._now() > RENEW_BEFORE:
            return False
        stored = self._site.paths.certificate.read_text(encoding="ascii")
        view = self._service.site(self._site.name, by_token_alone=self.ended_at() is not None)
        if view.certificate is not None and view.certificate.strip() != stored.strip():
            self._store(view.certificate, present)
            return True
        if view.renewal is None:
            self._ask(stored)
        return False

    def ended_at(self) -> datetime | None:
        """When the certificate ended; None while it lasts."""
        present = present_certificate(self._site)
        if present is None or present.not_valid_after_utc > self._now():
            return None
        return present.not_valid_after_utc

    def _ask(self, stored: str) -> None:
        site = self._site
        request = CertificateRenewal(
            federation=site.federation,
            site=site.name,
            certificate=certificate_digest(stored),
            certificate_request=certificate_request(site.name, site.paths.node_key.read_bytes()),
            requested_at=format_time(self._now()),
        )
        signed = sign_statement(request.body(), site.identity)
        self._record("site-renewal-requested", {"statement": signed.to_json()})
        self._service.request_renewal(site.name, signed)

    def _store(self, certificate: str, present: x509.Certificate) -> None:
        site = self._site
        new = check_certificate(
            certificate,
            site=site.name,
            node_key=site.paths.node_key.read_bytes(),
            ca=site.paths.ca_certificate.read_text(encoding="ascii"),
        )
        if new.not_valid_after_utc <= present.not_valid_after_utc:
            raise VerificationFailed(
                "the compliance service shows a certificate that ends no later than the site's own",
                fix="ask the coordinator what was renewed: the log has it under site.renewed",
            )
        write_durably(site.paths.certificate, certificate.encode("ascii"), mode=0o644)
        ends_at = format_time(new.not_valid_after_utc)
        self._record(
            "site-renewed", {"certificate": certificate_digest(certificate), "ends_at": ends_at}
        )

    def _record(self, action: str, payload: dict[str, object]) -> None:
        site = self._site
        site.journal.record(
            Entry(
                actor=site.principal,
                action=action,
                object=f"site:{site.name}",
                subject=None,
                payload=payload,
            )
        )


def present_certificate(site: Site) -> x509.Certificate | None:
    """The site's certificate; None before it was admitted.

    Raises:
        MalformedInput: When the file holds none.
    """
    try:
        text = site.paths.certificate.read_text(encoding="ascii")
    except FileNotFoundError:
        return None
    return read_certificate(text, "certificate")
