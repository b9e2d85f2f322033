"""Downloading a release and believing it only after every check.

In this order, and nothing is left behind when one fails:

1. the manifest's signature, by the coordinator's key that the caller brings from a trusted place;
2. an officer's approval of exactly this manifest, by the compliance service's log key;
3. the ciphertext's digest and size;
4. the data key, sealed to the caller's key for this release and this principal;
5. decryption, then each file's digest and that it cannot run code (`server.inert_files`);
6. `model.sig`, by the key that the manifest names; then one rename of the whole folder.
"""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from audit.errors import Conflict, NotFound, Refused, VerificationFailed
from audit.keys import VerifyKey
from audit.statement import verify_statement
from audit.words import count_of
from compliance.api import ComplianceClient
from compliance.release_views import ReleaseView
from compliance.sealing import open_data_key
from compliance.statements import Decision, ReleaseManifest
from server.content import decrypt, extract, require_free
from server.model_signature import SIGNATURE_FILE, verify_model

_WHOLE_ID = re.compile(r"sha256:[0-9a-f]{64}")
_SHORT_ID = re.compile(r"[0-9a-f]{6,64}")


@dataclass(frozen=True)
class Fetched:
    """A release that was checked and unpacked."""

    release_id: str
    folder: Path
    manifest: ReleaseManifest

    def load_example(self) -> str:
        """Code that loads the release, with the base model where it lies on this machine."""
        card = (self.folder / "README.md").read_text("utf-8")
        code = card.partition("```python\n")[2].partition("```")[0]
        for name, value in (("folder", str(self.folder)), ("base", self._base_model())):
            start, _, rest = code.partition(f"\n{name} = ")
            code = f"{start}\n{name} = {json.dumps(value)}\n{rest.partition(chr(10))[2]}"
        return code

    def _base_model(self) -> str:
        from client.learning.base_model import resolve_base_model

        try:
            return str(resolve_base_model(self.manifest.base_model.name))
        except NotFound:
            return self.manifest.base_model.name


def fetch_release(
    compliance: ComplianceClient,
    release_id: str,
    folder: Path,
    *,
    key: X25519PrivateKey,
    coordinator: VerifyKey,
) -> Fetched:
    """Download, verify, decrypt and unpack a release.

    Args:
        compliance: As a principal with a grant.
        release_id: The release.
        folder: Must not exist, or be empty.
        key: The private half of the key in the grant.
        coordinator: Whose signature to expect, from a trusted place.

    Raises:
        VerificationFailed: When a signature, digest or key does not fit.
        Refused: When no officer has approved the release.
        Unauthorised: Without a live grant.
        Conflict: When the folder holds something, or the release was recalled.
    """
    require_free(folder)
    view = compliance.release(release_id)
    manifest = _verified(view, release_id, coordinator, compliance.trust.log_key)
    sealed = compliance.release_key(release_id)
    data_key = open_data_key(
        sealed.sealed_key, key, release_id=release_id, recipient=sealed.principal
    )
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".release-", dir=folder.absolute().parent) as name:
        sealed_content, archive = Path(name) / "content.sealed", Path(name) / "content.tar"
        digest = compliance.download_release(release_id, sealed_content)
        if digest != manifest.ciphertext_digest:
            raise VerificationFailed(
                f"the content's digest is {digest}, the manifest says {manifest.ciphertext_digest}",
                fix="download it again; if it fails again, tell the compliance officer",
            )
        decrypt(sealed_content, archive, data_key)
        extract(archive, folder, manifest.files, lambda unpacked: _check_sig(unpacked, manifest))
    return Fetched(release_id, folder, manifest)


def _check_sig(folder: Path, manifest: ReleaseManifest) -> None:
    """Releases before the third format had no such signature; one that names a key must have it."""
    if manifest.model_signing_key is None:
        return
    path = folder / SIGNATURE_FILE
    if not path.is_file():
        raise VerificationFailed(f"the release lacks {SIGNATURE_FILE}")
    others = {name: each for name, each in manifest.files.items() if name != SIGNATURE_FILE}
    verify_model(path.read_bytes(), others, manifest.model_signing_key)


def find_release(compliance: ComplianceClient, given: str) -> str:
    """The id of a release, from its id, the beginning of its id, its name, or an `@alias`.

    Raises:
        NotFound: When none of the releases or aliases that the caller may see fits.
        Conflict: When several do.
    """
    if _WHOLE_ID.fullmatch(given):
        return given
    if given.startswith("@"):
        for alias in compliance.aliases.list():
            if alias.alias == given[1:]:
                return alias.release_id
        raise NotFound(
            f"there is no alias {given!r} of a release that you may see",
            fix="ask a compliance officer for a grant of what it names now",
        )
    digits = given.removeprefix("sha256:")
    found = [
        view.release_id
        for view in compliance.releases()
        if view.manifest.name == given
        or (_SHORT_ID.fullmatch(digits) and view.release_id.startswith(f"sha256:{digits}"))
    ]
    if not found:
        raise NotFound(
            f"there is no release {given!r} that you may see",
            fix="ask a compliance officer for its id and for a grant",
        )
    if len(found) > 1:
        raise Conflict(
            f"{given!r} fits {count_of(len(found), 'release')}", fix="give more of the id"
        )
    return found[0]


def _verified(
    view: ReleaseView, release_id: str, coordinator: VerifyKey, log_key: VerifyKey
) -> ReleaseManifest:
    if view.statement.digest != release_id or view.release_id != release_id:
        raise VerificationFailed("the service gave another release's manifest")
    manifest = ReleaseManifest.from_body(verify_statement(view.statement, coordinator))
    if view.recall is not None:
        raise Conflict(
            f"release {manifest.name} was recalled at {view.recall.recalled_at}: "
            f"{view.recall.reason}",
            fix="stop using it and remove your copies; compliance notices list",
        )
    if view.approval is None:
        raise Refused(
            f"release {manifest.name} is {view.state}, not approved",
            fix="ask a compliance officer: compliance approve release ID",
        )
    decision = Decision.from_body(verify_statement(view.approval, log_key))
    if decision.object != f"release:{release_id}" or decision.verdict != "approved":
        raise VerificationFailed("the approval is not of this release")
    return manifest
