"""Releases and grants, for both ends of the wire."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from compliance.recall_views import RecallView
from compliance.resources import Answer, Recorded, RequestBody
from compliance.statements import Digest, Name, ReleaseManifest, Time
from compliance.wire import Envelope, Octets, PrincipalName, PublicKey, ReleaseState, SealedOctets


class ReleaseBody(RequestBody):
    """A release and its data key, sealed to the service's release key."""

    statement: Envelope
    sealed_key: SealedOctets


class GrantBody(RequestBody):
    """Who may download a release, for what, until when, and how often."""

    principal: PrincipalName
    public_key: PublicKey
    purpose: Name
    expires_at: Time
    max_downloads: Annotated[int, Field(ge=1, le=100_000)] | None = None


class SubmittedRelease(Recorded):
    """A release was recorded."""

    release_id: Digest


class GrantView(Answer):
    """One principal's permission to download one release.

    `downloads` counts every download that was begun under this grant or an earlier one;
    `downloads_left` is None where the grant does not limit them.
    """

    release_id: Digest
    principal: str
    public_key: PublicKey
    purpose: Name
    granted_by: str
    granted_at: Time
    expires_at: Time
    revoked_at: Time | None
    downloads: int
    max_downloads: int | None = None
    downloads_left: int | None = None


class ReleaseView(Answer):
    """One release and what became of it. `grants` holds what the caller may know of them."""

    release_id: Digest
    state: ReleaseState
    statement: Envelope
    plan_id: Digest
    submitted_by: str
    submitted_at: Time
    submitted_position: int
    approval: Envelope | None
    rejection: Envelope | None
    approved_position: int | None
    grants: tuple[GrantView, ...]
    recall: RecallView | None = None

    @property
    def manifest(self) -> ReleaseManifest:
        """The manifest itself. Its signature is the caller's to verify."""
        return ReleaseManifest.from_body(self.statement.body)


class SealedKey(Answer):
    """A release's data key, sealed to the grantee (`compliance.sealing.open_data_key`)."""

    release_id: Digest
    principal: str
    sealed_key: Octets
