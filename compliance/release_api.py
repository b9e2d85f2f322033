"""Calls about releases and grants; `ComplianceClient` makes them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx

from audit.statement import SignedStatement
from compliance.gate_views import GatesView
from compliance.release_views import (
    GrantBody,
    GrantView,
    ReleaseBody,
    ReleaseView,
    SealedKey,
    SubmittedRelease,
)
from compliance.session import (
    SessionCalls,
    make_body,
    parse_answer,
    path_segment,
)

CHUNK_BYTES: Final = 1 << 20


class ReleaseCalls(SessionCalls):
    """Releases and grants."""

    def submit_release(self, manifest: SignedStatement, *, sealed_key: bytes) -> SubmittedRelease:
        """Announce a release (coordinator).

        Args:
            manifest: The signed ReleaseManifest; its digest is the release's id.
            sealed_key: The data key, by `compliance.sealing.seal_data_key` to
                `trust.release_key` with recipient `compliance.sealing.SERVICE`.
        """
        body = make_body(ReleaseBody, statement=manifest, sealed_key=sealed_key)
        return self._session.send("POST", "/v1/releases", body, SubmittedRelease)

    def upload_release(self, release_id: str, ciphertext: Path) -> ReleaseView:
        """Upload a release's ciphertext, streamed from disk (coordinator)."""
        size_bytes = ciphertext.stat().st_size
        response = self._session.request(
            "PUT",
            f"/v1/releases/{path_segment(release_id)}/content",
            content=_chunks(ciphertext),
            headers={
                "content-type": "application/octet-stream",
                "content-length": str(size_bytes),
            },
        )
        return parse_answer(ReleaseView, response)

    def releases(self) -> tuple[ReleaseView, ...]:
        """All releases that the caller may see; a consumer sees those granted to it."""
        return self._session.fetch_list("/v1/releases", "releases", ReleaseView)

    def release(self, release_id: str) -> ReleaseView:
        """One release."""
        return self._session.fetch(f"/v1/releases/{path_segment(release_id)}", ReleaseView)

    def gates(self, release_id: str) -> GatesView:
        """What a release must keep before it can be approved, as it is judged now."""
        return self._session.fetch(f"/v1/releases/{path_segment(release_id)}/gates", GatesView)

    def approve_release(self, release_id: str, *, reason: str = "") -> ReleaseView:
        """Approve a release that somebody else submitted (officer)."""
        return self._decide(
            f"/v1/releases/{path_segment(release_id)}/approval", reason, ReleaseView
        )

    def reject_release(self, release_id: str, *, reason: str = "") -> ReleaseView:
        """Reject a release (officer)."""
        return self._decide(
            f"/v1/releases/{path_segment(release_id)}/rejection", reason, ReleaseView
        )

    def grant(
        self,
        release_id: str,
        principal: str,
        *,
        public_key: bytes,
        purpose: str,
        expires_at: str,
        max_downloads: int | None = None,
    ) -> GrantView:
        """Let a principal download an approved release (officer, not for themselves).

        Args:
            release_id: The release.
            principal: Who may download.
            public_key: Their X25519 key, to which the data key is sealed.
            purpose: What for.
            expires_at: Until when.
            max_downloads: How often; without a limit when None.
        """
        body = make_body(
            GrantBody,
            principal=principal,
            public_key=public_key,
            purpose=purpose,
            expires_at=expires_at,
            max_downloads=max_downloads,
        )
        return self._session.send(
            "POST", f"/v1/releases/{path_segment(release_id)}/grants", body, GrantView
        )

    def revoke_grant(self, release_id: str, principal: str) -> GrantView:
        """Take a grant back (officer)."""
        path = f"/v1/releases/{path_segment(release_id)}/grants/{path_segment(principal)}"
        return parse_answer(GrantView, self._session.request("DELETE", path))

    def release_key(self, release_id: str) -> SealedKey:
        """The data key, sealed to the caller's public key (a live grant is needed)."""
        return self._session.fetch(f"/v1/releases/{path_segment(release_id)}/key", SealedKey)

    def download_release(self, release_id: str, destination: Path) -> str:
        """Download a release's ciphertext to a file (a live grant is needed).

        The file appears complete or not at all.

        Returns:
            Digest of what was written, for comparison with the manifest's `ciphertext_digest`.
        """
        handle, name = tempfile.mkstemp(dir=destination.parent, prefix=f".{destination.name}.")
        partial = Path(name)
        digest = hashlib.sha256()
        try:
            with (
                os.fdopen(handle, "wb") as file,
                self._session.stream(
                    f"/v1/releases/{path_segment(release_id)}/content"
                ) as response,
            ):
                for chunk in response.iter_bytes(CHUNK_BYTES):
                    digest.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(destination)
        except httpx.HTTPError as error:
            raise self._session.unreachable(error) from error
        finally:
            partial.unlink(missing_ok=True)
        return f"sha256:{digest.hexdigest()}"


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
