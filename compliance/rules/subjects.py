"""What counts as an erasure."""

from __future__ import annotations

from compliance.resources import RequestState
from compliance.rules.ruling import ALLOWED, Refused, Ruling, contradiction
from compliance.statements import ErasureReceipt


def may_record_erasure(
    erasure: ErasureReceipt, *, request_site: str | None, request_state: RequestState | None
) -> Ruling:
    """Whether an erasure answers the request that it is said to answer.

    Args:
        erasure: What the site states.
        request_site: Site of the named request; None when no request is named.
        request_state: State of that request.
    """
    if not erasure.key_destroyed:
        return contradiction(
            "key-not-destroyed", "an erasure that leaves the subject's key in place is none"
        )
    if request_site is not None and request_site != erasure.site:
        return Refused("not-this-site", "the request is another site's", status="forbidden")
    if request_state == "done":
        return Refused("request-done", "the request was answered already", status="conflict")
    return ALLOWED
