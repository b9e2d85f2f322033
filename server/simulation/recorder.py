"""Takes a simulated run's signed reports, and tells of each round. Nothing of it lasts."""

from __future__ import annotations

from collections.abc import Callable

from audit.keys import VerifyKey
from audit.statement import SignedStatement, verify_statement
from compliance.statements import RoundReport, RunOutcome, TrainingPlan


class SimulatedRecorder:
    """Implements `server.recording.Recorder` in memory.

    Args:
        plan: Of which run.
        coordinator: Whose reports count.
        tell: Told each round.
    """

    def __init__(
        self, plan: TrainingPlan, coordinator: VerifyKey, tell: Callable[[RoundReport], None]
    ) -> None:
        self._plan = plan
        self._coordinator = coordinator
        self._tell = tell
        self.rounds: list[RoundReport] = []
        self.outcome: RunOutcome | None = None

    def report_round(self, plan_id: str, statement: SignedStatement) -> None:
        """Take a round's report."""
        del plan_id
        report = RoundReport.from_body(verify_statement(statement, self._coordinator))
        self.rounds.append(report)
        self._tell(report)

    def report_outcome(self, plan_id: str, statement: SignedStatement) -> None:
        """Take the run's outcome."""
        del plan_id
        self.outcome = RunOutcome.from_body(verify_statement(statement, self._coordinator))
