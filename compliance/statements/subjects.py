"""What is stated about data subjects."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from compliance.statements.documents import Count, Digest, Name, Statement, Time


class ErasureReceipt(Statement):
    """A site's statement that it erased a data subject (GDPR Art. 17, 19).

    `subject` is the site's keyed pseudonym: nobody else can tell who it is, and the site can, when
    the subject comes back with a name.
    """

    kind: ClassVar[str] = "erasure"

    format: Literal["fiduciary.erasure/1"] = "fiduciary.erasure/1"
    site: Name
    subject: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    datasets: tuple[Name, ...]
    records_removed: Count
    key_destroyed: bool
    plans: tuple[Digest, ...]
    """Plans in which the subject's records may have been sampled before erasure."""
    erased_at: Time
