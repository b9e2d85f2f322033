"""Calls about the audit log and its witnesses; `ComplianceClient` makes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from compliance.log_access import Progress, VerifiedPage, fetch_page, fetch_pages, save_export
from compliance.log_views import (
    CosignatureBody,
    LogConsistency,
    LogEntryView,
    LogExport,
    LogHead,
    LogProof,
    LogQuery,
    Order,
    WitnessView,
)
from compliance.session import (
    SessionCalls,
    make_body,
)


class LogCalls(SessionCalls):
    """The audit log."""

    def checkpoint(self) -> str:
        """The newest signed checkpoint with its cosignatures, C2SP tlog-checkpoint text."""
        return self._session.fetch("/v1/log/checkpoint", LogHead).checkpoint

    def log_head(self, since: int) -> LogHead:
        """The newest signed checkpoint, and the proof that it extends the tree of size `since`."""
        return self._session.fetch("/v1/log/checkpoint", LogHead, since=since)

    def log_entries(
        self, *, order: Order = "newest", limit: int = 100, **filters: str | int | None
    ) -> tuple[LogEntryView, ...]:
        """Entries that meet all filters, decrypted and verified (officer, auditor).

        Args:
            order: Newest or oldest first.
            limit: At most so many.
            filters: Conditions by the names of `compliance.log_views.LogFilter`.
        """
        query = make_body(LogQuery, order=order, limit=limit, **filters)
        return fetch_page(self._session, self.trust, query).entries

    def log_pages(self, query: LogQuery) -> Iterator[VerifiedPage]:
        """Every page of an answer, each verified and of the same log (officer, auditor).

        Raises:
            VerificationFailed: When the service shows what the log does not hold.
        """
        return fetch_pages(self._session, self.trust, query)

    def export_log(
        self, wanted: LogExport, destination: Path, progress: Progress | None = None
    ) -> int:
        """Write all entries that meet the filters to a file, whole or not at all.

        A JSON Lines file is verified before it appears; a CSV file carries no proofs.

        Returns:
            The number of entries.

        Raises:
            VerificationFailed: When the service sends what the log does not hold.
        """
        return save_export(self._session, self.trust, wanted, destination, progress)

    def log_proof(self, position: int) -> LogProof:
        """A leaf with its inclusion proof and checkpoint."""
        return self._session.fetch(f"/v1/log/proofs/{position}", LogProof)

    def log_consistency(self, first: int, second: int) -> LogConsistency:
        """Proof that the tree of size `second` extends the tree of size `first`."""
        return self._session.fetch(
            "/v1/log/consistency", LogConsistency, first=first, second=second
        )

    def cosign(self, note: str) -> WitnessView:
        """Hand in a head of the log that this site cosigned (the site itself).

        Args:
            note: The checkpoint with the log's line and the site's (`audit.cosignature`).
        """
        body = make_body(CosignatureBody, note=note)
        return self._session.send(
            "POST", "/v1/log/cosignatures", body, WitnessView, names_itself=True
        )

    def witnesses(self) -> tuple[WitnessView, ...]:
        """Every site that ever cosigned, with its newest cosignature."""
        return self._session.fetch_list("/v1/log/witnesses", "witnesses", WitnessView)
