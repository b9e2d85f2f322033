"""The audit that a plan can ask for: each site puts its own trainer to the test before it trains.

* The site's own engine, precision and kind of device train made-up subjects by the plan's phases
  (`client.learning.privacy_audit`). It uses no record of anybody and spends no budget.
* Once a plan and installation: the result is in the ledger, and its evidence in the journal, before
  anything is done with it. A restart does not repeat it, and a bad result stays: whoever could
  try until one passes would have no audit.
* A lower bound above what the plan promises refuses the plan. With a right trainer that happens
  with a chance of at most one in a hundred; the plan is then lost for this site, and a new one, or
  a repaired installation, is audited anew.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Final

from client.budget import Audit
from client.learning.canaries import MICRO_BATCH_RECORDS
from client.learning.passes import Settings
from client.learning.privacy_audit import DEFAULT_CANARIES, audit_mechanism
from client.learning.private_sgd import SiteTrainer
from client.ledger import Ledger
from client.presentation import short
from client.progress import Reporter
from client.refusals import Declined
from client.stopping import StopSignal
from compliance.statements import TrainingPlan

REFUSAL: Final = "privacy-audit-failed"


class PlanAudit:
    """Audits plans for one site.

    Args:
        ledger: Remembers what was found.
        settings: How the site computes.
        software: Its name and version, as reports state it.
        stop: Says when to end.
        reporter: Where to say what happens.
        canaries: How many made-up subjects.
    """

    def __init__(
        self,
        ledger: Ledger,
        settings: Settings,
        software: str,
        stop: StopSignal,
        reporter: Reporter,
        canaries: int = DEFAULT_CANARIES,
    ) -> None:
        self._ledger = ledger
        # One device: what several sum is what one does, and tests show it.
        self._settings = replace(
            settings,
            device=str(settings.first_device),
            devices=(),
            micro_batch_tokens=MICRO_BATCH_RECORDS,
        )
        kind = settings.first_device.type
        self._installation = f"{software}; {settings.engine}; {settings.precision}; {kind}"
        self._stop = stop
        self._reporter = reporter
        self._canaries = canaries

    def require(self, plan_id: str, plan: TrainingPlan) -> None:
        """Audit a plan that asks for it, unless it was; refuse it when the promise is not kept.

        Raises:
            Declined: When the lower bound contradicts the promise, now or before.
            Conflict: When another process audited it at the same moment.
            FiduciaryError: When the ledger or the journal cannot be written.
        """
        if not plan.privacy_audit:
            return
        found = self._ledger.audit_of(plan_id, self._installation) or self._audit(plan_id, plan)
        if not found.passes:
            raise Declined(
                REFUSAL,
                f"this site's own audit measured epsilon {found.epsilon} at least, and the plan "
                f"promises {plan.privacy.epsilon}",
                "stop training with this installation; `client evaluate-privacy` shows more",
                whole_plan=True,
            )

    def epsilon(self, plan_id: str) -> Decimal | None:
        """The lower bound that was found; None when the plan was not audited."""
        found = self._ledger.audit_of(plan_id, self._installation)
        return None if found is None else found.epsilon

    def _audit(self, plan_id: str, plan: TrainingPlan) -> Audit:
        label = f"auditing plan {short(plan_id)}"
        self._reporter.say(f"{label}: the plan asks for it, and it may take a minute")
        total = sum(phase.rounds for phase in plan.phases)
        with self._reporter.steps(label, total) as shown:

            def progress(done: int, total: int) -> None:
                self._stop.check()
                shown(done, total, 0)

            with self._stop.interruptible():
                result = audit_mechanism(
                    plan.phases,
                    plan.privacy,
                    engine=self._settings.engine,
                    canaries=self._canaries,
                    make_trainer=partial(SiteTrainer, settings=self._settings),
                    progress=progress,
                )
        found = Audit(result.lower_bound, result.passes)
        self._ledger.remember_audit(plan_id, self._installation, found, result.to_json())
        verdict = "allowed" if found.passes else "broken"
        self._reporter.say(
            f"{label}: epsilon is at least {found.epsilon}, {plan.privacy.epsilon} promised: "
            f"{verdict}",
            problem=not found.passes,
        )
        return found
