"""Release data keys, sealed to one recipient (`audit.hpke`).

* The `info` names the release and the recipient, so a sealed key opens for nothing else: a key
  sealed for one release cannot be replayed as another's, nor one principal's as another's.
* The plaintext is exactly one AES-256 key.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from audit.canonical import canonical_bytes
from audit.errors import MalformedInput, VerificationFailed
from audit.hpke import open_with, seal_to

SERVICE: Final = "compliance"
"""The recipient's name when a data key is sealed to the service's release key."""

DATA_KEY_BYTES: Final = 32

_FORMAT: Final = "fiduciary.sealed-key/1"


def seal_data_key(data_key: bytes, public_key: bytes, *, release_id: str, recipient: str) -> bytes:
    """Seal a release's data key to one recipient.

    Args:
        data_key: The release's AES-256 key, 32 bytes.
        public_key: The recipient's raw X25519 public key, 32 bytes.
        release_id: The release, `sha256:<hex>` of its signed manifest.
        recipient: Name of the principal, or `SERVICE`.

    Returns:
        Encapsulated key and ciphertext, 80 bytes.

    Raises:
        MalformedInput: When a key has the wrong length or the public key is a weak point.
    """
    if len(data_key) != DATA_KEY_BYTES:
        raise MalformedInput(f"a data key has {DATA_KEY_BYTES} bytes, not {len(data_key)}")
    return seal_to(public_key, data_key, _info(release_id, recipient))


def open_data_key(
    sealed_key: bytes, private_key: X25519PrivateKey, *, release_id: str, recipient: str
) -> bytes:
    """Open a data key that was sealed for exactly this release and recipient.

    Raises:
        VerificationFailed: When it was sealed to another key, release or recipient, or altered.
    """
    try:
        data_key = open_with(private_key, sealed_key, _info(release_id, recipient))
    except VerificationFailed as error:
        raise VerificationFailed(
            "the sealed data key does not open for this key, release and recipient",
            fix="use the private key whose public half was granted",
        ) from error
    if len(data_key) != DATA_KEY_BYTES:
        raise VerificationFailed(f"the sealed data key does not hold {DATA_KEY_BYTES} bytes")
    return data_key


def _info(release_id: str, recipient: str) -> bytes:
    return canonical_bytes({"format": _FORMAT, "release": release_id, "recipient": recipient})
