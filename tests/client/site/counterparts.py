"""A coordinator and a compliance service for sites, small enough to break on purpose.

* `FakeCompliance` implements the client's Protocols (`EnrolmentService`, `Service`) over a real
  log (`audit`): its proofs, decisions and receipts verify like the real service's.
* Faults: `FakeCompliance.fail[method] = error` raises instead of acting; `fail_after[method]` acts
  and then raises, as when an answer is lost on the way. Each is used once.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from audit.checkpoint import verify_checkpoint
from audit.cosignature import WitnessKey, verify_cosignature
from audit.errors import Conflict, FiduciaryError, MalformedInput, NotFound
from audit.journal import Journal
from audit.keyring import Keyring
from audit.keys import SigningKey, VerifyKey
from audit.log import Entry
from audit.proof import Proof
from audit.receipt import Receipt
from audit.statement import SignedStatement, sign_statement, verify_statement
from client.kit import Kit
from compliance.erasure_views import ErasureRecorded
from compliance.log_views import LogConsistency, LogHead, LogProof, WitnessView
from compliance.resources import Enrolled, PlanView, Recorded, SiteView
from compliance.statements import (
    CertificateRenewal,
    Decision,
    ErasureReceipt,
    RunOutcome,
    SiteEnrolment,
    SiteSealingKey,
    SubjectAnswer,
    SubjectRight,
    TrainingPlan,
    certificate_digest,
    format_time,
    utc_now,
)
from compliance.subject_requests_views import (
    SealingKeyState,
    SitePart,
    SiteWork,
    TrainedRelease,
)
from compliance.subject_sealing import Identifiers, seal_identifiers
from compliance.trust import Trust
from compliance.wire import PlanState

FEDERATION = "hospitals"
SITE = "north"
ORIGIN = "compliance.test/log"
TOKEN = "one-time-token-of-the-kit"
SITE_TOKEN = "bearer-token-of-the-site"
COMPLIANCE_URL = "https://127.0.0.1:1"


def in_hours(hours: float) -> str:
    return format_time(datetime.now(UTC) + timedelta(hours=hours))


def self_signed(
    name: str, key: ec.EllipticCurvePrivateKey, *, authority: bool = False
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .sign(key, hashes.SHA384())
    )


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode("ascii")


@dataclass
class Coordinator:
    """The coordinator's keys: identity and certificate authority."""

    identity: SigningKey = field(
        default_factory=lambda: SigningKey.generate(f"{FEDERATION}/coordinator")
    )
    authority_key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP384R1())
    )

    def __post_init__(self) -> None:
        self.authority = self_signed(f"{FEDERATION} CA", self.authority_key, authority=True)

    def certify(
        self,
        public_key: Any,
        name: str,
        *,
        days: float = 300,
        since: float = 1,
        signer: ec.EllipticCurvePrivateKey | None = None,
        for_server: bool = False,
    ) -> str:
        """A node certificate; `signer` makes it one of another CA with the same name."""
        usage = ExtendedKeyUsageOID.SERVER_AUTH if for_server else ExtendedKeyUsageOID.CLIENT_AUTH
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self.authority.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.now(UTC) - timedelta(days=since))
            .not_valid_after(datetime.now(UTC) + timedelta(days=days))
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .sign(signer or self.authority_key, hashes.SHA384())
        )
        return pem(certificate)

    def sign_plan(self, plan: TrainingPlan) -> SignedStatement:
        return sign_statement(plan.body(), self.identity)


@dataclass
class _Filed:
    statement: SignedStatement
    state: PlanState
    submitted_position: int
    decision: SignedStatement | None = None
    decided_position: int | None = None
    outcome: SignedStatement | None = None


class FakeCompliance:
    """One compliance service with a real log. Serves one coordinator and any number of sites."""

    def __init__(self, folder: Path, coordinator: Coordinator) -> None:
        folder.mkdir()
        self.coordinator = coordinator
        self.log_key = SigningKey.generate(ORIGIN)
        self.log = Journal.create(
            folder / "log.sqlite", ORIGIN, self.log_key, Keyring.create(folder / "keyring")
        )
        key = ec.generate_private_key(ec.SECP384R1())
        self.trust = Trust(
            url=COMPLIANCE_URL,
            certificate=pem(self_signed("127.0.0.1", key)),
            origin=ORIGIN,
            log_key=self.log_key.public,
            release_key=bytes(range(32)),
        )
        self.fail: dict[str, FiduciaryError] = {}
        self.fail_after: dict[str, FiduciaryError] = {}
        self.filed: dict[str, _Filed] = {}
        self.views: dict[str, SiteView] = {}
        self.spent: dict[str, str] = {}
        self.reports: list[SignedStatement] = []
        self.refusals: list[SignedStatement] = []
        self.erasures: list[SignedStatement] = []
        self.sealing_keys: dict[str, bytes] = {}
        self.key_state: SealingKeyState | None = None
        self.asked: dict[str, SitePart] = {}
        self.held_back: dict[str, bytes] = {}
        self.identities: list[SignedStatement] = []
        self.answered: dict[str, SignedStatement] = {}
        self.packages: dict[str, bytes] = {}
        self.trained_releases: list[TrainedRelease] = []
        self.head: str | None = None
        """What `log_head` shows instead of the log's own head."""
        self.consistency: LogConsistency | None = None
        """What `log_head` and `log_consistency` show instead of the log's own proof."""
        self.cosigned: list[str] = []
        self.polls_until_admitted: int | None = None
        self.asked_by_token_alone: list[bool] = []
        self.certify: Callable[[Any, str], str] = coordinator.certify

    # --- as a context manager, where a connection is expected -----------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def connect(self, trust: Trust, token: str | None) -> Self:
        assert trust.url == self.trust.url
        assert token in (None, SITE_TOKEN)
        return self

    # --- EnrolmentService -----------------------------------------------------------------------

    def enrol(self, *, token: str, kit_sha256: str, statement: SignedStatement) -> Enrolled:
        with self._faults("enrol"):
            enrolment = SiteEnrolment.from_body(statement.body)
            verify_statement(statement, VerifyKey.parse(enrolment.identity_key))
            if self.spent.setdefault(token, statement.digest) != statement.digest:
                raise Conflict("the kit was used already", fix="ask for a new kit")
            request = x509.load_pem_x509_csr(enrolment.certificate_request.encode())
            assert request.is_signature_valid
            self.views.setdefault(
                enrolment.site,
                SiteView(
                    name=enrolment.site,
                    state="pending",
                    identity_key=enrolment.identity_key,
                    node_key="",
                    certificate_request=enrolment.certificate_request,
                    certificate=None,
                    enrolment=statement.digest,
                    statement=statement,
                    enrolled_at=utc_now(),
                    enrolled_position=0,
                ),
            )
        return Enrolled(
            position=0, principal=f"site:{enrolment.site}", state="pending", site_token=SITE_TOKEN
        )

    def site(self, name: str, *, by_token_alone: bool = False) -> SiteView:
        self.asked_by_token_alone.append(by_token_alone)
        with self._faults("site"):
            if self.polls_until_admitted == 0:
                self.admit(name)
            elif self.polls_until_admitted is not None:
                self.polls_until_admitted -= 1
            return self.views[name]

    def request_renewal(self, name: str, request: SignedStatement) -> Recorded:
        with self._faults("request_renewal"):
            view = self.views[name]
            verify_statement(request, VerifyKey.parse(view.identity_key))
            asked = CertificateRenewal.from_body(request.body)
            assert asked.certificate == certificate_digest(view.certificate or "")
            self.views[name] = view.model_copy(update={"renewal": request})
        return Recorded(position=0)

    def renew(self, name: str, **changes: Any) -> None:
        """What the coordinator answers."""
        view = self.views[name]
        request = x509.load_pem_x509_csr(view.certificate_request.encode())
        certificate = self.coordinator.certify(request.public_key(), name, **changes)
        self.views[name] = view.model_copy(update={"renewal": None, "certificate": certificate})

    def admit(self, name: str) -> None:
        view = self.views[name]
        request = x509.load_pem_x509_csr(view.certificate_request.encode())
        certificate = self.certify(request.public_key(), name)
        self.views[name] = view.model_copy(update={"state": "approved", "certificate": certificate})

    # --- plans ----------------------------------------------------------------------------------

    def submit(self, signed: SignedStatement) -> str:
        position = self._log("plan.submitted", signed)
        self.filed[signed.digest] = _Filed(signed, "submitted", position)
        return signed.digest

    def decide(
        self, plan_id: str, verdict: Literal["approved", "rejected"] = "approved", **changes: Any
    ) -> None:
        body = {
            "object": f"plan:{plan_id}",
            "verdict": verdict,
            "decided_by": "officer",
            "decided_at": utc_now(),
            **changes,
        }
        signed = sign_statement(Decision.from_body(body).body(), self.log_key)
        filed = self.filed[plan_id]
        filed.decision, filed.state = signed, verdict
        filed.decided_position = self._log(f"plan.{verdict}", signed)

    def end(self, plan_id: str, verdict: Literal["completed", "failed"] = "completed") -> None:
        outcome = RunOutcome(plan_id=plan_id, verdict=verdict, rounds_done=0, finished_at=utc_now())
        filed = self.filed[plan_id]
        filed.outcome = self.coordinator_signs(outcome.body())
        filed.state = verdict

    def coordinator_signs(self, body: dict[str, Any]) -> SignedStatement:
        return sign_statement(body, self.coordinator.identity)

    def plans(self, state: PlanState | None = None) -> tuple[PlanView, ...]:
        return tuple(self.plan(plan_id) for plan_id in self.filed)

    def plan(self, plan_id: str) -> PlanView:
        with self._faults("plan"):
            if plan_id not in self.filed:
                raise NotFound("there is no such plan")
            filed = self.filed[plan_id]
            approved = filed.decision is not None and filed.state != "rejected"
            return PlanView(
                plan_id=plan_id,
                state=filed.state,
                statement=filed.statement,
                submitted_by="coordinator",
                submitted_at=utc_now(),
                submitted_position=filed.submitted_position,
                approval=filed.decision if approved else None,
                rejection=None if approved else filed.decision,
                approved_position=filed.decided_position if approved else None,
                rounds_reported=0,
                outcome=filed.outcome,
            )

    def log_proof(self, position: int) -> LogProof:
        with self._faults("log_proof"):
            text = self.log.prove(position, with_leaf=True)
            proof = Proof.parse(text)
            assert proof.extra is not None
            bare = Proof(proof.index, proof.path, proof.checkpoint)
            return LogProof(leaf=proof.extra, proof=bare.encoded())

    def log_consistency(self, first: int, second: int) -> LogConsistency:
        with self._faults("log_consistency"):
            if self.consistency is not None:
                return self.consistency
            hashes_ = self.log.consistency(first, second)
            return LogConsistency(first=first, second=second, hashes=hashes_)

    # --- WitnessService -------------------------------------------------------------------------

    def log_head(self, since: int) -> LogHead:
        with self._faults("log_head"):
            note = self.log.checkpoint() if self.head is None else self.head
            growth = self.consistency
            if growth is None and self.head is None and 0 < since <= self.log.size():
                growth = self.log_consistency(since, self.log.size())
            return LogHead(checkpoint=note, growth=growth)

    def cosign(self, note: str) -> WitnessView:
        with self._faults("cosign"):
            key = WitnessKey.parse(self.views[SITE].identity_key)
            head, seconds = verify_cosignature(note, key)
            assert verify_checkpoint(note, self.log_key.public, ORIGIN) == head
            self.cosigned.append(note)
            moment = format_time(datetime.fromtimestamp(seconds, UTC))
            return WitnessView(
                witness=key.name,
                vkey=key.encoded(),
                size=head.size,
                cosigned_at=moment,
                note=note,
            )

    # --- PartService ----------------------------------------------------------------------------

    @property
    def subject_requests(self) -> Self:
        return self

    def publish_key(self, site: str, statement: SignedStatement) -> Recorded:
        with self._faults("publish_key"):
            verify_statement(statement, VerifyKey.parse(self.views[site].identity_key))
            stated = SiteSealingKey.from_body(statement.body)
            self.sealing_keys[site] = stated.key
            self.key_state = SealingKeyState(
                statement=statement.digest, generation=stated.generation, earlier_in_use=True
            )
        return Recorded(position=0)

    def work(self) -> SiteWork:
        with self._faults("parts"):
            parts = [part for part in self.asked.values() if part.request_id not in self.answered]
            return SiteWork(parts=tuple(parts), sealing_key=self.key_state)

    def take(self, request_id: str) -> Recorded:
        with self._faults("take"):
            part = self.asked[request_id]
            self.asked[request_id] = part.model_copy(update={"state": "taken"})
        return Recorded(position=0)

    def state_identity(self, request_id: str, identity: SignedStatement) -> Recorded:
        with self._faults("state_identity"):
            part = self.asked[request_id]
            sealed = self.held_back.pop(request_id)
            changes = {"stage": "at-sites", "state": "sent", "sealed": sealed}
            self.asked[request_id] = part.model_copy(update=changes)
            self.identities.append(identity)
        return Recorded(position=0)

    def releases(self, request_id: str) -> list[TrainedRelease]:
        return self.trained_releases

    def answer(
        self, request_id: str, answer: SignedStatement, *, package: bytes | None = None
    ) -> Recorded:
        with self._faults("answer"):
            stated = SubjectAnswer.from_body(answer.body)
            filed = {erasure.digest for erasure in self.erasures}
            if not set(stated.erasures) <= filed:
                raise MalformedInput("the site has filed no such erasure receipt")
            known = self.answered.setdefault(request_id, answer)
            if known.digest != answer.digest:
                raise Conflict("the site's part is answered")
            if package is not None:
                self.packages[request_id] = package
        return Recorded(position=0)

    def ask_site(
        self,
        right: SubjectRight,
        *subject_ids: str,
        proven: bool = True,
        request_id: str | None = None,
        **fields: Any,
    ) -> str:
        """A subject asks: what the service would show the site."""
        request_id = request_id or secrets.token_hex(16)
        sealed = seal_identifiers(
            Identifiers(subject_ids=subject_ids, **fields),
            self.sealing_keys[SITE],
            request_id=request_id,
            site=SITE,
        )
        if not proven:
            self.held_back[request_id] = sealed
        self.asked[request_id] = SitePart(
            request_id=request_id,
            right=right,
            jurisdiction="gdpr",
            stage="at-sites" if proven else "identity-pending",
            state="sent" if proven else "held",
            identity="site-verified",
            received_at=utc_now(),
            due_at=in_hours(24 * 30),
            reminders=0,
            sealed=sealed if proven else None,
        )
        return request_id

    # --- StatementService -----------------------------------------------------------------------

    def report_site(
        self, plan_id: str, report: SignedStatement, *more: SignedStatement
    ) -> Recorded:
        with self._faults("report_site"):
            filed = [self._file(self.reports, "site.reported", each) for each in (report, *more)]
            return filed[0]

    def report_refusal(self, refusal: SignedStatement) -> Recorded:
        with self._faults("report_refusal"):
            return self._file(self.refusals, "plan.refused", refusal)

    def report_erasure(self, erasure: SignedStatement) -> ErasureRecorded:
        with self._faults("report_erasure"):
            ErasureReceipt.from_body(erasure.body)
            position = self._file(self.erasures, "subject.erased", erasure).position
            shown = self.log_proof(position)
            receipt = Receipt(erasure, shown.leaf, shown.proof)
            return ErasureRecorded(position=position, receipt=receipt.to_json())

    # --- inside ---------------------------------------------------------------------------------

    def _file(
        self, shelf: list[SignedStatement], action: str, statement: SignedStatement
    ) -> Recorded:
        known = [item.digest for item in shelf]
        if statement.digest not in known:
            shelf.append(statement)
            return Recorded(position=self._log(action, statement))
        objects = {leaf.object: leaf.position for leaf in self.log.leaves()}
        return Recorded(position=objects[statement.log_object])

    def _log(self, action: str, statement: SignedStatement) -> int:
        entry = Entry("test", action, statement.log_object, None, {"at": utc_now()})
        return self.log.record(entry).position

    @contextmanager
    def _faults(self, method: str) -> Any:
        if method in self.fail:
            raise self.fail.pop(method)
        yield
        if method in self.fail_after:
            raise self.fail_after.pop(method)


def make_kit(
    coordinator: Coordinator, trust: Trust, *, hours: float = 24, **changes: Any
) -> dict[str, Any]:
    """A signed kit, as JSON; `changes` are made before it is signed."""
    body = {
        "federation": FEDERATION,
        "site": SITE,
        "fleet_address": "127.0.0.1:1",
        "ca_certificate": pem(coordinator.authority),
        "coordinator_key": coordinator.identity.public.encoded(),
        "compliance": trust.to_json(),
        "token": TOKEN,
        "expires_at": in_hours(hours),
        **changes,
    }
    return sign_statement(Kit.from_body(body).body(), coordinator.identity).to_json()


def write_kit(path: Path, envelope: dict[str, Any]) -> Path:
    path.write_text(json.dumps(envelope), encoding="utf-8")
    return path
