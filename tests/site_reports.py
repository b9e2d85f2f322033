"""Reports of sites, for tests that look at what becomes of them and not at what they say."""

from __future__ import annotations

from typing import Any

from compliance.statements import SiteReport, utc_now

DIGEST = f"sha256:{'0' * 64}"


def site_report(plan_id: str, site: str, **changes: Any) -> SiteReport:
    """A report of one step of training in the first round."""
    fields: dict[str, Any] = {
        "round": 0,
        "activity": "train",
        "steps": 1,
        "epsilon_spent": "1",
        "update_digest": DIGEST,
        "dataset_digest": DIGEST,
        "base_model_digest": DIGEST,
        "deidentification_digest": DIGEST,
        "software": "test",
        "reported_at": utc_now(),
    }
    return SiteReport.model_validate({**fields, "plan_id": plan_id, "site": site, **changes})
