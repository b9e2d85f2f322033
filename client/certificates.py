"""The site's node key and the certificate that the federation issues for it.

* The request (PKCS #10) proves that the site holds the key; the key itself never leaves.
* A certificate is accepted only when it is for this site's own key, names this site, and was
  signed by the CA of the kit: whoever hands it over is not believed.
* Pure: PEM in, PEM or a verdict out.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from audit.errors import MalformedInput, VerificationFailed

_ASK = "ask the coordinator to admit the site again: `server admit SITE`"


def generate_node_key() -> bytes:
    """A new P-384 key as unencrypted PKCS #8 PEM; the file's permissions protect it."""
    return ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def read_node_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Read `generate_node_key`.

    Raises:
        MalformedInput: When it is no P-384 private key.
    """
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise MalformedInput(
            "malformed node key: not PKCS #8 PEM", fix="restore keys/node.pem from a backup"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise MalformedInput(
            "malformed node key: not P-384", fix="restore keys/node.pem from a backup"
        )
    return key


def certificate_request(site: str, node_key: bytes) -> str:
    """A PKCS #10 request for the node key, PEM."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, site)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name)
    signed = request.sign(read_node_key(node_key), hashes.SHA384())
    return signed.public_bytes(serialization.Encoding.PEM).decode("ascii")


def read_certificate(pem: str, what: str) -> x509.Certificate:
    """Read one PEM certificate.

    Args:
        pem: The text.
        what: What the certificate is, for the message.

    Raises:
        MalformedInput: When it cannot be read.
    """
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError as error:
        raise MalformedInput(f"malformed {what}: not a PEM certificate", fix=_ASK) from error


def check_certificate(pem: str, *, site: str, node_key: bytes, ca: str) -> x509.Certificate:
    """Whether a certificate is this site's own. Its dates are `client check`'s to judge.

    Args:
        pem: The certificate.
        site: The site's name.
        node_key: The site's P-384 private key, PEM.
        ca: The federation's CA certificate, PEM.

    Raises:
        MalformedInput: When a certificate cannot be read.
        VerificationFailed: When it is for another key or name, or of another CA.
    """
    certificate = read_certificate(pem, "certificate")
    authority = read_certificate(ca, "CA certificate")
    if certificate.public_key() != read_node_key(node_key).public_key():
        raise VerificationFailed("the certificate is for another key than this site's", fix=_ASK)
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise VerificationFailed(
            "the certificate was not issued by this federation's CA", fix=_ASK
        ) from error
    named = [
        attribute.value
        for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    ]
    if named != [site]:
        raise VerificationFailed(
            f"the certificate names {', '.join(map(str, named)) or 'nobody'}, not {site}", fix=_ASK
        )
    if not _for_clients(certificate):
        raise VerificationFailed("the certificate is not for a TLS client", fix=_ASK)
    return certificate


def _for_clients(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return ExtendedKeyUsageOID.CLIENT_AUTH in usage
