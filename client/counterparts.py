"""The two that a worker talks to, as narrow as it needs them.

`client.flower.FleetConnection` is a `Fleet`, `compliance.api.ComplianceClient` is a `Service`.
"""

from __future__ import annotations

from typing import Any, Protocol

from client.arrays import Arrays
from client.evidence import EvidenceService
from client.fleet_tasks import IncomingTask
from client.outbox import StatementService
from client.peers import PeerService
from client.renewal import RenewalService
from client.subject_desk import PartService
from client.witnessing import WitnessService


class Fleet(Protocol):
    """The coordinator, as the worker sees it (`client.flower.FleetConnection`)."""

    def poll(self, wait_seconds: float = 1.0) -> IncomingTask | None:
        """The next task, waiting for one."""

    def reply_arrays(self, task: IncomingTask, arrays: Arrays, report: dict[str, Any]) -> bool:
        """Answer a task; False when the coordinator no longer waits for it."""

    def reply_document(self, task: IncomingTask, document: str) -> bool:
        """Answer a step of a secure sum; False when the coordinator no longer waits for it."""

    def reply_refusal(
        self, task: IncomingTask, code: str, reason: str, statement: dict[str, Any]
    ) -> bool:
        """Say no to a task."""


class Service(
    RenewalService, EvidenceService, PeerService, StatementService, WitnessService, Protocol
):
    """The compliance service, as the worker sees it (`compliance.api.ComplianceClient`)."""

    @property
    def subject_requests(self) -> PartService:
        """Requests of data subjects."""
