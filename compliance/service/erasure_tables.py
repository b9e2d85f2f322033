"""Tables of erasures that reach models.

Like those of `compliance.service.tables`, they say where things stand; the log says how they came
to be so. Subjects are pseudonyms here as there.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from compliance.service.tables import Base

_DIGEST: Final = String(71)
_NAME: Final = String(70)
_HASH: Final = String(64)
_TIME: Final = String(30)
_CASE: Final = String(32)
_POSITION: Final = BigInteger().with_variant(Integer, "sqlite")


class ErasedPlanRow(Base):
    """That a plan may have sampled an erased subject, from a round on.

    Only plans that name the site: an erasure is recorded whatever it says, and a site must not stop
    releases that it has no part in.
    """

    __tablename__ = "erased_plans"

    erasure: Mapped[str] = mapped_column(ForeignKey("statements.digest"), primary_key=True)
    plan_id: Mapped[str] = mapped_column(ForeignKey("plans.plan_id"), primary_key=True)
    site: Mapped[str] = mapped_column(_NAME)
    subject: Mapped[str] = mapped_column(_HASH)
    first_round: Mapped[int] = mapped_column(Integer)

    __table_args__ = (Index("erased_plans_by_plan", "plan_id"),)


class PlanStartRow(Base):
    """That a plan starts from another's model after some of its rounds, which it then holds."""

    __tablename__ = "plan_starts"

    plan_id: Mapped[str] = mapped_column(ForeignKey("plans.plan_id"), primary_key=True)
    starts_from: Mapped[str] = mapped_column(ForeignKey("plans.plan_id"))
    rounds: Mapped[int] = mapped_column(Integer)

    __table_args__ = (Index("plan_starts_by_start", "starts_from"),)


class ReportedModelRow(Base):
    """What the last report of a plan's round says of the model after so many rounds."""

    __tablename__ = "reported_models"

    plan_id: Mapped[str] = mapped_column(ForeignKey("plans.plan_id"), primary_key=True)
    rounds: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    model: Mapped[str] = mapped_column(_DIGEST)


class ErasureCaseRow(Base):
    """What is to become of one release.

    `position` is the entry that opened it, `debt` what that entry, or that of the last erasure that
    joined, says of the unlearning debt.
    """

    __tablename__ = "erasure_cases"

    case_id: Mapped[str] = mapped_column(_CASE, primary_key=True)
    release_id: Mapped[str] = mapped_column(ForeignKey("releases.release_id"))
    state: Mapped[str] = mapped_column(String(20), index=True)
    opened_at: Mapped[str] = mapped_column(_TIME)
    position: Mapped[int] = mapped_column(_POSITION, unique=True)
    debt: Mapped[str] = mapped_column(Text)
    decision: Mapped[str | None] = mapped_column(ForeignKey("statements.digest"))
    choice: Mapped[str | None] = mapped_column(String(20))
    retraining_plan: Mapped[str | None] = mapped_column(ForeignKey("plans.plan_id"))
    replaced_by: Mapped[str | None] = mapped_column(ForeignKey("releases.release_id"))
    closed_at: Mapped[str | None] = mapped_column(_TIME)

    __table_args__ = (Index("erasure_cases_by_release", "release_id", "position"),)


class CaseErasureRow(Base):
    """An erasure that a case is about."""

    __tablename__ = "case_erasures"

    case_id: Mapped[str] = mapped_column(ForeignKey("erasure_cases.case_id"), primary_key=True)
    erasure: Mapped[str] = mapped_column(ForeignKey("statements.digest"), primary_key=True)

    __table_args__ = (Index("case_erasures_by_erasure", "erasure"),)


class FollowUpRow(Base):
    """A follow-up of an erasure, by the position of its entry."""

    __tablename__ = "erasure_follow_ups"

    position: Mapped[int] = mapped_column(_POSITION, primary_key=True, autoincrement=False)
    statement: Mapped[str] = mapped_column(_DIGEST)
    erasure: Mapped[str] = mapped_column(ForeignKey("statements.digest"))

    __table_args__ = (Index("erasure_follow_ups_by_erasure", "erasure", "position"),)
