"""The service's own TLS certificate, and what it reads of a site's.

* The service's certificate is self-signed and pinned by `trust.json`: no authority vouches for it,
  and none can replace it. P-384, because that is what partners' policies commonly ask for.
* A site's request (PKCS #10) is taken only when it is signed by the key in it, on P-384.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP384R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from audit.errors import MalformedInput

LIFETIME: Final = timedelta(days=3650)
"""Pinned, so it ends by being replaced in trust.json, not by a date that nobody remembers."""

CLOCK_SKEW: Final = timedelta(days=1)
"""Partners' clocks may be behind the service's when it is new, or jump back later."""


def self_signed(
    hosts: Sequence[str], now: datetime
) -> tuple[EllipticCurvePrivateKey, x509.Certificate]:
    """A new P-384 key and a certificate for it, valid for these host names and addresses.

    Raises:
        MalformedInput: When a host is neither a DNS name nor an address.
    """
    key = generate_private_key(SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Fiduciary compliance service")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        .add_extension(_signing_only(), True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .sign(key, hashes.SHA384())
    )
    return key, certificate


def node_key_of(certificate_request: str) -> str:
    """The P-384 public key (PEM) that a certificate signing request proves possession of.

    Raises:
        MalformedInput: When it is no PKCS #10 PEM, not P-384, or not signed by its own key.
    """
    try:
        request = x509.load_pem_x509_csr(certificate_request.encode("utf-8"))
        key = request.public_key()
        genuine = request.is_signature_valid
    except ValueError as error:
        raise MalformedInput("malformed certificate_request: not PKCS #10 PEM") from error
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP384R1):
        raise MalformedInput("malformed certificate_request: the key is not on P-384")
    if not genuine:
        raise MalformedInput("malformed certificate_request: not signed by its own key")
    return _pem(key)


def certifies(certificate: str, node_key: str) -> bool:
    """Whether a certificate (PEM) is for this node key (PEM).

    Raises:
        MalformedInput: When it is no PEM certificate.
    """
    try:
        key = x509.load_pem_x509_certificate(certificate.encode("utf-8")).public_key()
    except ValueError as error:
        raise MalformedInput("malformed certificate: not an X.509 PEM") from error
    return isinstance(key, EllipticCurvePublicKey) and _pem(key) == node_key


def ends_at(certificate: str) -> datetime:
    """When a certificate (PEM) ends.

    Raises:
        MalformedInput: When it is no PEM certificate.
    """
    try:
        return x509.load_pem_x509_certificate(certificate.encode("utf-8")).not_valid_after_utc
    except ValueError as error:
        raise MalformedInput("malformed certificate: not an X.509 PEM") from error


def _pem(key: EllipticCurvePublicKey) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise MalformedInput("the host is neither an address nor a DNS name") from error


def _signing_only() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
