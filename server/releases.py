"""From a completed run to an encrypted release at the compliance service.

1. The final weights become a plain peft adapter, or a model of all weights; beside them lie model
   card, figures, bill of materials, provenance, and a signature over all files. What is neither
   safetensors nor text is refused.
2. The files are archived and encrypted with a random key that is used once (`server.content`).
3. The manifest (every file's digest, the ciphertext's, what it cost in privacy) is signed.
4. The data key is sealed to the compliance service's release key; it re-wraps it for a grantee.

* Each step can be repeated after a crash: nothing counts until the service has all of it.
* The data key is never written except sealed, so this folder alone does not open the ciphertext.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from audit.durable import write_durably
from audit.errors import Conflict, MalformedInput
from audit.statement import SignedStatement, sign_statement, verify_statement
from client.learning.aggregation import Iterate
from client.learning.base_model import resolve_base_model
from client.learning.metrics import EvaluationReport
from client.learning.tasks import build_model
from compliance.api import ComplianceClient
from compliance.resources import PlanEvidence, PlanView
from compliance.rules.starts import Part
from compliance.sealing import DATA_KEY_BYTES, SERVICE, seal_data_key
from compliance.statements import (
    GroupEvaluation,
    ReleaseEvaluation,
    ReleaseManifest,
    SiteReport,
    TrainingPlan,
    utc_now,
)
from server.content import digest_of, encrypt, write_archive
from server.datasets_told import datasets_told
from server.federation import Federation
from server.inert_files import require_inert
from server.ml_bom import BOM_FILE, ml_bom
from server.model_card import evaluation_file, json_file, labels_file, model_card
from server.model_signature import SIGNATURE_FILE, public_pem, sign_model
from server.privacy_statement import privacy_statement
from server.provenance import ATTESTATION_FILE, PROVENANCE_FILE, attestation, provenance
from server.runs import RunFolder, RunState
from server.starts import epsilon_with_start, read_line

_FOLDER_DIGITS = 16


@dataclass(frozen=True)
class Release:
    """A release that lies ready in a folder.

    Attributes:
        folder: Holds `manifest.json`, `content.sealed`, `key.sealed` and `files/`.
        manifest: The signed manifest; its digest is the release's id.
        sealed_key: The data key, sealed to the compliance service.
        ciphertext_bytes: Size of the content.
    """

    folder: Path
    manifest: SignedStatement
    sealed_key: bytes
    ciphertext_bytes: int

    @property
    def content(self) -> Path:
        """The ciphertext."""
        return self.folder / "content.sealed"


def build_release(
    federation: Federation,
    compliance: ComplianceClient,
    view: PlanView,
    plan: TrainingPlan,
    run: RunFolder,
    state: RunState,
    gather: Callable[[], PlanEvidence],
) -> Release:
    """Make the release of a completed run, or find the one that was made before a crash.

    Args:
        federation: This federation.
        compliance: Knows the plans that this one starts from.
        view: The plan as the service knows it.
        plan: The same, verified.
        run: Where the run is kept.
        state: How it ended.
        gather: Gives what was reported; asked only when there is a release to make.

    Raises:
        MalformedInput: When the run has no model or was not measured.
        FiduciaryError: When the base model or the evidence cannot be had.
    """
    folder = federation.releases / view.plan_id.removeprefix("sha256:")[:_FOLDER_DIGITS]
    made = _load(folder)
    if made is not None:
        return made
    iterate, metrics = run.model(state), state.metrics
    if iterate is None or metrics is None:
        raise MalformedInput(
            f"the run of {plan.name} has no measured model", fix="run a new plan: server submit"
        )
    evidence = gather()
    epsilon_by_site = spent_by_site(evidence, state)
    line = read_line(compliance, federation.identity.public, view.plan_id, plan)
    building = folder.with_name(f".{folder.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    (building / "files").mkdir(parents=True, mode=0o700)
    _write_model(building / "files", plan, iterate)
    _write_documents(
        federation, building / "files", plan, view, evidence, state, epsilon_by_site, line
    )
    files = _digests(building / "files")
    data_key = secrets.token_bytes(DATA_KEY_BYTES)
    archive = building / "content.tar"
    write_archive({name: (building / "files" / name).read_bytes() for name in files}, archive)
    encrypt(archive, building / "content.sealed", data_key)
    archive.unlink()
    manifest = ReleaseManifest(
        name=plan.name,
        plan_id=view.plan_id,
        base_model=plan.base_model,
        files=files,
        ciphertext_digest=digest_of(building / "content.sealed"),
        ciphertext_bytes=(building / "content.sealed").stat().st_size,
        delta=plan.privacy.delta,
        epsilon_by_site=epsilon_by_site,
        metrics=metrics,
        created_at=utc_now(),
        evaluation=told_evaluation(state.evaluation),
        model_signing_key=public_pem(federation.model_signing_key.public_key()),
        epsilon_with_start=epsilon_with_start(line),
    )
    statement = sign_statement(manifest.body(), federation.identity)
    sealed = seal_data_key(
        data_key, federation.trust.release_key, release_id=statement.digest, recipient=SERVICE
    )
    write_durably(building / "manifest.json", json.dumps(statement.to_json()).encode("utf-8"))
    write_durably(building / "key.sealed", sealed)
    building.rename(folder)
    return Release(folder, statement, sealed, manifest.ciphertext_bytes)


def publish(federation: Federation, compliance: ComplianceClient, release: Release) -> str:
    """Announce and upload a release; again after a crash, without harm.

    Returns:
        The release's id.
    """
    verify_statement(release.manifest, federation.identity.public)
    answer = compliance.submit_release(release.manifest, sealed_key=release.sealed_key)
    view = compliance.release(answer.release_id)
    if view.state == "announced":
        # A conflict means that an earlier upload arrived whole, and its answer was lost.
        with contextlib.suppress(Conflict):
            compliance.upload_release(answer.release_id, release.content)
    return answer.release_id


def unreported(evidence: PlanEvidence, state: RunState) -> tuple[str, ...]:
    """Sites that took part in a round whose report of it the service does not have yet."""
    reports = (SiteReport.from_body(statement.body) for statement in evidence.reports)
    found = {(report.round, report.site) for report in reports}
    expected = {(done.round, site) for done in state.history for site in done.participants}
    return tuple(sorted({site for _, site in expected - found}))


def spent_by_site(evidence: PlanEvidence, state: RunState) -> dict[str, Decimal]:
    """The most that each site reported to have spent, to the coordinator or to the service.

    A site whose answer came too late has spent its budget all the same.
    """
    spent = dict(state.epsilon_by_site)
    for statement in evidence.reports:
        report = SiteReport.from_body(statement.body)
        spent[report.site] = max(spent.get(report.site, Decimal(0)), report.epsilon_spent)
    return dict(sorted(spent.items()))


def audited_by_site(evidence: PlanEvidence) -> dict[str, Decimal]:
    """The largest lower bound on ε that each site's own audit found; none where none was asked."""
    found: dict[str, Decimal] = {}
    for statement in evidence.reports:
        report = SiteReport.from_body(statement.body)
        if report.audited_epsilon is not None:
            found[report.site] = max(found.get(report.site, Decimal(0)), report.audited_epsilon)
    return dict(sorted(found.items()))


def told_evaluation(report: EvaluationReport | None) -> ReleaseEvaluation | None:
    """Of what was measured, what a gate looks at: accuracies with their 95 % intervals."""
    if report is None:
        return None
    low, high = report.everybody.accuracy_interval
    return ReleaseEvaluation(
        accuracy_low=_decimal(low),
        accuracy_high=_decimal(high),
        groups=tuple(
            GroupEvaluation(
                group=group,
                examples=figures.examples,
                accuracy=_decimal(figures.accuracy),
                low=_decimal(figures.accuracy_interval[0]),
                high=_decimal(figures.accuracy_interval[1]),
            )
            for group, figures in sorted(report.slices.items())
        ),
    )


def _decimal(value: float) -> Decimal:
    return Decimal(f"{value:.6f}")


def _write_model(folder: Path, plan: TrainingPlan, iterate: Iterate) -> None:
    model = build_model(plan, resolve_base_model(plan.base_model.name))
    model.set_state(iterate.average)
    model.save(folder)


def _write_documents(
    federation: Federation,
    folder: Path,
    plan: TrainingPlan,
    view: PlanView,
    evidence: PlanEvidence,
    state: RunState,
    epsilon_by_site: dict[str, Decimal],
    line: tuple[Part, ...],
) -> None:
    """Each names those before it; the signature names them all. The same run, the same octets."""
    audited, datasets = audited_by_site(evidence), datasets_told(evidence)
    bill = ml_bom(
        plan,
        view.plan_id,
        state,
        files=_digests(folder),
        epsilon_by_site=epsilon_by_site,
        datasets=datasets,
    )
    documents = {
        "README.md": model_card(
            plan, view.plan_id, state, epsilon_by_site, audited, datasets, line
        ),
        "dp_statement.json": json_file(
            privacy_statement(plan, view.plan_id, epsilon_by_site, audited, line)
        ),
        BOM_FILE: json_file(bill),
    }
    if plan.labels:
        documents["labels.json"] = labels_file(plan)
    if state.evaluation is not None:
        documents["evaluation.json"] = evaluation_file(state.evaluation)
    for name, data in documents.items():
        (folder / name).write_bytes(data)
    statement = json_file(
        provenance(
            plan,
            view,
            evidence,
            state,
            files=_digests(folder),
            epsilon_by_site=epsilon_by_site,
            datasets=datasets,
            line=line,
        )
    )
    (folder / PROVENANCE_FILE).write_bytes(statement)
    (folder / ATTESTATION_FILE).write_bytes(attestation(statement, federation.identity))
    signature = sign_model(plan.name, _digests(folder), federation.model_signing_key)
    (folder / SIGNATURE_FILE).write_bytes(signature)
    for path in folder.iterdir():
        require_inert(path)


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: digest_of(path) for path in sorted(folder.iterdir())}


def _load(folder: Path) -> Release | None:
    try:
        manifest = SignedStatement.from_json(json.loads((folder / "manifest.json").read_bytes()))
        sealed = (folder / "key.sealed").read_bytes()
        size_bytes = (folder / "content.sealed").stat().st_size
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise MalformedInput(
            f"malformed release in {folder}: {error}", fix=f"remove {folder}; it is made again"
        ) from error
    return Release(folder, manifest, sealed, size_bytes)
