"""Releases whose subjects are erased."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from audit.receipt import Receipt, VerifiedReceipt, verify_receipt
from compliance.api import ComplianceClient
from compliance.erasure_views import ErasureCaseView, ErasureRecorded
from compliance.statements import Evidence, format_time
from tests.compliance.federation import DIGEST, Consumer, Coordinator, Release, Site
from tests.compliance.running import RunningService

_NUMBERS = itertools.count(1)

FILES = {"adapter_model.safetensors": DIGEST, "evaluation.json": "sha256:" + "e" * 64}
MEASURED = Evidence(name="evaluation.json", digest=FILES["evaluation.json"])
ATTACK = Evidence(name="membership.json", digest="sha256:" + "a" * 64)


@dataclass
class Ground:
    """A service with one site, and releases on which somebody may have been trained."""

    service: RunningService
    coordinator: Coordinator
    north: Site
    folder: Path

    @property
    def officer(self) -> ComplianceClient:
        return self.service.as_("officer")

    def plan(self, **changes: Any) -> str:
        """A plan that has run."""
        name = f"triage-{next(_NUMBERS)}"
        plan_id = self.coordinator.approved_plan((self.north.name,), **{"name": name, **changes})
        self.coordinator.run(plan_id, self.north)
        return plan_id

    def candidate(self, plan_id: str, name: str | None = None, **changes: Any) -> Release:
        """An uploaded release of a plan."""
        release = self.coordinator.release(
            plan_id,
            name=name or f"model-{next(_NUMBERS)}",
            files=FILES,
            epsilon_by_site={self.north.name: "1.5"},
            **changes,
        )
        self.coordinator.api.submit_release(release.manifest, sealed_key=release.sealed_key)
        self.coordinator.api.upload_release(release.release_id, release.file(self.folder))
        return release

    def release(self, plan_id: str, name: str | None = None, **changes: Any) -> Release:
        """An approved release of a plan."""
        release = self.candidate(plan_id, name, **changes)
        self.officer.approve_release(release.release_id)
        return release

    def grant(self, release: Release, name: str = "triage-desk") -> Consumer:
        """Somebody who may download a release."""
        desk = Consumer(self.service, name)
        self.give(release, desk)
        return desk

    def give(self, release: Release, desk: Consumer) -> None:
        self.officer.grant(
            release.release_id,
            desk.name,
            public_key=desk.public_key,
            purpose="triage",
            expires_at=format_time(self.service.clock() + timedelta(days=2)),
        )

    def erase(self, *plans: str, subject: str = "cd" * 32, **changes: Any) -> ErasureRecorded:
        """A site's erasure of somebody who may have been sampled in plans."""
        self.service.clock.advance(seconds=1)
        return self.north.client(self.service).report_erasure(
            self.north.erasure(subject, plans=list(plans), **changes)
        )

    def case(self, release: Release) -> ErasureCaseView:
        """The newest case of a release."""
        return [
            view for view in self.officer.erasures.cases() if view.release_id == release.release_id
        ][-1]

    def verify(self, receipt: Receipt) -> VerifiedReceipt:
        """What an erasure's receipt says, by the two public keys alone."""
        return verify_receipt(receipt, self.service.trust.log_key, self.north.identity.public)
