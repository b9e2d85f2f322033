"""Every decision of the compliance service, as pure functions.

* Nothing here reads a clock, a database or a socket: facts come in, a `Ruling` goes out.
* A ruling is `ALLOWED` or `Refused` with a stable code, one sentence, and what to do next.
* A sentence names what is wrong with the request, never a token, a key or a subject.
* No role bypasses a two-person rule: who submitted does not decide; nobody grants to themselves.

`Refused.status` is the class of the refusal: `unauthorised` (who are you?), `forbidden` (you may
not), `refused` (nobody may), `conflict` (it was done already, or too late), `malformed` (it
contradicts itself or what it refers to).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, Literal

from compliance.resources import PlanState, ReleaseState, RequestState, Role, SiteState
from compliance.statements import (
    BaseModelReference,
    ErasureReceipt,
    ReleaseManifest,
    RoundReport,
    RunOutcome,
    SiteAdmission,
    SiteEnrolment,
    SiteReport,
    TrainingPlan,
)

Status = Literal["unauthorised", "forbidden", "refused", "conflict", "malformed"]

REPLAY_WINDOW: Final = timedelta(minutes=10)
"""How long a site may repeat its own enrolment whose answer it did not get."""

MAX_INVITATION: Final = timedelta(days=30)
"""A kit that lies about longer than this is a liability."""

MAX_GRANT: Final = timedelta(days=3 * 366)
"""A grant is a permission for a purpose, not a transfer of ownership."""

MAX_RELEASE_BYTES: Final = 256 * 1024 * 1024
"""Adapters are tens of megabytes; more than this is not an adapter."""

UNSAFE_SUFFIXES: Final = (".bin", ".ckpt", ".dill", ".joblib", ".pickle", ".pkl", ".pt", ".pth")
"""File formats that run code when loaded. Weights travel as safetensors only."""


@dataclass(frozen=True)
class Allowed:
    """Yes."""


@dataclass(frozen=True)
class Refused:
    """No, and why. `code` is stable and kebab-case; `reason` and `fix` are for people."""

    code: str
    reason: str
    fix: str = ""
    status: Status = "refused"


Ruling = Allowed | Refused

ALLOWED: Final = Allowed()


# --- who is calling ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bearer:
    """A principal, as its token identifies it."""

    name: str
    roles: frozenset[Role]
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    @property
    def site(self) -> str | None:
        """The site that the principal is, if it is one."""
        return self.name.removeprefix("site:") if "site" in self.roles else None

    def holds(self, *roles: Role) -> bool:
        """Whether the principal holds any of the roles."""
        return not self.roles.isdisjoint(roles)


_TOKEN_REFUSED: Final = "the bearer token is not valid"  # noqa: S105  a message
_TOKEN_FIX: Final = "ask a compliance officer for a new token"  # noqa: S105


NO_TOKEN: Final = Refused(
    "token-missing",
    "this needs a bearer token",
    "pass --token-file, or set FIDUCIARY_TOKEN_FILE",
    "unauthorised",
)
UNKNOWN_TOKEN: Final = Refused("token-unknown", _TOKEN_REFUSED, _TOKEN_FIX, "unauthorised")


def may_use_token(bearer: Bearer, now: datetime) -> Ruling:
    """Whether a principal's token still works.

    Unknown, expired and revoked tokens get the same sentence: the holder of a stolen token learns
    nothing. The code differs, for the log.
    """
    if bearer.revoked_at is not None:
        return Refused("token-revoked", _TOKEN_REFUSED, _TOKEN_FIX, "unauthorised")
    if bearer.expires_at is not None and now >= bearer.expires_at:
        return Refused("token-expired", _TOKEN_REFUSED, _TOKEN_FIX, "unauthorised")
    return ALLOWED


def may_call(bearer: Bearer, roles: Collection[Role]) -> Ruling:
    """Whether a principal's roles allow an operation at all."""
    if bearer.holds(*roles):
        return ALLOWED
    return Refused(
        "role-missing",
        f"this needs the role {' or '.join(sorted(roles))}",
        "use the token of a principal with that role",
        "forbidden",
    )


RESERVED_NAMES: Final = frozenset({"anonymous", "compliance"})
"""Names that the log and sealed keys use for nobody and for the service."""


def may_add_principal(
    name: str, roles: Collection[Role], expires_at: datetime | None, now: datetime
) -> Ruling:
    """Whether an officer may make this principal."""
    if name in RESERVED_NAMES:
        return Refused("name-reserved", f"the name {name} is reserved", "choose another name")
    if "site" in roles:
        return Refused(
            "role-not-assignable",
            "the role site comes from an enrolment alone",
            "invite the site: `server invite SITE`",
        )
    if expires_at is not None and expires_at <= now:
        return Refused("expiry-past", "expires_at lies in the past", status="malformed")
    return ALLOWED


def may_revoke_principal(actor: Bearer, name: str) -> Ruling:
    """Whether a principal may be ended by this officer."""
    if actor.name == name:
        return Refused(
            "own-principal",
            "nobody revokes themselves: the last officer would lock everyone out",
            "ask another officer",
        )
    return ALLOWED


# --- sites ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Invitation:
    """What the service knows of a kit."""

    site: str
    kit_sha256: str
    expires_at: datetime
    spent_at: datetime | None = None
    enrolment: str | None = None
    """Digest of the enrolment statement that spent it."""


def may_invite(expires_at: datetime, now: datetime) -> Ruling:
    """Whether an invitation's life is sensible."""
    if expires_at <= now:
        return Refused("expiry-past", "expires_at lies in the past", status="malformed")
    if expires_at - now > MAX_INVITATION:
        return Refused(
            "expiry-too-late",
            f"an invitation lives at most {MAX_INVITATION.days} days",
            "choose an earlier expiry",
            "malformed",
        )
    return ALLOWED


_NEW_KIT: Final = "ask the coordinator for a new kit: `server invite SITE`"


def may_enrol(
    invitation: Invitation | None,
    *,
    kit_sha256: str,
    enrolment: SiteEnrolment,
    enrolment_id: str,
    site_known: bool,
    now: datetime,
) -> Ruling:
    """Whether a one-time token enrols this site.

    A spent token is accepted again only with the very statement that spent it, within
    `REPLAY_WINDOW`: whoever holds that statement's signature is the site whose answer was lost.
    """
    if invitation is None:
        return Refused(
            "kit-unknown", "the kit's one-time token is not valid", _NEW_KIT, "unauthorised"
        )
    if invitation.kit_sha256 != kit_sha256:
        return Refused(
            "kit-altered",
            "the kit is not the one that the coordinator issued: its digest differs",
            "get the kit again by another way and compare its fingerprint by telephone",
        )
    if invitation.spent_at is not None:
        if invitation.enrolment == enrolment_id and now - invitation.spent_at <= REPLAY_WINDOW:
            return ALLOWED
        return Refused("kit-spent", "the kit was used already", _NEW_KIT, "conflict")
    if now >= invitation.expires_at:
        return Refused("kit-expired", "the kit has expired", _NEW_KIT)
    if enrolment.site != invitation.site:
        return Refused(
            "kit-for-another-site", "the kit was issued for another site's name", _NEW_KIT
        )
    if site_known:
        return Refused(
            "site-exists",
            "a site of this name is enrolled already",
            "invite it under a new name: a name stands for one identity key for ever",
            "conflict",
        )
    return ALLOWED


def may_admit(
    admission: SiteAdmission,
    *,
    site: str,
    federation: str,
    enrolment_id: str,
    state: SiteState,
    certificate_matches: bool,
) -> Ruling:
    """Whether the coordinator's admission fits the enrolment that it answers."""
    if state != "pending":
        return Refused("site-not-pending", f"the site is {state}, not pending", status="conflict")
    if (admission.site, admission.federation) != (site, federation):
        return _contradiction("admission-mismatch", "the admission names another site")
    if admission.enrolment != enrolment_id:
        return _contradiction("admission-mismatch", "the admission names another enrolment")
    if not certificate_matches:
        return _contradiction(
            "certificate-mismatch", "the certificate is not for the site's node key"
        )
    return ALLOWED


def may_act_as_site(state: SiteState) -> Ruling:
    """Whether a site takes part: enrolled, admitted, not revoked."""
    if state == "approved":
        return ALLOWED
    return Refused(
        "site-not-approved",
        f"the site is {state}",
        "wait until the coordinator has run `server admit SITE`",
        "forbidden",
    )


def may_speak_for(bearer: Bearer, site: str) -> Ruling:
    """Whether a statement about a site comes from that site."""
    if bearer.site == site:
        return ALLOWED
    return Refused("not-this-site", "a site speaks for itself only", status="forbidden")


# --- plans ---------------------------------------------------------------------------------------


def may_submit_plan(plan: TrainingPlan, known_sites: Collection[str]) -> Ruling:
    """Whether a plan asks only sites that take part."""
    missing = sorted(set(plan.sites) - set(known_sites))
    if missing:
        return _contradiction(
            "site-unknown",
            f"not an approved site: {', '.join(missing)}",
            "admit them first: `server admit SITE`",
        )
    return ALLOWED


def may_decide(
    officer: Bearer,
    *,
    submitted_by: str,
    author: str,
    state: PlanState | ReleaseState,
    undecided: PlanState | ReleaseState,
) -> Ruling:
    """Whether an officer may approve or reject: undecided, and not their own.

    Args:
        officer: Who decides.
        submitted_by: The principal that submitted it.
        author: The author that the document names; the same as `submitted_by` if it names none.
        state: Where it stands.
        undecided: Where it must stand.
    """
    if officer.name in (submitted_by, author):
        return Refused(
            "own-work",
            "nobody decides about what they submitted themselves",
            "ask another officer",
        )
    if state == undecided:
        return ALLOWED
    if state == "announced":
        return Refused(
            "content-missing",
            "the release's content has not been uploaded",
            "wait for the coordinator",
            "conflict",
        )
    return Refused("already-decided", f"it is {state} already", status="conflict")


def may_report_round(
    report: RoundReport, plan: TrainingPlan, plan_id: str, state: PlanState
) -> Ruling:
    """Whether a round report belongs to a running plan. A repeated round is new evidence."""
    running = _running(report.plan_id, plan_id, state)
    if isinstance(running, Refused):
        return running
    if report.round >= plan.rounds:
        return _contradiction("round-unknown", f"the plan has only {plan.rounds} rounds")
    if report.phase != plan.phase_of(report.round).kind:
        return _contradiction("phase-mismatch", "the round belongs to another phase")
    named = [*report.participants, *report.absent]
    if len(set(named)) != len(named) or set(named) != set(plan.sites):
        return _contradiction(
            "participants-mismatch", "each site of the plan must be either present or absent, once"
        )
    return ALLOWED


def may_report_site(
    report: SiteReport, plan: TrainingPlan, plan_id: str, state: PlanState
) -> Ruling:
    """Whether a site's report belongs to a running plan that asked it.

    A report of more epsilon than the plan allows is recorded: it is evidence. `may_release` refuses
    what came of it.
    """
    running = _running(report.plan_id, plan_id, state)
    if isinstance(running, Refused):
        return running
    if report.site not in plan.sites:
        return Refused("site-not-asked", "the plan does not name this site", status="forbidden")
    if report.round >= plan.rounds:
        return _contradiction("round-unknown", f"the plan has only {plan.rounds} rounds")
    if report.base_model_digest != plan.base_model.digest:
        return _contradiction("base-model-mismatch", "the site trained another base model")
    return ALLOWED


def may_close(outcome: RunOutcome, plan: TrainingPlan, plan_id: str, state: PlanState) -> Ruling:
    """Whether a run's outcome belongs to a running plan."""
    running = _running(outcome.plan_id, plan_id, state)
    if isinstance(running, Refused):
        return running
    if outcome.rounds_done > plan.rounds:
        return _contradiction("round-unknown", f"the plan has only {plan.rounds} rounds")
    if outcome.verdict == "completed" and outcome.rounds_done < plan.rounds:
        return _contradiction(
            "rounds-missing", "a run with rounds missing is failed, not completed"
        )
    return ALLOWED


def _running(named: str, plan_id: str, state: PlanState) -> Ruling:
    if named != plan_id:
        return _contradiction("plan-mismatch", "the statement is about another plan")
    if state != "approved":
        return Refused("plan-not-approved", f"the plan is {state}, not approved", status="conflict")
    return ALLOWED


# --- releases ------------------------------------------------------------------------------------


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
        return _contradiction("base-model-mismatch", _differs(manifest.base_model, plan.base_model))
    if manifest.delta != plan.privacy.delta:
        return _contradiction("delta-mismatch", "delta is not the plan's")
    if not set(manifest.epsilon_by_site) <= set(plan.sites):
        return _contradiction("site-unknown", "epsilon_by_site names a site outside the plan")
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
        return _contradiction(
            "epsilon-understated",
            f"epsilon_by_site states less than the sites reported: {sites}",
            "state for each site at least the epsilon_spent of its last report",
        )
    unsafe = sorted(name for name in manifest.files if name.lower().endswith(UNSAFE_SUFFIXES))
    if unsafe:
        return Refused(
            "unsafe-format",
            f"a file format that can run code: {', '.join(unsafe)}",
            "save the adapter as safetensors",
        )
    if not 0 < manifest.ciphertext_bytes <= MAX_RELEASE_BYTES:
        return _contradiction(
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
        return _contradiction(
            "content-size-mismatch", f"expected {expected_bytes} bytes, got {size_bytes}"
        )
    if digest != expected_digest:
        return _contradiction(
            "content-digest-mismatch", f"expected {expected_digest}, got {digest}"
        )
    return ALLOWED


def may_grant(
    officer: Bearer,
    *,
    grantee: Bearer | None,
    release: ReleaseState,
    expires_at: datetime,
    now: datetime,
) -> Ruling:
    """Whether a release may be opened to a principal."""
    if grantee is None or isinstance(may_use_token(grantee, now), Refused):
        return _contradiction(
            "grantee-unknown",
            "there is no such principal, or it has ended",
            "add it first: `compliance principals add NAME --role consumer`",
        )
    if grantee.name == officer.name:
        return Refused("own-grant", "nobody grants to themselves", "ask another officer")
    if release != "approved":
        return Refused(
            "release-not-approved",
            f"the release is {release}, not approved",
            "approve it first: `compliance approve release ID`",
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


def may_download(grant: Grant | None, release: ReleaseState, now: datetime) -> Ruling:
    """Whether a principal may have a release's content or key now."""
    if grant is None:
        return _no_grant("grant-missing", "there is no grant of this release to this principal")
    if release != "approved":
        return _no_grant("release-not-approved", f"the release is {release}, not approved")
    if grant.revoked_at is not None:
        return _no_grant("grant-revoked", "the grant was revoked")
    if now >= grant.expires_at:
        return _no_grant("grant-expired", "the grant has expired")
    return ALLOWED


def _no_grant(code: str, reason: str) -> Refused:
    return Refused(code, reason, "ask a compliance officer for a grant")


# --- data subjects -------------------------------------------------------------------------------


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
        return _contradiction(
            "key-not-destroyed", "an erasure that leaves the subject's key in place is none"
        )
    if request_site is not None and request_site != erasure.site:
        return Refused("not-this-site", "the request is another site's", status="forbidden")
    if request_state == "done":
        return Refused("request-done", "the request was answered already", status="conflict")
    return ALLOWED


# --- words ---------------------------------------------------------------------------------------


def _contradiction(code: str, reason: str, fix: str = "") -> Refused:
    return Refused(code, reason, fix, "malformed")


def _differs(got: BaseModelReference, expected: BaseModelReference) -> str:
    return f"base model: expected {expected.name} {expected.digest}, got {got.name} {got.digest}"
