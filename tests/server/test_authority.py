from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from audit.errors import FiduciaryError, MalformedInput
from server import authority
from tests.server.scripted import request_for

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def ca() -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = authority.generate_key()
    return key, authority.make_authority("demo", key, NOW)


def test_the_authority_certifies_leaves_only(
    ca: tuple[ec.EllipticCurvePrivateKey, x509.Certificate],
) -> None:
    key, certificate = ca
    limits = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert limits.critical
    assert (limits.value.ca, limits.value.path_length) == (True, 0)
    assert isinstance(key.curve, ec.SECP384R1)
    certificate.verify_directly_issued_by(certificate)


def test_a_server_certificate_names_every_host_once(
    ca: tuple[ec.EllipticCurvePrivateKey, x509.Certificate],
) -> None:
    key, certificate = ca
    server = authority.certify_server(
        ["hospital.example", "localhost", "127.0.0.1", "localhost", "::1"],
        authority.generate_key().public_key(),
        certificate,
        key,
        NOW,
    )
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["hospital.example", "localhost"]
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    assert addresses == ["127.0.0.1", "::1"]
    server.verify_directly_issued_by(certificate)


def test_a_site_certificate_is_for_that_key_and_for_clients_only(
    ca: tuple[ec.EllipticCurvePrivateKey, x509.Certificate],
) -> None:
    key, certificate = ca
    node = authority.generate_key()
    request = authority.read_request(request_for("st-elm", node), "st-elm")
    site = authority.certify_site("st-elm", request, certificate, key, NOW)
    site.verify_directly_issued_by(certificate)
    assert site.public_key() == node.public_key()
    assert not site.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = site.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    names = site.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert [name.value for name in names] == ["st-elm"]
    assert site.not_valid_after_utc == NOW + timedelta(days=authority.SITE_DAYS)


def _altered(pem: str) -> str:
    request = x509.load_pem_x509_csr(pem.encode())
    data = bytearray(request.public_bytes(Encoding.DER))
    data[-3] ^= 1  # inside the signature
    return x509.load_der_x509_csr(bytes(data)).public_bytes(Encoding.PEM).decode()


def _of_curve(curve: ec.EllipticCurve) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "st-elm")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    signed = builder.sign(ec.generate_private_key(curve), hashes.SHA256())
    return signed.public_bytes(Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("request_pem", "said"),
    [
        ("hello", "malformed certificate request"),
        (request_for("lakeside", authority.generate_key()), "it names"),
        (_of_curve(ec.SECP256R1()), "expected a P-384 key"),
        (_altered(request_for("st-elm", authority.generate_key())), "prove that it holds"),
    ],
)
def test_a_request_that_proves_nothing_is_refused(request_pem: str, said: str) -> None:
    with pytest.raises(FiduciaryError, match=said):
        authority.read_request(request_pem, "st-elm")


def test_a_private_key_of_another_kind_is_refused() -> None:
    with pytest.raises(MalformedInput):
        authority.load_private_key(b"no key")
    key = authority.generate_key()
    again = authority.load_private_key(authority.private_pem(key))
    assert again.public_key() == key.public_key()
