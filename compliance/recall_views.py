"""Recalls and notices as callers see them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from compliance.resources import Answer, RequestBody
from compliance.statements import Digest, Time

NoticeId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]

NoticeKind = Literal["release-recalled", "subject-erased"]
"""What a holder of a release is told: it was recalled, or somebody it was trained on was erased."""


class RecallBody(RequestBody):
    """Why a release is recalled. Every holder is told; never a person's data."""

    reason: Annotated[str, Field(min_length=1, max_length=2000)]


class NoticeView(Answer):
    """One notice. `position` is its entry in the log."""

    notice_id: NoticeId
    release_id: Digest
    recipient: str
    kind: NoticeKind
    reason: str
    issued_at: Time
    position: int
    acknowledged_at: Time | None


class RecallView(Answer):
    """That a release was recalled: nobody can have it any more. `position` is its log entry."""

    reason: str
    recalled_by: str
    recalled_at: Time
    position: int
