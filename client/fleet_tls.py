"""The site's TLS to the coordinator, and what its failures mean to an operator.

* TLS 1.3 in both directions: the server must hold a certificate of the federation's CA, the site
  proves its node key.
* Every failure becomes one of `audit.errors` with what to do next; the coordinator's own words are
  passed on, bounded.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from audit.errors import FiduciaryError, MalformedInput, Unauthorised, Unreachable

MAX_DETAIL_CHARACTERS = 300


class ConnectionLost(Unreachable):
    """The network failed, not the coordinator: the same call may succeed in a moment."""


def load_node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The site's node key.

    Raises:
        MalformedInput: When the file holds no P-384 key.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise MalformedInput(
            f"malformed node key {path}: {error}", fix="enrol again with a new kit: client join KIT"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp384r1":
        raise MalformedInput(
            f"malformed node key {path}: expected a P-384 private key",
            fix="enrol again with a new kit: client join KIT",
        )
    return key


def mutual_tls(ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """A client context that trusts one CA and shows one certificate.

    Raises:
        MalformedInput: When a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cafile=ca)
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise MalformedInput(
            f"cannot use the certificates {ca} and {certificate}: {error}",
            fix="fetch the site's certificate again: client check",
        ) from error
    return context


def refused(address: str, response: httpx.Response) -> FiduciaryError:
    """What an error answer means."""
    detail = _detail_of(response)
    if response.status_code in (401, 403) or "[code:" in detail or response.status_code == 400:
        return Unauthorised(
            f"the coordinator at {address} does not accept this site: {detail}",
            fix="ask the coordinator whether the site is admitted: server sites; then client check",
        )
    return Unreachable(
        f"the coordinator at {address} answered {response.status_code}: {detail}",
        fix="ask the coordinator to look at: server status",
    )


def _detail_of(response: httpx.Response) -> str:
    try:
        problem = response.json()
    except ValueError:
        return response.reason_phrase
    if not isinstance(problem, dict):
        return response.reason_phrase
    for name in ("detail", "public_message", "message", "title"):
        if isinstance(problem.get(name), str):
            return str(problem[name])[:MAX_DETAIL_CHARACTERS]
    return response.reason_phrase


def lost(address: str, error: httpx.TransportError) -> FiduciaryError:
    """What a failed connection means."""
    reason = str(error) or type(error).__name__
    if "not yet valid" in reason:
        # Not a stranger: a clock that jumped back, and comes right again.
        return ConnectionLost(
            f"the certificate of the coordinator at {address} lies in the future: {reason}",
            fix="set this machine's clock",
        )
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return Unauthorised(
            f"the server at {address} holds no certificate of this federation: {reason}",
            fix="compare the kit's fingerprint with the coordinator by telephone",
        )
    if "alert" in reason.lower() and "ssl" in reason.lower():
        return Unauthorised(
            f"the coordinator at {address} does not accept this site's certificate: {reason}",
            fix="fetch the site's certificate again: client check",
        )
    return ConnectionLost(
        f"the coordinator at {address} does not answer: {reason}",
        fix="check the network and whether the coordinator runs: server start",
    )
