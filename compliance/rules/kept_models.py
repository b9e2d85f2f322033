"""Which of the models that a coordinator kept hold somebody who was erased, and may go. Pure.

* A model after r rounds holds whoever may have been sampled in one of them, or in a round of the
  plans that its own plan starts from.
* While an officer has yet to decide what becomes of a release that holds the same subject, nothing
  goes. A release that may still be made brings a case of its own, so it is waited for.
* What an unfinished plan starts from stays until that plan has ended: a retraining that is stopped
  begins again from there.
"""

from __future__ import annotations

from compliance.resources import Answer
from compliance.rules.ruling import ALLOWED, Refused, Ruling, contradiction
from compliance.statements import Count, Digest, KeptModelRemoval


class KeptModels(Answer):
    """What is known of the models that the coordinator kept of a plan, as the service answers it.

    Attributes:
        plan_id: The plan.
        holds_from: Models after more than so many rounds hold somebody who was erased; None when
            nobody was.
        undecided: Whether it is open what becomes of a release that holds them.
        needed: Rounds after which unfinished plans start.
    """

    plan_id: Digest
    holds_from: Count | None
    undecided: bool
    needed: tuple[Count, ...]

    def may_go(self, rounds: int) -> bool:
        """Whether the model after so many rounds is to be removed."""
        return (
            self.holds_from is not None
            and rounds > self.holds_from
            and not self.undecided
            and rounds not in self.needed
        )


def may_remove(removal: KeptModelRemoval, kept: KeptModels) -> Ruling:
    """Whether a coordinator may remove the models that it names."""
    if removal.plan_id != kept.plan_id:
        return contradiction("removal-mismatch", "the statement names another plan")
    staying = [str(each.rounds) for each in removal.models if not kept.may_go(each.rounds)]
    if staying:
        return Refused(
            "models-stay",
            f"models after these rounds hold nobody who was erased, or are still needed:"
            f" {', '.join(staying)}",
            "look again: what is known of the plan has changed",
            "conflict",
        )
    return ALLOWED
