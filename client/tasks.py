"""What the worker does with one task of the coordinator, and how it answers.

* Only `train`, `evaluate` and the steps of a secure sum exist. A task that comes with code to run
  is refused: a site runs what its operator installed, and nothing else.
* A refusal is signed, journalled, reported and answered. What it may make this site say is bounded:
  reasons come from the guard's and the ledger's own words, and a repeated refusal is journalled
  and reported once (`client.answers`).
* An answer that does not arrive is lost, and the site goes on.
"""

from __future__ import annotations

from collections.abc import Callable

from audit.errors import FiduciaryError, MalformedInput, Unauthorised, Unreachable
from audit.storage import LogUnavailable
from client.alarms import LogAlarm
from client.answers import MAX_REASON, Answers
from client.budget import AlreadyEvaluated, NoReservation, RoundAlreadyStarted
from client.counterparts import Fleet
from client.fleet_tasks import IncomingTask
from client.kept_answers import Answer
from client.presentation import short
from client.progress import ActivityFile, Reporter
from client.refusals import Declined
from client.reveals import AlreadyRevealed
from client.rounds import PLAN_ID, Rounds, Work
from client.secure_aggregation.member import SumRefused
from client.secure_sums import SecureSums
from client.stopping import Stopped
from client.timers import WitnessTimer

APP_BUNDLE = "app-bundle"
"""Code of the refusal of a task that comes with code to run."""

_SAFE = (
    AlreadyEvaluated,
    AlreadyRevealed,
    MalformedInput,
    NoReservation,
    RoundAlreadyStarted,
    SumRefused,
    Unreachable,
)


class Tasks:
    """Does one site's tasks.

    Args:
        rounds: Trains and evaluates.
        sums: Takes the steps of secure sums.
        answers: Makes the site's statements.
        witness: Looks at the log before a round.
        reporter: Where to say what happens.
        activity: What `client status` shows.
    """

    def __init__(
        self,
        rounds: Rounds,
        sums: SecureSums,
        answers: Answers,
        *,
        witness: WitnessTimer,
        reporter: Reporter,
        activity: ActivityFile,
    ) -> None:
        self._rounds = rounds
        self._sums = sums
        self._answers = answers
        self._witness = witness
        self._reporter = reporter
        self._activity = activity

    def handle(self, fleet: Fleet, task: IncomingTask) -> bool:
        """Do one task and answer it.

        Returns:
            Whether this site said no to the task's whole plan.

        Raises:
            Stopped: When the operator wants to end; the task was refused.
            LogAlarm: When the log is not the one that this site cosigned; the task was refused.
            LogUnavailable: When the journal cannot be written; nothing was answered.
        """
        try:
            _refuse_bundle(task)
            match task.kind:
                case "train":
                    self._witness.tend(now=True)
                    self._give_work(fleet, task, self._rounds.train(task))
                case "evaluate":
                    self._give_work(fleet, task, self._rounds.evaluate(task))
                case _:
                    self._sum(fleet, task)
        except Declined as no:
            self._refuse(fleet, task, no)
            return no.whole_plan
        except Stopped:
            self._refuse(fleet, task, Declined("site-stopped", "the site's operator stopped it"))
            raise
        except LogAlarm as alarm:
            self._refuse(fleet, task, Declined(alarm.code, str(alarm)))
            raise
        except LogUnavailable:
            # Without a journal nothing may happen here, not even a refusal.
            raise
        except FiduciaryError as error:
            self._say(f"{error.code}: {error}. {error.fix}", problem=True)
            reason = str(error) if isinstance(error, _SAFE) else "its operator was told the reason"
            self._refuse(fleet, task, Declined(error.code, reason))
        except Exception as error:  # noqa: BLE001  torch raises anything; the site must go on
            # The exception's text may quote data: only its type is told.
            self._say(f"round {task.round} failed: {type(error).__name__}", problem=True)
            self._refuse(fleet, task, Declined("training-failed", type(error).__name__))
        else:
            if _ends_round(task):
                self._answers.deliver()
        return False

    def _give_work(self, fleet: Fleet, task: IncomingTask, work: Work) -> None:
        if work.plan.secure_aggregation:
            document = self._sums.begin(task, work)
            self._reply(lambda: fleet.reply_document(task, document))
        else:
            self._give(fleet, task, work.answer)

    def _sum(self, fleet: Fleet, task: IncomingTask) -> None:
        answer = self._sums.step(task)
        if isinstance(answer, str):
            document = answer
            self._reply(lambda: fleet.reply_document(task, document))
        else:
            self._give(fleet, task, answer)

    # --- answers --------------------------------------------------------------------------------

    def _refuse(self, fleet: Fleet, task: IncomingTask, no: Declined) -> None:
        about = task.plan_id if PLAN_ID.fullmatch(task.plan_id) else "unknown"
        reason = str(no)[:MAX_REASON]
        statement = self._answers.refusal(f"plan:{about}", no.code, reason).to_json()
        advice = f" ({no.fix})" if no.fix else ""
        self._say(f"refused plan {short(about)}: {no.code}: {reason}{advice}", problem=True)
        self._reporter.event(
            "task-refused", plan=about, round=task.round, activity=task.kind, code=no.code
        )
        self._reply(lambda: fleet.reply_refusal(task, no.code, reason, statement))
        self._answers.deliver()

    def _give(self, fleet: Fleet, task: IncomingTask, answer: Answer) -> None:
        self._reply(lambda: fleet.reply_arrays(task, answer.arrays, answer.report))

    def _reply(self, send: Callable[[], bool]) -> None:
        """Answer the coordinator; an answer that does not arrive is lost, and the site goes on."""
        problem = ""
        try:
            if not send():
                problem = "it came too late; the coordinator no longer waits for it"
        except (Unreachable, Unauthorised) as error:
            problem = str(error)
        if problem:
            self._activity.update(last_problem=problem[:MAX_REASON])
            self._say(f"the answer did not arrive: {problem}", problem=True)
            self._reporter.event("answer-lost")

    def _say(self, message: str, *, problem: bool = False) -> None:
        self._reporter.say(message, problem=problem)


def _ends_round(task: IncomingTask) -> bool:
    """Whether a site is asked nothing more in a round, or in its sum: it sends what it stated.

    What it stated of a training waits for that of the evaluation, or for `TEND_SECONDS`.
    """
    summed_securely = bool(task.document)
    return task.kind == "reveal" or (task.kind == "evaluate" and not summed_securely)


def _refuse_bundle(task: IncomingTask) -> None:
    if task.names_bundle:
        raise Declined(
            APP_BUNDLE,
            "the task or its run names an app bundle, and this site runs only what its operator "
            "installed",
            "ask the coordinator what it wanted to run here; `server start` names none",
        )
