"""Sites that do as they are told: real keys, real TLS, real signed reports, and a script."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from audit.errors import FiduciaryError
from audit.keys import SigningKey
from audit.statement import sign_statement
from client.arrays import arrays_digest, pack_arrays
from client.deflated import deflate, open_arrays
from client.fleet_tasks import IncomingTask
from client.flower import FleetConnection
from client.kit import Kit, read_kit
from client.learning.evaluation import Evaluation, EvaluationCounts
from client.learning.plan_model import State
from client.learning.randomness import Keystream
from client.learning.travelling import (
    Activity,
    check_names,
    chosen,
    names_in_task,
    names_in_update,
)
from client.transport import encode
from compliance.api import ComplianceClient
from compliance.statements import SiteEnrolment, SiteReport, TrainingPlan, utc_now
from server import authority

NO_DIGEST = f"sha256:{'0' * 64}"

INITIAL: State = {
    "head.bias": np.zeros(3, dtype=np.float32),
    "head.weight": np.zeros((3, 4), dtype=np.float32),
}
"""The model of scripted sites' plans before the first round, as every party builds it."""


def request_for(name: str, key: ec.EllipticCurvePrivateKey) -> str:
    """A PKCS #10 request."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return request.sign(key, hashes.SHA384()).public_bytes(Encoding.PEM).decode("ascii")


@dataclass
class SiteFiles:
    """What a site has on disk."""

    name: str
    folder: Path
    identity: SigningKey
    kit: Kit
    token: str = ""

    @property
    def certificate(self) -> Path:
        return self.folder / "certificate.pem"

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def key(self) -> Path:
        return self.folder / "node.pem"

    def connect(self) -> FleetConnection:
        return FleetConnection(self.kit.fleet_address, self.ca, self.certificate, self.key)

    def fetch_certificate(self) -> None:
        with ComplianceClient(self.kit.trust, self.token) as compliance:
            view = compliance.site(self.name)
        if view.certificate is None:
            raise AssertionError(f"{self.name} was not admitted")
        self.certificate.write_text(view.certificate)


def enrol(kit_file: Path, folder: Path) -> SiteFiles:
    """Join as `client join` does, up to the coordinator's admission."""
    read = read_kit(kit_file.read_bytes(), now=datetime.now(UTC))
    kit, name = read.kit, read.kit.site
    folder.mkdir(parents=True)
    key, identity = authority.generate_key(), SigningKey.generate(f"{name}/identity")
    site = SiteFiles(name, folder, identity, kit)
    site.key.write_bytes(authority.private_pem(key))
    site.ca.write_text(kit.ca_certificate)
    enrolment = SiteEnrolment(
        federation=kit.federation,
        site=name,
        identity_key=identity.public.encoded(),
        certificate_request=request_for(name, key),
        requested_at=utc_now(),
    )
    with ComplianceClient(kit.trust) as compliance:
        answer = compliance.enrol(
            token=kit.token,
            kit_sha256=read.sha256,
            statement=sign_statement(enrolment.body(), identity),
        )
    site.token = answer.site_token
    return site


Arrays = Mapping[str, npt.NDArray[Any]]


def counts_of(confusion: npt.ArrayLike) -> dict[str, npt.NDArray[Any]]:
    """What a site sends whose model, always equally sure, confuses labels so."""
    matrix = np.asarray(confusion)
    true, predicted = np.nonzero(matrix)
    often = matrix[true, predicted]
    logits = 2.0 * np.eye(len(matrix))[np.repeat(predicted, often)]
    return Evaluation(EvaluationCounts.count(np.repeat(true, often), logits)).to_arrays()


@dataclass
class Script:
    """What a scripted site does; each part can be replaced.

    Attributes:
        update: Update for a state.
        alter: Changes the arrays that are sent, after the report was signed.
        claim: Changes fields of the signed report.
        envelope: Changes the unsigned report.
        silent: Kinds of tasks to take and never answer.
        refuse: Say no, with this code, to tasks of `refused_kinds`.
        delay_seconds: Wait before answering.
        delivers: Hand each report in at the compliance service, as real sites do.
    """

    update: Callable[[Arrays], Arrays] = lambda state: {
        name: np.full_like(array, 0.125) for name, array in state.items()
    }
    alter: Callable[[Arrays], Arrays] = lambda arrays: arrays
    claim: Callable[[dict[str, Any]], dict[str, Any]] = lambda report: report
    envelope: Callable[[dict[str, Any]], dict[str, Any]] = lambda report: report
    silent: tuple[str, ...] = ()
    refuse: str = ""
    refused_kinds: tuple[str, ...] = ("train", "evaluate")
    delay_seconds: float = 0.0
    delivers: bool = False
    counts: Callable[[int], Arrays] = lambda labels: counts_of(np.eye(labels, dtype=int) * 8 + 1)


@dataclass
class ScriptedSite:
    """A site in a thread; a context manager."""

    files: SiteFiles
    plan: TrainingPlan
    script: Script = field(default_factory=Script)
    seen: list[tuple[str, int]] = field(default_factory=list)
    taken: list[bool] = field(default_factory=list)
    failure: BaseException | None = None
    initial: State = field(default_factory=lambda: INITIAL)
    bytes_sent: dict[tuple[str, int], int] = field(default_factory=dict)
    bytes_received: dict[tuple[str, int], int] = field(default_factory=dict)

    def __enter__(self) -> ScriptedSite:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)

    def _run(self) -> None:
        while not self._stop.is_set():
            with suppress(FiduciaryError), self.files.connect() as connection:
                while not self._stop.is_set():
                    task = connection.poll(0.1)
                    if task is not None:
                        self._answer(connection, task)
            self._stop.wait(0.05)

    def _answer(self, connection: FleetConnection, task: IncomingTask) -> None:
        self.seen.append((task.kind, task.round))
        if task.kind in self.script.silent:
            return
        if self.script.delay_seconds:
            time.sleep(self.script.delay_seconds)
        if self.script.refuse and task.kind in self.script.refused_kinds:
            connection.reply_refusal(task, self.script.refuse, "the script says no", "{}")
            return
        if task.kind == "train":
            arrays = self.travelling(task)
        else:
            arrays = self.script.counts(len(self.plan.labels))
        report = self.report(task, arrays)
        arrays = self.script.alter(arrays)
        self.note_bytes(task, arrays)
        self.taken.append(connection.reply_arrays(task, arrays, report))

    def state(self, task: IncomingTask) -> State:
        """The global state, of what travelled and the model as built."""
        activity: Activity = "evaluate" if task.kind == "evaluate" else "train"
        wanted = names_in_task(self.plan, activity, task.round, self.initial)
        compression = self.plan.transport.compression
        arrays = open_arrays(task.state, task.deflated, compression, self.initial)
        check_names(arrays, wanted)
        return {**self.initial, **arrays}

    def update(self, task: IncomingTask) -> Arrays:
        """What the script makes of it, as far as the phase trains it."""
        update = self.script.update(self.state(task))
        return chosen(update, names_in_update(self.plan, task.round, update))

    def travelling(self, task: IncomingTask) -> Arrays:
        """The same, as it travels."""
        precision, update = self.plan.transport.precision, self.update(task)
        if precision == "float32":
            return update  # also what `encode` refuses
        return encode(update, precision, Keystream(b"scripted"))

    def note_bytes(self, task: IncomingTask, arrays: Arrays) -> None:
        """Count the documents of a task and its answer."""
        asked = (task.kind, task.round)
        self.bytes_received[asked] = len(task.deflated) or len(pack_arrays(task.state))
        document = pack_arrays(arrays)
        self.bytes_sent[asked] = len(deflate(document) if task.deflated else document)

    def activity_of(self, task: IncomingTask) -> str:
        """What a report of the answer to a task is about."""
        return task.kind

    def report(self, task: IncomingTask, arrays: Arrays) -> dict[str, Any]:
        body = SiteReport(
            plan_id=task.plan_id,
            site=self.files.name,
            round=task.round,
            activity=self.activity_of(task),
            steps=1,
            epsilon_spent=Decimal(task.round + 1) / 10,
            update_digest=arrays_digest(arrays),
            dataset_digest=NO_DIGEST,
            base_model_digest=self.plan.base_model.digest,
            deidentification_digest=NO_DIGEST,
            software="scripted",
            reported_at=utc_now(),
        ).body()
        statement = sign_statement(self.script.claim(body), self.files.identity)
        if self.script.delivers:
            shown = (self.files.certificate, self.files.key)
            with ComplianceClient(
                self.files.kit.trust, self.files.token, certificate=shown
            ) as compliance:
                compliance.report_site(task.plan_id, statement)
        return self.script.envelope(
            {"site": self.files.name, "statement": json.dumps(statement.to_json())}
        )


def counting(answers: list[int]) -> Script:
    """Sends an update of another size each time it trains."""

    def update(state: Arrays) -> Arrays:
        answers.append(len(answers) + 1)
        return {name: np.full_like(array, answers[-1]) for name, array in state.items()}

    return Script(update=update)


def kept(script: Script, answers: dict[str, Arrays]) -> Script:
    """Keeps its answers, as real sites do, and counts how often it trains."""
    train = script.update

    def update(state: Arrays) -> Arrays:
        asked = arrays_digest(state)
        if asked not in answers:
            answers[asked] = train(state)
        return answers[asked]

    return Script(update=update)
