"""The other parties: a coordinator, sites and a model consumer, with real keys and documents."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP384R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from audit.keys import SigningKey
from audit.statement import SignedStatement, sign_statement
from compliance.api import ComplianceClient
from compliance.sealing import SERVICE, seal_data_key
from compliance.service.identities import find_bearer
from compliance.service.tables import GrantRow
from compliance.statements import (
    ErasureReceipt,
    Metrics,
    Refusal,
    ReleaseManifest,
    RoundReport,
    RunOutcome,
    SiteAdmission,
    SiteEnrolment,
    SiteReport,
    TrainingPlan,
    format_time,
)
from tests.compliance.running import RunningService

DIGEST = "sha256:" + "0" * 64
METRICS = {"accuracy": "0.9", "macro_f1": "0.89", "examples": 40}


def triage_manifest(**changes: Any) -> ReleaseManifest:
    """What a release of the plan of `plan_body` states."""
    return ReleaseManifest.from_body(
        {
            "name": "triage-1",
            "plan_id": DIGEST,
            "base_model": {"name": "embedded:all-MiniLM-L6-v2", "digest": DIGEST},
            "files": {"adapter_model.safetensors": DIGEST},
            "ciphertext_digest": DIGEST,
            "ciphertext_bytes": 100,
            "delta": "0.00001",
            "epsilon_by_site": {"north": "2", "south": "8"},
            "metrics": METRICS,
            "created_at": "2026-11-02T11:00:00Z",
            **changes,
        }
    )


def plan_body(sites: tuple[str, ...] = ("north",), **changes: Any) -> dict[str, Any]:
    """A small valid plan."""
    return {
        "format": "fiduciary.plan/1",
        "name": "triage",
        "federation": "hospitals",
        "author": "dr-lead",
        "created_at": "2026-11-02T09:00:00Z",
        "base_model": {"name": "embedded:all-MiniLM-L6-v2", "digest": DIGEST},
        "task": "text-classification",
        "labels": ["urgent", "routine"],
        "phases": [
            {
                "kind": "probe",
                "rounds": 2,
                "steps_per_round": 5,
                "sampling_rate": "0.1",
                "learning_rate": "0.5",
                "max_grad_norm": "1",
                "noise_multiplier": "1.1",
            }
        ],
        "privacy": {"epsilon": "8", "delta": "0.00001", "nominal_subjects": 1000},
        "purpose": "triage",
        "legal_basis": "public-task",
        "retention_days": 365,
        "sites": list(sites),
        "quorum": 1,
        **changes,
    }


def make_request(key: EllipticCurvePrivateKey, name: str) -> str:
    """A PKCS #10 request for a node key."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return builder.sign(key, hashes.SHA384()).public_bytes(Encoding.PEM).decode()


@dataclass
class Kit:
    """What a coordinator hands to a site."""

    token: str
    sha256: str


class Site:
    """A site with its own keys."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.identity = SigningKey.generate(f"hospitals/site/{name}")
        self.node_key = generate_private_key(SECP384R1())
        self.token: str | None = None

    def enrolment(self, **changes: Any) -> SignedStatement:
        body = {
            "federation": "hospitals",
            "site": self.name,
            "identity_key": self.identity.public.encoded(),
            "certificate_request": make_request(self.node_key, self.name),
            "requested_at": "2026-11-02T09:00:00Z",
            **changes,
        }
        return sign_statement(SiteEnrolment.from_body(body).body(), self.identity)

    def join(self, service: RunningService, kit: Kit) -> SignedStatement:
        statement = self.enrolment()
        enrolled = service.client().enrol(
            token=kit.token, kit_sha256=kit.sha256, statement=statement
        )
        self.token = enrolled.site_token
        service.keep_node_key(self.name, self.token, self._node_pem())
        return statement

    def client(self, service: RunningService) -> ComplianceClient:
        assert self.token is not None
        service.keep_node_key(self.name, self.token, self._node_pem())
        return service.client(self.token)

    def _node_pem(self) -> bytes:
        return self.node_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def report(
        self, plan_id: str, round_index: int = 0, *, epsilon: str = "1.5", **changes: Any
    ) -> SignedStatement:
        body = {
            "plan_id": plan_id,
            "site": self.name,
            "round": round_index,
            "activity": "train",
            "steps": 5,
            "epsilon_spent": epsilon,
            "update_digest": DIGEST,
            "dataset_digest": DIGEST,
            "base_model_digest": DIGEST,
            "deidentification_digest": DIGEST,
            "software": "fiduciary 0.1.0",
            "reported_at": "2026-11-02T10:00:00Z",
            **changes,
        }
        return sign_statement(SiteReport.from_body(body).body(), self.identity)

    def refusal(self, **changes: Any) -> SignedStatement:
        body = {
            "refused_by": f"site:{self.name}",
            "object": "plan:" + DIGEST,
            "code": "purpose-not-allowed",
            "reason": "the site does not train for this purpose",
            "refused_at": "2026-11-02T10:00:00Z",
            **changes,
        }
        return sign_statement(Refusal.from_body(body).body(), self.identity)

    def erasure(self, subject: str = "ab" * 32, **changes: Any) -> SignedStatement:
        body = {
            "site": self.name,
            "subject": subject,
            "datasets": ["notes"],
            "records_removed": 3,
            "key_destroyed": True,
            "plans": [],
            "erased_at": "2026-11-02T11:00:00Z",
            **changes,
        }
        return sign_statement(ErasureReceipt.from_body(body).body(), self.identity)


@dataclass
class Release:
    """A release with everything that belongs to it."""

    manifest: SignedStatement
    sealed_key: bytes
    ciphertext: bytes
    data_key: bytes
    plaintext: bytes

    @property
    def release_id(self) -> str:
        return self.manifest.digest

    def file(self, folder: Path) -> Path:
        path = folder / "content.sealed"
        path.write_bytes(self.ciphertext)
        return path


class Coordinator:
    """The coordinator of one federation at one service."""

    def __init__(self, service: RunningService) -> None:
        self.service = service
        self.key = SigningKey.generate("hospitals/coordinator")
        self.ca_key = generate_private_key(SECP384R1())
        self.api = service.as_("coordinator")

    def register(self) -> None:
        self.api.register_coordinator(self.key.public)

    def sign(self, body: dict[str, Any]) -> SignedStatement:
        return sign_statement(body, self.key)

    def invite(self, site: str, *, hours: float = 72) -> Kit:
        kit = Kit(secrets.token_urlsafe(32), secrets.token_hex(32))
        self.announce(site, kit, hours=hours)
        return kit

    def announce(self, site: str, kit: Kit, *, hours: float = 72) -> None:
        self.api.invite(
            site,
            token_sha256=hashlib.sha256(kit.token.encode()).hexdigest(),
            kit_sha256=kit.sha256,
            expires_at=format_time(self.service.clock() + timedelta(hours=hours)),
        )

    def certificate(self, key: EllipticCurvePublicKey, name: str, *, until: int = 2030) -> str:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "CA")]))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime(2026, 1, 1))  # noqa: DTZ001  X.509 takes UTC as it is
            .not_valid_after(datetime(until, 1, 1))  # noqa: DTZ001
            .sign(self.ca_key, hashes.SHA384())
        )
        return certificate.public_bytes(Encoding.PEM).decode()

    def admission(self, site: Site, enrolment: str, **changes: Any) -> SignedStatement:
        body = {
            "federation": "hospitals",
            "site": site.name,
            "enrolment": enrolment,
            "certificate": self.certificate(site.node_key.public_key(), site.name),
            "admitted_at": "2026-11-02T09:30:00Z",
            **changes,
        }
        return self.sign(SiteAdmission.from_body(body).body())

    def admit(self, site: Site) -> None:
        view = self.api.site(site.name)
        self.api.approve_site(site.name, self.admission(site, view.enrolment))

    def welcome(self, name: str) -> Site:
        """Invite, join and admit a site."""
        site = Site(name)
        site.join(self.service, self.invite(name))
        self.admit(site)
        return site

    def plan(self, sites: tuple[str, ...] = ("north",), **changes: Any) -> SignedStatement:
        return self.sign(TrainingPlan.from_body(plan_body(sites, **changes)).body())

    def approved_plan(self, sites: tuple[str, ...] = ("north",), **changes: Any) -> str:
        plan_id = self.api.submit_plan(self.plan(sites, **changes)).plan_id
        self.service.as_("officer").approve_plan(plan_id)
        return plan_id

    def round_report(
        self, plan_id: str, round_index: int, sites: tuple[str, ...] = ("north",), **changes: Any
    ) -> SignedStatement:
        body = {
            "plan_id": plan_id,
            "round": round_index,
            "phase": "probe",
            "participants": list(sites),
            "absent": {},
            "update_norm": "0.7",
            "state_digest": DIGEST,
            "epsilon_by_site": dict.fromkeys(sites, "1.5"),
            "finished_at": "2026-11-02T10:05:00Z",
            **changes,
        }
        return self.sign(RoundReport.from_body(body).body())

    def outcome(self, plan_id: str, **changes: Any) -> SignedStatement:
        body = {
            "plan_id": plan_id,
            "verdict": "completed",
            "rounds_done": 2,
            "metrics": METRICS,
            "finished_at": "2026-11-02T10:30:00Z",
            **changes,
        }
        return self.sign(RunOutcome.from_body(body).body())

    def run(self, plan_id: str, site: Site) -> None:
        """All rounds of an approved plan, reported by both sides."""
        for index in range(2):
            site.client(self.service).report_site(plan_id, site.report(plan_id, index))
            self.api.report_round(plan_id, self.round_report(plan_id, index, (site.name,)))
        self.api.report_outcome(plan_id, self.outcome(plan_id))

    def release(self, plan_id: str, **changes: Any) -> Release:
        """A really encrypted release of a completed plan."""
        plaintext = b"adapter weights " * 1000
        data_key = AESGCM.generate_key(256)
        nonce = secrets.token_bytes(12)
        ciphertext = nonce + AESGCM(data_key).encrypt(nonce, plaintext, plan_id.encode())
        body = {
            "name": "triage-1",
            "plan_id": plan_id,
            "base_model": {"name": "embedded:all-MiniLM-L6-v2", "digest": DIGEST},
            "files": {"adapter_model.safetensors": DIGEST, "README.md": DIGEST},
            "ciphertext_digest": "sha256:" + hashlib.sha256(ciphertext).hexdigest(),
            "ciphertext_bytes": len(ciphertext),
            "delta": "0.00001",
            "epsilon_by_site": {"north": "1.5"},
            "metrics": Metrics.model_validate(METRICS).model_dump(mode="json"),
            "created_at": "2026-11-02T11:00:00Z",
            **changes,
        }
        manifest = self.sign(ReleaseManifest.from_body(body).body())
        sealed = seal_data_key(
            data_key,
            self.service.trust.release_key,
            release_id=manifest.digest,
            recipient=SERVICE,
        )
        return Release(manifest, sealed, ciphertext, data_key, plaintext)


class Consumer:
    """Somebody who wants a model."""

    def __init__(self, service: RunningService, name: str = "triage-desk") -> None:
        self.name = name
        self.key = X25519PrivateKey.generate()
        self.token = service.as_("officer").add_principal(name, ["consumer"]).token
        self.api = service.client(self.token)

    @property
    def public_key(self) -> bytes:
        return self.key.public_key().public_bytes_raw()


def grant_as_once(
    service: RunningService, release: Release, consumer: Consumer, purpose: str
) -> None:
    """A grant as earlier versions made them: for whatever purpose, a month long."""
    until = format_time(service.clock() + timedelta(days=30))
    with service.registry.reading() as session:
        officer = find_bearer(session, "officer")
    with service.registry.writing(officer) as transaction:
        said = {"principal": consumer.name, "purpose": purpose, "expires_at": until}
        key = {"public_key": consumer.public_key.hex(), "max_downloads": None}
        transaction.record("release.granted", f"release:{release.release_id}", {**said, **key})
        row = GrantRow(
            release_id=release.release_id,
            public_key=consumer.public_key,
            sealed_key=seal_data_key(
                release.data_key,
                consumer.public_key,
                release_id=release.release_id,
                recipient=consumer.name,
            ),
            granted_by="officer",
            granted_at=transaction.time,
            downloads=0,
            **said,
        )
        transaction.session.add(row)
