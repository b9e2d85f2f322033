"""What lies in a release is what others' tools read, and cannot run code."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import model_signing
import numpy as np
import pytest
from cryptography.exceptions import InvalidSignature
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from huggingface_hub import ModelCard
from safetensors.numpy import save_file

from audit.errors import MalformedInput, VerificationFailed
from audit.keys import SigningKey
from audit.statement import pre_authentication_encoding, sign_statement
from client.learning.evaluation import Evaluation
from client.learning.metrics import EvaluationReport, evaluation_report
from compliance.resources import PlanEvidence, PlanView
from compliance.statements import DeidentificationFigures, Metrics, SiteReport, TrainingPlan
from server.authority import generate_key
from server.content import digest_of, extract, write_archive
from server.datasets_told import DatasetTold, datasets_told
from server.federation import Federation
from server.inert_files import require_inert
from server.ml_bom import ml_bom
from server.model_card import model_card
from server.model_signature import SIGNATURE_FILE, public_pem, sign_model, verify_model
from server.provenance import attestation, provenance
from server.releases import told_evaluation, unreported
from server.runs import RoundSummary, RunState
from tests.server.conftest import plan_of
from tests.server.scripted import counts_of

PLAN = plan_of()
DIGEST = f"sha256:{'a' * 64}"
TIME = "2026-01-31T12:00:00Z"
SPENT = {"lakeside": Decimal("1.25"), "st-elm": Decimal("3.5")}
FILES = {"adapter_config.json": DIGEST, "adapter_model.safetensors": DIGEST}
KEY = generate_key()
COORDINATOR = SigningKey.generate("demo/coordinator")


MEASURED = DeidentificationFigures(
    method="evaluation",
    recall=Decimal("0.98"),
    recall_at_least=Decimal("0.95"),
    leak_share=Decimal("0.02"),
    leak_share_at_most=Decimal("0.05"),
    measured_at="2026-01-02T12:00:00Z",
)


def report(site: str) -> SiteReport:
    return SiteReport(
        plan_id=DIGEST,
        site=site,
        round=0,
        activity="train",
        steps=1,
        epsilon_spent=SPENT[site],
        update_digest=DIGEST,
        dataset_digest=f"sha256:{site.encode().hex():0<64}",
        base_model_digest=PLAN.base_model.digest,
        deidentification_digest=DIGEST,
        software="fiduciary 0.1.0",
        reported_at=TIME,
        deidentification=(MEASURED,) if site == "lakeside" else (),
    )


EVIDENCE = PlanEvidence(
    rounds=(),
    reports=tuple(
        sign_statement(report(site).body(), COORDINATOR) for site in ("st-elm", "lakeside")
    ),
)
VIEW = PlanView(
    plan_id=DIGEST,
    state="completed",
    statement=sign_statement(PLAN.body(), COORDINATOR),
    submitted_by="coordinator",
    submitted_at=TIME,
    submitted_position=7,
    approval=None,
    rejection=None,
    approved_position=9,
    rounds_reported=1,
    outcome=None,
)


def measured(plan: TrainingPlan = PLAN) -> EvaluationReport:
    count = len(plan.labels)
    counts = counts_of(np.eye(count, dtype=int) * 20 + 1)
    return evaluation_report(Evaluation.from_arrays(counts, count), list(plan.labels))


def state() -> RunState:
    summary = RoundSummary(
        round=0,
        phase="probe",
        participants=("lakeside", "st-elm"),
        absent={},
        report=DIGEST,
        state_digest=DIGEST,
        metrics=Metrics(accuracy=Decimal("0.9"), macro_f1=Decimal("0.8"), examples=69),
        seconds=1,
    )
    return RunState(
        plan_id=DIGEST,
        name=PLAN.name,
        rounds=1,
        rounds_done=1,
        history=(summary,),
        epsilon_by_site=SPENT,
        evaluation=measured(),
        started_at=TIME,
        updated_at=TIME,
    )


def bill(datasets: tuple[DatasetTold, ...] = datasets_told(EVIDENCE)) -> dict[str, Any]:
    return ml_bom(PLAN, DIGEST, state(), files=FILES, epsilon_by_site=SPENT, datasets=datasets)


def stated() -> dict[str, Any]:
    return provenance(
        PLAN,
        VIEW,
        EVIDENCE,
        state(),
        files=FILES,
        epsilon_by_site=SPENT,
        datasets=datasets_told(EVIDENCE),
    )


# --- model.sig -----------------------------------------------------------------------------------


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    """A release's folder with its signature; the key lies beside it."""
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"w": np.arange(6.0)}, folder / "adapter_model.safetensors")
    (folder / "README.md").write_text("# a model\n")
    (folder / "adapter_config.json").write_text("{}")
    digests = {path.name: digest_of(path) for path in folder.iterdir()}
    (folder / SIGNATURE_FILE).write_bytes(sign_model("triage", digests, KEY))
    (tmp_path / "key.pem").write_text(public_pem(KEY.public_key()))
    return folder


def theirs(folder: Path, key: str = "key.pem") -> None:
    """Verify with the project's own library."""
    config = model_signing.verifying.Config()  # type: ignore[no-untyped-call]
    config.use_elliptic_key_verifier(public_key=folder.parent / key)
    config.verify(folder, folder / SIGNATURE_FILE)


def _appended(folder: Path) -> None:
    with (folder / "adapter_model.safetensors").open("ab") as file:
        file.write(b"x")


def _another_payload(folder: Path) -> None:
    path = folder / SIGNATURE_FILE
    bundle = json.loads(path.read_text())
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    statement["subject"][0]["name"] = "another"
    altered = base64.b64encode(json.dumps(statement).encode()).decode()
    bundle["dsseEnvelope"]["payload"] = altered
    path.write_text(json.dumps(bundle))


TAMPERED: list[Callable[[Path], object]] = [
    _appended,
    lambda folder: (folder / "README.md").write_text("# another\n"),
    lambda folder: (folder / "README.md").unlink(),
    lambda folder: (folder / "more.json").write_text("{}"),
    _another_payload,
]


def test_the_projects_own_tool_verifies_the_signature(signed: Path) -> None:
    theirs(signed)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "model_signing", "verify", "key", str(signed)),
            *("--signature", str(signed / SIGNATURE_FILE)),
            *("--public_key", str(signed.parent / "key.pem")),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "succeeded" in done.stdout + done.stderr


@pytest.mark.parametrize("tamper", TAMPERED)
def test_the_projects_own_tool_refuses_what_was_altered(
    signed: Path, tamper: Callable[[Path], object]
) -> None:
    tamper(signed)
    with pytest.raises((ValueError, InvalidSignature)):
        theirs(signed)


def test_another_key_is_refused_by_both(signed: Path) -> None:
    other = public_pem(generate_key().public_key())
    (signed.parent / "other.pem").write_text(other)
    with pytest.raises(ValueError, match="Key mismatch"):
        theirs(signed, "other.pem")
    files = {path.name: digest_of(path) for path in signed.iterdir() if path.suffix != ".sig"}
    signature = (signed / SIGNATURE_FILE).read_bytes()
    verify_model(signature, files, public_pem(KEY.public_key()))
    with pytest.raises(VerificationFailed, match="not by the key"):
        verify_model(signature, files, other)
    with pytest.raises(VerificationFailed, match="other files"):
        verify_model(signature, {**files, "more.json": DIGEST}, public_pem(KEY.public_key()))
    for data in (b"", b"{}", b"[]", b"\x80\x04.", signature[:-20]):
        with pytest.raises(MalformedInput, match=r"model\.sig"):
            verify_model(data, files, public_pem(KEY.public_key()))
    with pytest.raises(MalformedInput, match="signing key"):
        verify_model(signature, files, "no key")


def test_the_key_is_made_once_and_is_private(tmp_path: Path) -> None:
    federation = Federation(tmp_path, cast(Any, "no setting is read"))
    first = federation.model_signing_key
    assert federation.model_signing_key.private_numbers() == first.private_numbers()
    path = tmp_path / "models/signing.pem"
    assert path.stat().st_mode & 0o077 == 0
    path.chmod(0o644)
    with pytest.raises(MalformedInput, match="open to others"):
        _ = federation.model_signing_key


# --- documents -----------------------------------------------------------------------------------


def test_the_bill_of_materials_is_cyclonedx() -> None:
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(json.dumps(bill())) is None
    assert validator.validate_str(json.dumps(bill(()))) is None
    wrong = bill()
    wrong["metadata"]["component"]["modelCard"]["quantitative"] = {}
    assert validator.validate_str(json.dumps(wrong)) is not None


def test_the_bill_names_what_the_model_is_made_of() -> None:
    told = bill()
    assert told["serialNumber"] == bill()["serialNumber"] != bill_of_other()["serialNumber"]
    references = {part["bom-ref"] for part in told["components"]}
    assert told["dependencies"] == [
        {"ref": "model", "dependsOn": [part["bom-ref"] for part in told["components"]]}
    ]
    assert {"base-model", "file:adapter_model.safetensors", "library:torch", "python"} <= references
    card = told["metadata"]["component"]["modelCard"]
    used = [each["ref"] for each in card["modelParameters"]["datasets"]]
    assert len(used) == 2
    assert set(used) <= references
    (everybody,) = card["quantitativeAnalysis"]["performanceMetrics"]
    low, high = measured().everybody.accuracy_interval
    assert everybody == {
        "type": "accuracy",
        "value": f"{measured().everybody.accuracy}",
        "slice": "everybody",
        "confidenceInterval": {"lowerBound": f"{low}", "upperBound": f"{high}"},
    }
    properties = told["metadata"]["component"]["properties"]
    assert {"name": "fiduciary:epsilon:st-elm", "value": "3.5"} in properties


def bill_of_other() -> dict[str, Any]:
    files = {**FILES, "adapter_model.safetensors": f"sha256:{'b' * 64}"}
    return ml_bom(PLAN, DIGEST, state(), files=files, epsilon_by_site=SPENT, datasets=())


def test_the_card_is_one_that_model_hubs_read() -> None:
    text = model_card(PLAN, DIGEST, state(), SPENT, None, datasets_told(EVIDENCE)).decode()
    data = ModelCard(text).data.to_dict()  # type: ignore[no-untyped-call]
    assert data["pipeline_tag"] == "text-classification"
    ((index,),) = (data["model-index"],)
    (result,) = index["results"]
    assert result["metrics"] == [{"type": "accuracy", "value": measured().everybody.accuracy}]
    low, high = measured().everybody.accuracy_interval
    for said in (
        "## Intended use",
        f"For the purpose `{PLAN.purpose}` alone",
        f"| everybody | {measured().everybody.examples} | {measured().everybody.accuracy} | "
        f"{low} to {high} | macro F1",
        "| st-elm | 3.5 |",
        "## Limitations",
        "declares no groups",
        f"| lakeside | `{datasets_told(EVIDENCE)[0].digest[:23]}…` | `{DIGEST[:23]}…` | "
        "at least 0.95, texts with a leak at most 0.05 (evaluation of 2026-01-02) |",
        f"| st-elm | `{datasets_told(EVIDENCE)[1].digest[:23]}…` | `{DIGEST[:23]}…` | "
        "not measured |",
    ):
        assert said in text, said


def test_provenance_is_in_toto_and_the_attestation_is_the_same_signed() -> None:
    predicate = stated()["predicate"]
    assert predicate["base_model"] == {
        "name": PLAN.base_model.name,
        "digest": PLAN.base_model.digest,
    }
    assert predicate["privacy"]["epsilon_by_site"] == {"lakeside": "1.25", "st-elm": "3.5"}
    assert [each["site"] for each in predicate["datasets"]] == ["lakeside", "st-elm"]
    told = [each["deidentification"] for each in predicate["datasets"]]
    assert told == [[MEASURED.model_dump(mode="json")], []]
    assert predicate["software"]["fiduciary"]
    statement = json.dumps(stated()).encode()
    (line,) = attestation(statement, COORDINATOR).splitlines()
    envelope = json.loads(line)
    assert base64.b64decode(envelope["payload"]) == statement
    (signature,) = envelope["signatures"]
    message = pre_authentication_encoding("application/vnd.in-toto+json", statement)
    COORDINATOR.public.verify(message, base64.b64decode(signature["sig"]))
    assert signature["keyid"] == COORDINATOR.public.key_id
    assert attestation(statement, COORDINATOR) == attestation(statement, COORDINATOR)


def test_what_gates_look_at_is_what_was_measured() -> None:
    told = told_evaluation(measured())
    assert told is not None
    low, high = measured().everybody.accuracy_interval
    assert (float(told.accuracy_low), float(told.accuracy_high)) == (low, high)
    assert told.groups == ()
    assert told_evaluation(None) is None


# --- what may be in it ---------------------------------------------------------------------------


def _safetensors(tmp_path: Path) -> bytes:
    save_file({"w": np.arange(6.0)}, tmp_path / "good.safetensors")
    return (tmp_path / "good.safetensors").read_bytes()


def _pickles() -> dict[str, bytes]:
    import io
    import pickle
    import zipfile

    data = {"w": [1.0, 2.0]}
    found = {f"protocol {number}": pickle.dumps(data, number) for number in range(6)}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", found["protocol 2"])
    return {**found, "torch zip": archive.getvalue()}


@pytest.mark.parametrize("kind", sorted(_pickles()))
@pytest.mark.parametrize(
    "name",
    ["model.pkl", "pytorch_model.bin", "w.pt", "w.safetensors", "config.json", "model.sig", "x"],
)
def test_a_pickle_in_a_release_is_refused_under_any_name(
    tmp_path: Path, name: str, kind: str
) -> None:
    """In a bundle whose every digest was signed."""
    files = {name: _pickles()[kind], "README.md": b"# a model\n"}
    expected = {}
    for each, data in files.items():
        (tmp_path / each).write_bytes(data)
        expected[each] = digest_of(tmp_path / each)
    write_archive(files, tmp_path / "content.tar")
    with pytest.raises(VerificationFailed, match=r"safetensors|text|name says"):
        extract(tmp_path / "content.tar", tmp_path / "out", expected)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize("kind", ["protocol 2", "protocol 5", "torch zip"])
def test_a_binary_pickle_is_no_text(tmp_path: Path, kind: str) -> None:
    (tmp_path / "README.md").write_bytes(_pickles()[kind])
    with pytest.raises(VerificationFailed):
        require_inert(tmp_path / "README.md")


def test_safetensors_are_so_to_the_last_octet(tmp_path: Path) -> None:
    good = _safetensors(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(good)
    require_inert(path)
    for altered in (good + b"x", good[:-1], b"x" + good, good[:8], b"", b"\xff" * 8 + good[8:]):
        path.write_bytes(altered)
        with pytest.raises(VerificationFailed, match="not safetensors"):
            require_inert(path)
    save_file({}, path)
    with pytest.raises(VerificationFailed, match="no tensor"):
        require_inert(path)


def test_text_is_text(tmp_path: Path) -> None:
    for name, data, is_fine in (
        ("a.json", b'{"a": 1}', True),
        ("a.json", b"{", False),
        ("a.json", b'"\x00"', False),
        ("a.jsonl", b"{}\n{}\n", True),
        ("a.jsonl", b"{}\nno\n", False),
        ("a.md", "# Größe → ε\n".encode(), True),
        ("a.txt", b"\x1b[31m", False),
        ("a.json", b"[" * 100_000, False),
    ):
        (tmp_path / name).write_bytes(data)
        if is_fine:
            require_inert(tmp_path / name)
        else:
            with pytest.raises(VerificationFailed):
                require_inert(tmp_path / name)


# --- reports that are awaited ---------------------------------------------------------------------


def test_a_site_whose_report_of_a_round_has_not_come_is_named() -> None:
    assert unreported(EVIDENCE, state()) == ()
    (lakeside,) = (one for one in EVIDENCE.reports if one.body["site"] == "lakeside")
    late = PlanEvidence(rounds=(), reports=(lakeside,))
    assert unreported(late, state()) == ("st-elm",)
    twice = state()
    again = twice.history[0].model_copy(update={"round": 1})
    longer = twice.model_copy(update={"history": (*twice.history, again)})
    assert unreported(EVIDENCE, longer) == ("lakeside", "st-elm")
