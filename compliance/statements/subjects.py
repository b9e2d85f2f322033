"""What is stated about data subjects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from compliance.statements.documents import Count, Digest, Document, Name, Statement, Text, Time

Pseudonym = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A site's keyed pseudonym of a subject: nobody else can tell who it is."""

CaseId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
"""Names an erasure case: what is to become of one release."""

CaseChoice = Literal["retrain", "rely", "withdraw"]
"""What an officer decides about a release that erased subjects took part in."""


class ErasureReceipt(Statement):
    """A site's statement that it erased a data subject (GDPR Art. 17, 19).

    `subject` is the site's keyed pseudonym: nobody else can tell who it is, and the site can, when
    the subject comes back with a name.

    **What it reveals.** That this pseudonym was among the subjects of the site from whom the named
    plans drew, and from which round on: that each round of a plan drew from all subjects that the
    site had then is public, by the plan. Who was drawn in a round is told nowhere, and nobody keeps
    it: the privacy promise rests on that. A subject who was held out for evaluation is named like
    one who trained, and from the same round on, because which of the two holds is the site's
    secret.
    """

    kind: ClassVar[str] = "erasure"

    later: ClassVar[Mapping[str, int]] = {"first_rounds": 2}

    format: Literal["fiduciary.erasure/1", "fiduciary.erasure/2"] = "fiduciary.erasure/2"
    site: Name
    subject: Pseudonym
    datasets: tuple[Name, ...]
    records_removed: Count
    key_destroyed: bool
    plans: tuple[Digest, ...]
    """Plans in which the subject's records may have been sampled before erasure."""
    erased_at: Time
    first_rounds: dict[Digest, Count] = Field(default_factory=dict)
    """Of a plan, the first round that began here after records of the subject had come in; of one
    that is not named, round 0."""

    @model_validator(mode="after")
    def _rounds_of_its_plans(self) -> Self:
        if not set(self.first_rounds) <= set(self.plans):
            raise ValueError("first_rounds: names a plan that is not one of the plans")
        return self


class AffectedRelease(Document):
    """A release of a plan that may have sampled an erased subject.

    Attributes:
        release_id: The release.
        plan_id: The plan that it came from.
        state: Where it stood when this was stated.
        first_round: The plan's first round in which the subject may have been sampled.
        case: The case about it; None where nobody can get the release any more.
        choice: What was decided; None while nothing is.
        decision: The officer's signed decision.
        retraining_plan: The plan whose model takes its place, where that was decided.
    """

    release_id: Digest
    plan_id: Digest
    state: Name
    first_round: Count
    case: CaseId | None = None
    choice: CaseChoice | None = None
    decision: Digest | None = None
    retraining_plan: Digest | None = None


class ErasureFollowUp(Statement):
    """What the compliance service found of, and did about, the models of an erased subject.

    It goes to the subject with the receipt of the erasure. It tells nothing of other subjects.

    `found`: releases of the erasure's plans. `decided`: what becomes of one. `closed`: that it was
    done. `follows` is the digest of the erasure's statement, by which `audit verify-receipt` knows
    that they belong together.
    """

    kind: ClassVar[str] = "erasure-follow-up"

    format: Literal["fiduciary.erasure-follow-up/1"] = "fiduciary.erasure-follow-up/1"
    follows: Digest
    site: Name
    subject: Pseudonym
    stage: Literal["found", "decided", "closed"]
    releases: tuple[AffectedRelease, ...]
    stated_at: Time


class Evidence(Document):
    """A measurement that a decision rests on, by digest.

    `evaluation.json` and `dp_statement.json` are files of the release itself; another name is that
    of an attack's report, which whoever decides keeps.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    digest: Digest


class ErasureDecision(Statement):
    """An officer's decision about a release that erased subjects took part in.

    Signed by the compliance service. `subjects`, `epsilon` and `delta` are the unlearning debt at
    that moment (`compliance.rules.unlearning`): the largest of any site, and of all sites together.
    """

    kind: ClassVar[str] = "erasure-decision"

    format: Literal["fiduciary.erasure-decision/1"] = "fiduciary.erasure-decision/1"
    object: Annotated[str, Field(pattern=r"^release:sha256:[0-9a-f]{64}$")]
    plan_id: Digest
    case: CaseId
    choice: CaseChoice
    subjects: Annotated[int, Field(ge=1)]
    epsilon: Annotated[str, Field(max_length=40)]
    epsilon_together: Annotated[str, Field(max_length=40)]
    delta: Annotated[str, Field(max_length=60)]
    first_round: Count
    retraining_plan: Digest | None = None
    evidence: tuple[Evidence, ...] = ()
    decided_by: Annotated[str, Field(min_length=1, max_length=200)]
    decided_at: Time
    reason: Text
