"""The site's connections, made from what its kit and its folder say. Sites dial out only."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import httpx

from audit.errors import MalformedInput, NotFound, Unauthorised, Unreachable
from client.site import Site
from compliance.api import ComplianceClient
from compliance.resources import SiteView
from compliance.trust import Trust

if TYPE_CHECKING:
    from client.flower import FleetConnection

PROBE_TIMEOUT_SECONDS = 10.0


def connect_service(trust: Trust, token: str | None) -> ComplianceClient:
    """A conversation with the compliance service of a trust file."""
    return ComplianceClient(trust, token)


def open_service(site: Site) -> ComplianceClient:
    """This site's own conversation with its compliance service, by its certificate once it has one.

    Raises:
        NotFound: When the site has not enrolled.
        MalformedInput: When certificate and key do not belong together.
    """
    paths = site.paths
    certificate = (paths.certificate, paths.node_key) if paths.certificate.exists() else None
    return ComplianceClient(site.trust, site.token, certificate=certificate)


def fleet_connector(
    site: Site,
) -> Callable[[Callable[[str, str], None]], AbstractContextManager[FleetConnection]]:
    """Opens connections to the coordinator, for the worker.

    Raises:
        NotFound: When the site was not admitted yet.
    """
    paths, address = site.paths, site.kit.fleet_address
    if not paths.certificate.exists():
        raise NotFound(
            f"site {site.name} has no certificate yet",
            fix="run `client join KIT` again once the coordinator has admitted the site",
        )
    from client.flower import FleetConnection  # slow to import, and needed here only

    def connect(on_malformed: Callable[[str, str], None]) -> FleetConnection:
        return FleetConnection(
            address,
            paths.ca_certificate,
            paths.certificate,
            paths.node_key,
            on_malformed=on_malformed,
        )

    return connect


class NetworkProbe:
    """`client.preflight.Probe` over the real network.

    Args:
        site: Whose connections are tried.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._view: SiteView | None = None

    def service_time(self) -> datetime:
        """The compliance service's clock, from its `Date` header (RFC 9110 section 6.6.1).

        Raises:
            Unreachable: When it does not answer.
            MalformedInput: When it tells no time.
        """
        trust = self._site.trust
        try:
            response = httpx.get(
                f"{trust.url}/health",
                verify=trust.ssl_context(),
                timeout=PROBE_TIMEOUT_SECONDS,
                trust_env=False,
            )
        except httpx.HTTPError as error:
            raise Unreachable(
                f"the compliance service at {trust.url} did not answer: {error}",
                fix="check the address and the network",
            ) from error
        try:
            told = parsedate_to_datetime(response.headers["date"])
        except (KeyError, ValueError) as error:
            raise MalformedInput(
                "the compliance service tells no time", fix="ask its operator to update it"
            ) from error
        return told.astimezone(UTC)

    def site_view(self) -> SiteView:
        """How the compliance service knows this site."""
        if self._view is None:
            with open_service(self._site) as service:
                self._view = service.site(self._site.name)
        return self._view

    def reach_coordinator(self) -> None:
        """A TLS 1.3 connection to the coordinator's partner port, both sides authenticated.

        Raises:
            Unreachable: When it does not answer.
            Unauthorised: When it is not this federation's coordinator.
        """
        address = self._site.kit.fleet_address
        try:
            httpx.get(
                f"https://{address}/health",
                verify=_mutual_tls(self._site),
                timeout=PROBE_TIMEOUT_SECONDS,
                trust_env=False,
            )
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            if "CERTIFICATE_VERIFY_FAILED" in reason:
                raise Unauthorised(
                    f"the server at {address} holds no certificate of this federation",
                    fix="compare the kit's fingerprint with the coordinator by telephone",
                ) from error
            raise Unreachable(
                f"the coordinator at {address} did not answer: {reason}",
                fix="ask the coordinator whether `server start` runs; check the network",
            ) from error


def _mutual_tls(site: Site) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cafile=site.paths.ca_certificate)
        if site.paths.certificate.exists():
            context.load_cert_chain(site.paths.certificate, site.paths.node_key)
    except (OSError, ssl.SSLError) as error:
        raise MalformedInput(
            f"this site's certificates cannot be used: {error}",
            fix="see the checks of certificate and keys below",
        ) from error
    return context
