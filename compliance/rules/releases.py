"""What may be released, granted and downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from compliance.rules.access import Bearer, may_use_token
from compliance.rules.recalls import Recall
from compliance.rules.ruling import ALLOWED, Refused, Ruling, contradiction
from compliance.statements import BaseModelReference, ReleaseManifest, TrainingPlan
from compliance.wire import PlanState, ReleaseState

MAX_GRANT: Final = timedelta(days=3 * 366)
"""A grant is a permission for a purpose, not a transfer of ownership."""

MAX_RELEASE_BYTES: Final = 256 * 1024 * 1024
"""Adapters are tens of megabytes; more than this is not an adapter."""

UNSAFE_SUFFIXES: Final = (".bin", ".ckpt", ".dill", ".joblib", ".pickle", ".pkl", ".pt", ".pth")
"""File formats that run code when loaded. Weights travel as safetensors only."""


def may_release(
    manifest: ReleaseManifest,
    plan: TrainingPlan,
    state: PlanState,
    reported: Mapping[str, Decimal],
) -> Ruling:
    """Whether a release keeps what its plan promised and states what the sites reported.

    Args:
        manifest: What the coordinator wants to release.
        plan: The plan that it came from.
        state: Where that plan stands.
        reported: The largest epsilon that each site itself reported for the plan.
    """
    if state != "completed":
        return Refused(
            "plan-not-completed",
            f"the plan is {state}: only a completed run makes a release",
            status="conflict",
        )
    if manifest.base_model != plan.base_model:
        return contradiction("base-model-mismatch", _differs(manifest.base_model, plan.base_model))
    if manifest.delta != plan.privacy.delta:
        return contradiction("delta-mismatch", "delta is not the plan's")
    if not set(manifest.epsilon_by_site) <= set(plan.sites):
        return contradiction("site-unknown", "epsilon_by_site names a site outside the plan")
    over = sorted(
        site for site, spent in manifest.epsilon_by_site.items() if spent > plan.privacy.epsilon
    )
    if over:
        return Refused(
            "epsilon-exceeded",
            f"more than the plan's epsilon {plan.privacy.epsilon} was spent at {', '.join(over)}",
            "this model cannot be released under this plan",
        )
    stated = manifest.epsilon_by_site
    low = sorted(site for site, spent in reported.items() if stated.get(site, Decimal(-1)) < spent)
    if low or not stated:
        sites = ", ".join(low) or "no site is named"
        return contradiction(
            "epsilon-understated",
            f"epsilon_by_site states less than the sites reported: {sites}",
            "state for each site at least the epsilon_spent of its last report",
        )
    whole = manifest.epsilon_with_start
    if (plan.starts_from is None) != (not whole):
        return contradiction(
            "epsilon-understated",
            "epsilon_with_start goes with a plan that starts from another's rounds",
            "state what those rounds and the plan's own tell together",
        )
    low = sorted(site for site in stated if whole and whole.get(site, Decimal(-1)) < stated[site])
    if low:
        return contradiction(
            "epsilon-understated",
            f"epsilon_with_start states less than the plan's own rounds: {', '.join(low)}",
        )
    unsafe = sorted(name for name in manifest.files if name.lower().endswith(UNSAFE_SUFFIXES))
    if unsafe:
        return Refused(
            "unsafe-format",
            f"a file format that can run code: {', '.join(unsafe)}",
            "save the adapter as safetensors",
        )
    if not 0 < manifest.ciphertext_bytes <= MAX_RELEASE_BYTES:
        return contradiction(
            "size-out-of-range", f"ciphertext_bytes must be 1 to {MAX_RELEASE_BYTES}"
        )
    return ALLOWED


def may_upload(state: ReleaseState, *, submitted_by: str, uploader: Bearer) -> Ruling:
    """Whether a release's content may be uploaded now."""
    if uploader.name != submitted_by:
        return Refused(
            "not-the-submitter", "another principal submitted this release", status="forbidden"
        )
    if state == "announced":
        return ALLOWED
    return Refused("content-exists", "the content was uploaded already", status="conflict")


def content_matches(
    *, size_bytes: int, digest: str, expected_bytes: int, expected_digest: str
) -> Ruling:
    """Whether uploaded octets are those that the manifest names."""
    if size_bytes != expected_bytes:
        return contradiction(
            "content-size-mismatch", f"expected {expected_bytes} bytes, got {size_bytes}"
        )
    if digest != expected_digest:
        return contradiction("content-digest-mismatch", f"expected {expected_digest}, got {digest}")
    return ALLOWED


def may_grant(
    officer: Bearer,
    *,
    grantee: Bearer | None,
    purpose: str,
    purpose_of_plan: str,
    release: ReleaseState,
    evidence_ended: bool,
    expires_at: datetime,
    now: datetime,
    recall: Recall | None = None,
) -> Ruling:
    """Whether a release may be opened to a principal.

    Args:
        officer: Who grants.
        grantee: To whom; None when there is no such principal.
        purpose: What for.
        purpose_of_plan: What the release was trained for.
        release: Where the release stands.
        evidence_ended: Whether retention has ended what the log says of its making: nobody could
            be told any more what this model is.
        expires_at: When the grant is to end.
        now: The present time.
        recall: That the release was recalled, if it was.
    """
    if grantee is None or isinstance(may_use_token(grantee, now), Refused):
        return contradiction(
            "grantee-unknown",
            "there is no such principal, or it has ended",
            "add it first: `compliance principals add NAME --role consumer`",
        )
    if grantee.name == officer.name:
        return Refused("own-grant", "nobody grants to themselves", "ask another officer")
    if recall is not None:
        return recall.refusal()
    if release != "approved":
        return Refused(
            "release-not-approved",
            f"the release is {release}, not approved",
            "approve it first: `compliance approve release ID`",
            "conflict",
        )
    if purpose != purpose_of_plan:
        return Refused(
            "purpose-differs",
            f"the release was trained for {purpose_of_plan}, not for {purpose}",
            f"grant it for {purpose_of_plan}; another purpose needs a plan of its own",
        )
    if evidence_ended:
        return Refused(
            "evidence-ended",
            "retention has ended what the log says of how this release was made",
            "train and release the model anew",
            "conflict",
        )
    if expires_at <= now:
        return Refused("expiry-past", "expires_at lies in the past", status="malformed")
    if expires_at - now > MAX_GRANT:
        return Refused(
            "expiry-too-late",
            f"a grant lives at most {MAX_GRANT.days} days",
            "choose an earlier expiry",
            "malformed",
        )
    return ALLOWED


@dataclass(frozen=True)
class Grant:
    """The part of a grant that decides about a download."""

    expires_at: datetime
    revoked_at: datetime | None = None
    downloads_left: int | None = None


def may_download(
    grant: Grant | None, release: ReleaseState, now: datetime, recall: Recall | None = None
) -> Ruling:
    """Whether a principal may have a release's content or key now.

    Whoever never had a grant does not learn that the release was recalled.
    """
    if grant is None:
        return _no_grant("grant-missing", "there is no grant of this release to this principal")
    if recall is not None:
        return recall.refusal()
    if release != "approved":
        return _no_grant("release-not-approved", f"the release is {release}, not approved")
    if grant.revoked_at is not None:
        return _no_grant("grant-revoked", "the grant was revoked")
    if now >= grant.expires_at:
        return _no_grant("grant-expired", "the grant has expired")
    if grant.downloads_left == 0:
        return _no_grant("downloads-used", "the grant's downloads are used up")
    return ALLOWED


def _no_grant(code: str, reason: str) -> Refused:
    return Refused(code, reason, "ask a compliance officer for a grant")


def _differs(got: BaseModelReference, expected: BaseModelReference) -> str:
    return f"base model: expected {expected.name} {expected.digest}, got {got.name} {got.digest}"
