"""Kept models that hold somebody who was erased go, once it is decided what becomes of releases.

* The compliance service knows which they are (`compliance.rules.kept_models`).
* The removal is signed and recorded first: no entry, no removal. After a crash in between, what is
  left is stated and removed at the next look.
* A model's key is destroyed before its file (`server.checkpoints`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from audit.errors import NotFound
from audit.keys import SigningKey
from audit.statement import SignedStatement, sign_statement
from compliance.resources import Recorded
from compliance.rules.kept_models import KeptModels
from compliance.statements import KeptModelRemoval, RemovedModel
from server.checkpoints import Checkpoints, KeptModel


class RemovalService(Protocol):
    """The part of `compliance.erasure_api.ErasureCalls` that is about kept models."""

    def kept_models(self, plan_id: str) -> KeptModels:
        """What is known of a plan's models."""

    def report_removal(self, plan_id: str, removal: SignedStatement) -> Recorded:
        """Record a KeptModelRemoval."""


def remove_erased(
    checkpoints: Checkpoints, service: RemovalService, identity: SigningKey, now: datetime
) -> int:
    """Remove what holds somebody who was erased and is not needed any more; how many.

    Args:
        checkpoints: The kept models.
        service: The compliance service's part.
        identity: The coordinator's key.
        now: The present time.

    Raises:
        FiduciaryError: When a removal is not recorded; its models are there as before.
    """
    by_plan: dict[str, list[KeptModel]] = {}
    for model in checkpoints.kept(now):
        by_plan.setdefault(model.plan_id, []).append(model)
    removed = 0
    for plan_id, models in by_plan.items():
        try:
            known = service.kept_models(plan_id)
        except NotFound:
            continue  # a service of an earlier version, or one that does not know the plan
        going = [model for model in models if known.may_go(model.rounds)]
        if not going:
            continue
        removal = KeptModelRemoval(
            plan_id=plan_id,
            models=tuple(RemovedModel(rounds=each.rounds, model=each.model) for each in going),
        )
        service.report_removal(plan_id, sign_statement(removal.body(), identity))
        removed += checkpoints.remove_these(going)
    return removed
