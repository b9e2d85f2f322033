"""What counts as an erasure."""

from __future__ import annotations

from compliance.rules.ruling import ALLOWED, Ruling, contradiction
from compliance.statements import ErasureReceipt


def may_record_erasure(erasure: ErasureReceipt) -> Ruling:
    """Whether what a site states is an erasure."""
    if not erasure.key_destroyed:
        return contradiction(
            "key-not-destroyed", "an erasure that leaves the subject's key in place is none"
        )
    return ALLOWED
