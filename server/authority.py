"""The federation's certificate authority, for the coordinator's ports and the sites' node keys.

* P-384 throughout. The CA is self-signed, path length 0: what it certifies can certify nobody.
* A site's certificate holds exactly the key of the site's own signing request, names the site, and
  is good for TLS clients only. The site proved that it holds the key; the CA never sees it.
* Pure: keys and times come in, PEM comes out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from audit.errors import MalformedInput, VerificationFailed

AUTHORITY_DAYS = 3650
SERVER_DAYS = 825
"""The longest lifetime that common TLS clients accept for a server."""

SITE_DAYS = 397
CLOCK_SKEW = timedelta(days=1)
"""A clock that is hours behind, here or at a partner, must not end a run."""


def generate_key() -> ec.EllipticCurvePrivateKey:
    """A new P-384 key."""
    return ec.generate_private_key(ec.SECP384R1())


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key as unencrypted PKCS #8; the file's permissions protect it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def load_private_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Read `private_pem`.

    Raises:
        MalformedInput: If it is no P-384 key.
    """
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise MalformedInput(f"malformed private key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp384r1":
        raise MalformedInput("malformed private key: expected P-384")
    return key


def make_authority(
    federation: str, key: ec.EllipticCurvePrivateKey, now: datetime
) -> x509.Certificate:
    """The self-signed certificate of a new federation's CA."""
    name = _name(f"{federation} certificate authority")
    return (
        _builder(name, name, key.public_key(), now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )


def certify_server(
    hosts: Sequence[str],
    public_key: ec.EllipticCurvePublicKey,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> x509.Certificate:
    """The TLS certificate of the coordinator's ports.

    Args:
        hosts: Names and addresses by which sites reach it; the first is the common name.
        public_key: The server's key.
        authority: The CA.
        authority_key: The CA's key.
        now: The present time.
    """
    names = x509.SubjectAlternativeName([_alternative(host) for host in dict.fromkeys(hosts)])
    return (
        _leaf(_name(hosts[0]), public_key, authority, now, SERVER_DAYS)
        .add_extension(names, critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(authority_key, hashes.SHA384())
    )


def certify_site(
    site: str,
    request: x509.CertificateSigningRequest,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> x509.Certificate:
    """A site's client certificate, for the key of its checked signing request."""
    public_key = request.public_key()
    if not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise MalformedInput("malformed certificate request: expected a P-384 key")
    return (
        _leaf(_name(site), public_key, authority, now, SITE_DAYS)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(authority_key, hashes.SHA384())
    )


def read_request(pem: str, site: str) -> x509.CertificateSigningRequest:
    """Read and check a site's PKCS #10 request.

    Only the key is taken from it: subject and extensions that it may ask for are not copied.

    Raises:
        MalformedInput: If it is no request for a P-384 key, or names another site.
        VerificationFailed: If the site did not prove that it holds the key.
    """
    try:
        request = x509.load_pem_x509_csr(pem.encode("utf-8"))
        valid = request.is_signature_valid
        key = request.public_key()
    except (ValueError, InvalidSignature) as error:
        raise MalformedInput(f"malformed certificate request: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise MalformedInput("malformed certificate request: expected a P-384 key")
    named = [part.value for part in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if named != [site]:
        raise MalformedInput(f"malformed certificate request: it names {named}, not {site}")
    if not valid:
        raise VerificationFailed(f"{site} did not prove that it holds its node key")
    return request


def public_pem(key: x509.CertificateSigningRequest | x509.Certificate) -> str:
    """The certified or requested public key, PEM."""
    public_key = key.public_key()
    return public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """The certificate, PEM."""
    return certificate.public_bytes(Encoding.PEM)


def _leaf(
    subject: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    authority: x509.Certificate,
    now: datetime,
    days: int,
) -> x509.CertificateBuilder:
    issuer_key = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        _builder(subject, authority.subject, public_key, now, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(certificates=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key),
            critical=False,
        )
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
    )


def _name(common_name: str) -> x509.Name:
    # A common name holds 64 characters at most; the alternative names are what is compared.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )
