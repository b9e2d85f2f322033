"""Where a release comes from, as an in-toto statement: `provenance.json`. Pure.

* SLSA's questions (https://slsa.dev/spec/v1.0/provenance) with our own predicate: what was asked
  (the plan and its approval), from what (base model, datasets), by whom and with what (sites,
  software), and what happened (rounds, ε, outcome).
* `provenance.intoto.jsonl` holds the same statement, octet for octet, in a DSSE envelope that the
  coordinator's identity signed: the form in which in-toto's tools pass attestations on.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from audit.canonical import canonical_bytes
from audit.keys import SigningKey
from audit.statement import pre_authentication_encoding
from compliance.resources import PlanEvidence, PlanView
from compliance.rules.starts import Part
from compliance.statements import TrainingPlan
from server.datasets_told import DatasetTold
from server.model_signature import IN_TOTO_PAYLOAD, IN_TOTO_STATEMENT
from server.runs import RunState
from server.software import software_versions

PROVENANCE_FILE: Final = "provenance.json"
ATTESTATION_FILE: Final = "provenance.intoto.jsonl"
PREDICATE: Final = "urn:fiduciary:predicate:training-run:3"


def provenance(
    plan: TrainingPlan,
    view: PlanView,
    evidence: PlanEvidence,
    state: RunState,
    *,
    files: Mapping[str, str],
    epsilon_by_site: Mapping[str, Decimal],
    datasets: Sequence[DatasetTold],
    line: Sequence[Part] = (),
) -> dict[str, Any]:
    """The statement about the other files; `line` says what the plan starts from, oldest first."""
    return {
        "_type": IN_TOTO_STATEMENT,
        "subject": [
            {"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}}
            for name, digest in sorted(files.items())
        ],
        "predicateType": PREDICATE,
        "predicate": {
            "plan_id": view.plan_id,
            "plan": view.statement.to_json(),
            "approval": None if view.approval is None else view.approval.to_json(),
            "log_positions": {
                "submitted": view.submitted_position,
                "approved": view.approved_position,
            },
            "base_model": plan.base_model.model_dump(mode="json"),
            "starts_from": [
                {"plan_id": part.plan_id, "plan": part.plan.body(), "rounds": part.rounds}
                for part in line[:-1]
            ],
            "datasets": [
                {
                    "site": each.site,
                    "digest": each.digest,
                    "deidentification_digest": each.deidentification,
                    "deidentification": [
                        figures.model_dump(mode="json") for figures in each.measured
                    ],
                }
                for each in datasets
            ],
            "outcome": state.outcome,
            "rounds_missed": [each.round for each in state.history if each.missed],
            "rounds": [item.to_json() for item in evidence.rounds],
            "site_reports": sorted(item.digest for item in evidence.reports),
            "sites": sorted(state.epsilon_by_site),
            "privacy": {
                "unit": plan.privacy.unit,
                "delta": f"{plan.privacy.delta:f}",
                "epsilon_by_site": {
                    site: f"{spent:f}" for site, spent in sorted(epsilon_by_site.items())
                },
            },
            "software": software_versions(),
        },
    }


def attestation(statement: bytes, key: SigningKey) -> bytes:
    """`provenance.intoto.jsonl`: one DSSE envelope of the statement, on one line.

    Args:
        statement: The content of `provenance.json`.
        key: The coordinator's identity.
    """
    signature = key.sign(pre_authentication_encoding(IN_TOTO_PAYLOAD, statement))
    envelope = {
        "payload": base64.b64encode(statement).decode("ascii"),
        "payloadType": IN_TOTO_PAYLOAD,
        "signatures": [
            {"keyid": key.public.key_id, "sig": base64.b64encode(signature).decode("ascii")}
        ],
    }
    return canonical_bytes(envelope) + b"\n"
