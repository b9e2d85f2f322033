"""Keeps the SuperLink's list of sites in step with who is admitted, in a thread of its own.

* A site is let in with the keys that this coordinator certified (`server.sites.AdmissionRecord`),
  not with those that the compliance service happens to name.
* A revoked site is let out at the next look, within `poll_seconds`, also during a round.
* A site that asks for its next certificate gets it, for the same key: `server.sites.renew`.
* While the compliance service is away nobody new is let in, and nobody is let out; runs do not
  begin then either (`server.coordinator`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime

from audit.errors import FiduciaryError, Unreachable
from audit.keys import VerifyKey
from audit.log import utc_clock
from compliance.api import ComplianceClient
from server.federation import Federation
from server.progress import Reporter
from server.sites import AdmissionRecord, admitted, renew
from server.superlink import SuperLink

MAX_BACKOFF_SECONDS = 15.0


class Registrar:
    """Follows admissions and revocations.

    Args:
        federation: The federation.
        link: Where keys are let in and out.
        reporter: Told of each change.
        stop: Ends the thread.
        now: The present time.
    """

    def __init__(
        self,
        federation: Federation,
        link: SuperLink,
        reporter: Reporter,
        stop: threading.Event,
        now: Callable[[], datetime] = utc_clock,
    ) -> None:
        self._federation = federation
        self._link = link
        self._reporter = reporter
        self._stop = stop
        self._now = now
        self._sites: dict[str, AdmissionRecord] = {}
        self._trouble: dict[str, str] = {}
        self._thread = threading.Thread(target=self._run, name="registrar", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait for the thread to end."""
        self._thread.join(seconds)

    def identity_of(self, site: str) -> VerifyKey | None:
        """The key that signs a site's reports; None for a site that is not admitted."""
        record = self._sites.get(site)
        return None if record is None else record.identity

    @property
    def trouble(self) -> list[str]:
        """What is wrong at present, one sentence each."""
        return list(self._trouble.values())

    def look(self, compliance: ComplianceClient) -> None:
        """Compare once with the compliance service, and let sites in and out.

        Raises:
            FiduciaryError: When the service cannot be asked.
        """
        present: dict[str, AdmissionRecord] = {}
        trouble: dict[str, str] = {}
        for view in compliance.sites():
            if view.state != "approved":
                continue
            try:
                record = admitted(self._federation, view)
            except FiduciaryError as error:
                trouble[view.name] = str(error)
                continue
            if record is None:
                trouble[view.name] = f"{view.name} is approved but was not admitted here"
                continue
            if view.renewal is not None:
                try:
                    record = renew(self._federation, compliance, view, record, self._now())
                    self._reporter.note(f"the certificate of site {view.name} was renewed")
                    self._reporter.event("site-certificate-renewed", site=view.name)
                except Unreachable:
                    raise
                except FiduciaryError as error:  # the present certificate works on
                    trouble[view.name] = f"{view.name} gets no new certificate: {error}"
            present[view.name] = record
        for site in self._link.registered() - set(present):
            self._link.unregister(site)
            self._reporter.note(f"site {site} was let out: {trouble.get(site, 'it was revoked')}")
            self._reporter.event("site-let-out", site=site)
        for site, record in present.items():
            if site not in self._link.registered():
                self._reporter.note(f"site {site} is admitted")
                self._reporter.event("site-let-in", site=site)
            self._link.register(site, record.node_key)
        for site in set(trouble) - set(self._trouble):
            self._reporter.note(trouble[site])
        self._sites, self._trouble = present, trouble

    def _run(self) -> None:
        backoff_seconds = poll_seconds = self._federation.settings.poll_seconds
        with self._federation.compliance() as compliance:
            # The first look is at once: until then sites that dial again are told that they are
            # strangers, and wait for as long as their own patience with an outage has become.
            while not self._stop.is_set():
                try:
                    self.look(compliance)
                    backoff_seconds = poll_seconds
                except Unreachable:
                    backoff_seconds = min(2 * backoff_seconds, MAX_BACKOFF_SECONDS)
                except FiduciaryError as error:
                    self._trouble["compliance"] = str(error)
                    backoff_seconds = min(2 * backoff_seconds, MAX_BACKOFF_SECONDS)
                self._stop.wait(backoff_seconds)
