"""Calls about reports; `ComplianceClient.reports` makes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from pydantic import ValidationError

from audit.canonical import digest
from audit.errors import MalformedInput, VerificationFailed
from audit.leaf import Leaf
from audit.proof import Proof, verify_proof
from compliance.log_access import fetch_page
from compliance.log_views import LogEntryView, LogProof, LogQuery
from compliance.report_views import (
    MadeReport,
    ReportDocument,
    ReportFormat,
    ReportKind,
    report_object,
)
from compliance.session import ComplianceSession, path_segment
from compliance.statements import first_problem
from compliance.trust import Trust

POSITION_HEADER: Final = "fiduciary-position"
"""Where the log says that the report was made."""

MADE: Final = "report.made"


class ReportCalls:
    """Reports for a regulator."""

    def __init__(self, session: ComplianceSession, trust: Trust) -> None:
        self._session = session
        self._trust = trust

    def list(self) -> tuple[ReportKind, ...]:
        """The reports that can be made (officer, auditor)."""
        return self._session.fetch_list("/v1/reports", "reports", ReportKind)

    def make(self, name: str, format: ReportFormat = "html") -> MadeReport:  # noqa: A002
        """Make a report as it stands now; the log records the digest of the file.

        Raises:
            NotFound: When there is no report of that name.
            MalformedInput: When the answer does not say where the log has it.
        """
        path = f"/v1/reports/{path_segment(name)}"
        response = self._session.request("GET", path, params={"format": format})
        position = response.headers.get(POSITION_HEADER, "")
        if not (position.isascii() and position.isdigit()):
            raise MalformedInput("the compliance service does not say where the log has the report")
        content = response.content
        return MadeReport(
            name=name, content=content, digest=digest(content), position=int(position)
        )

    def document(self, name: str) -> ReportDocument:
        """Make a report and read it."""
        return read_document(self.make(name, "json").content)

    def proof(self, made: MadeReport) -> str:
        """The tlog-proof that the log says that just this file was made, verified.

        Raises:
            VerificationFailed: When the log says something else.
        """
        answer = self._session.fetch(f"/v1/log/proofs/{made.position}", LogProof)
        proof = replace(Proof.parse(answer.proof), extra=answer.leaf)
        verify_proof(proof, self._trust.log_key, origin=self._trust.origin)
        leaf = Leaf.parse(answer.leaf)
        if (leaf.action, leaf.object) != (MADE, report_object(made.digest)):
            raise VerificationFailed(
                f"entry {made.position} says {leaf.action} of {leaf.object}, not that this file was"
                " made"
            )
        return proof.encoded()

    def find(self, content: bytes, name: str | None = None) -> LogEntryView:
        """The entry that says that a file was made by this service.

        Args:
            content: The file, byte for byte.
            name: The report that it should be.

        Raises:
            VerificationFailed: When no entry does, or it is another report.
        """
        query = LogQuery(object=report_object(digest(content)), action=MADE, limit=1)
        entries = fetch_page(self._session, self._trust, query).entries
        if not entries:
            raise VerificationFailed(
                "the log does not know this file: this service did not make it, or it was changed",
                fix="make it again: `compliance report NAME -o FILE`",
            )
        entry = entries[0]
        said = None if entry.payload is None else entry.payload.get("report")
        if name is not None and said is not None and said != name:
            raise VerificationFailed(f"the file is the report {said}, not {name}")
        return entry


def read_document(content: bytes) -> ReportDocument:
    """Read a report in JSON.

    Raises:
        MalformedInput: When it is something else.
    """
    try:
        return ReportDocument.model_validate_json(content)
    except ValidationError as error:
        raise MalformedInput(f"malformed report: {first_problem(error)}") from error
