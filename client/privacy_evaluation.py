"""Evaluates what a plan promises, at a site: canaries for its mechanism, an attack on its model.

* The audit trains made-up subjects and spends no budget (`client.learning.privacy_audit`).
* The attack reads the site's own records, here; only figures over all subjects come out, and they
  stay at the site (`client.learning.membership`).
* What was found is journalled before anybody is told, whatever it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from audit.errors import MalformedInput, NotFound
from audit.keys import VerifyKey
from audit.log import Entry
from audit.statement import SignedStatement, verify_statement
from client.arrays import Arrays, unpack_arrays
from client.base_models import find_base_model
from client.drafts import draft_promise
from client.example_split import read_split
from client.learning.membership import AttackResult, attack
from client.learning.privacy_audit import AuditResult, LowerBound, audit_mechanism
from client.learning.tasks import build_model
from client.ledger import Ledger
from client.site import Site
from client.vault.store import Vault
from compliance.statements import Phase, Privacy, TrainingPlan

ACTION = "privacy-evaluated"

MAX_PLAN_BYTES = 16 * 1024 * 1024
MAX_MODEL_BYTES = 2 * 1024**3

_RELEASE_FILES = ("adapter_model.safetensors", "model.safetensors")


@dataclass(frozen=True)
class Promise:
    """What is evaluated.

    Attributes:
        plan_id: Digest of the signed plan; "draft" for one that nobody has signed.
        plan_name: Its name.
        phases: What it trains, with which noise.
        privacy: What it promises.
        plan: All of it; None for a draft.
    """

    plan_id: str
    plan_name: str
    phases: tuple[Phase, ...]
    privacy: Privacy
    plan: TrainingPlan | None

    @classmethod
    def of(cls, plan_id: str, plan: TrainingPlan) -> Promise:
        """What a signed plan promises."""
        return cls(plan_id, plan.name, plan.phases, plan.privacy, plan)


@dataclass(frozen=True)
class PrivacyEvaluation:
    """What was found.

    Attributes:
        plan_id: Digest of the signed plan, or "draft".
        plan_name: Its name.
        unit: Whom it protects.
        audit: Of the plan's mechanism, by canaries.
        attack: On a model of the plan, if one was given.
    """

    plan_id: str
    plan_name: str
    unit: str
    audit: AuditResult
    attack: AttackResult | None

    @property
    def bounds(self) -> tuple[LowerBound, ...]:
        """Every bound that was found."""
        return self.audit.bounds + (() if self.attack is None else self.attack.bounds)

    @property
    def lower_bound(self) -> Decimal:
        """The best of them."""
        return max(bound.epsilon for bound in self.bounds)

    @property
    def passes(self) -> bool:
        """Whether none of them contradicts the promise."""
        return self.lower_bound <= self.audit.claimed

    def to_json(self) -> dict[str, Any]:
        """As canonical JSON holds it, and as the journal does."""
        return {
            "plan_id": self.plan_id,
            "plan_name": self.plan_name,
            "unit": self.unit,
            "claimed": f"{self.audit.claimed:f}",
            "delta": f"{self.audit.delta:f}",
            "confidence": f"{self.audit.confidence:f}",
            "lower_bound": f"{self.lower_bound:f}",
            "passes": self.passes,
            "audit": self.audit.to_json(),
            "attack": None if self.attack is None else self.attack.to_json(),
        }


def evaluate_privacy(
    site: Site,
    promise: Promise,
    *,
    model: Path | None = None,
    canaries: int,
    engine: str = "one_backward",
    progress: Callable[[int, int], None] | None = None,
) -> PrivacyEvaluation:
    """Evaluate a plan here, and journal what was found.

    Args:
        site: Whose installation, records and journal.
        promise: Of the plan.
        model: A state or a release of the plan, to attack; None attacks nothing.
        canaries: How many canaries.
        engine: Whose gradients to audit, one of `clipped_sums.ENGINES`.
        progress: Told rounds done and rounds in all.

    Raises:
        NotFound: When a model is given and this site never trained the plan, or there is no file.
        MalformedInput: When the model is not one of the plan, or too few subjects are here.
        FiduciaryError: When the base model, the vault or the journal cannot be used.
    """
    # First what can be refused: the audit takes seconds.
    attacked = None if model is None else attack_model(site, promise, model)
    audited = audit_mechanism(
        promise.phases, promise.privacy, engine=engine, canaries=canaries, progress=progress
    )
    found = PrivacyEvaluation(
        promise.plan_id, promise.plan_name, promise.privacy.unit, audited, attacked
    )
    site.journal.record(
        Entry(
            actor=site.principal,
            action=ACTION,
            object=f"plan:{promise.plan_id}",
            subject=None,
            payload=found.to_json(),
        )
    )
    return found


def attack_model(site: Site, promise: Promise, path: Path) -> AttackResult:
    """Attack a model of a plan with the subjects that this site trained it on, and held out.

    Subjects that came into the datasets later count as trained: the attack is then weaker.

    Raises:
        NotFound: When this site trained no round of the plan, or there is no such file.
        MalformedInput: When the model is not one of the plan, or too few subjects are here.
    """
    plan = promise.plan
    if plan is None:
        raise NotFound("nobody has trained a draft", fix="name the submitted plan")
    with site.ledger() as ledger, Vault.open(site.paths, site.keyring) as vault:
        names = trained_datasets(ledger, vault, promise.plan_id)
        arrays = read_model(path)
        model = build_model(plan, find_base_model(plan.base_model.name, site.paths.models))
        model.set_state(model.state_in(arrays))
        split = read_split(vault, plan, names)
    return attack(
        model,
        split.training,
        split.held_out,
        held_out_share=float(plan.held_out_share),
        delta=float(plan.privacy.delta),
    )


def trained_datasets(ledger: Ledger, vault: Vault, plan_id: str) -> tuple[str, ...]:
    """Datasets that a plan was trained on here, as far as they are still here.

    Raises:
        NotFound: When it was trained on none of them.
    """
    present = {dataset.name for dataset in vault.datasets()}
    trained = dict(ledger.started_plans()).get(plan_id, ())
    names = tuple(name for name in trained if name in present)
    if not names:
        raise NotFound(
            "this site holds no records that the plan was trained on",
            fix="leave out --model: the canaries need no records",
        )
    return names


def read_promise(path: Path, coordinator: Callable[[], VerifyKey]) -> Promise:
    """What a file promises: a coordinator's `plan.toml`, or a signed plan as JSON.

    Args:
        path: The file.
        coordinator: The key that signs plans of this site's federation; asked for a signed plan.

    Raises:
        VerificationFailed: When the coordinator's key has not signed the plan.
        MalformedInput: When the file holds neither, or its ε cannot be reached.
        NotFound: When it cannot be read.
    """
    if path.suffix == ".toml":
        name, privacy, phases = draft_promise(path)
        return Promise("draft", name, phases, privacy, None)
    data = _read(path, MAX_PLAN_BYTES)
    try:
        statement = SignedStatement.from_json(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise MalformedInput(
            f"malformed plan {path.name}: not JSON",
            fix="give a submitted plan's id or name, a plan.toml, or a signed plan's file",
        ) from error
    return Promise.of(
        statement.digest, TrainingPlan.from_body(verify_statement(statement, coordinator()))
    )


def read_model(path: Path) -> Arrays:
    """Weights from a state's or a release's file, or from a release's folder.

    Raises:
        NotFound: When there is no such file.
        MalformedInput: When it is not safetensors.
    """
    if path.is_dir():
        adapter, everything = (path / name for name in _RELEASE_FILES)
        path = adapter if adapter.is_file() else everything
    return unpack_arrays(_read(path, MAX_MODEL_BYTES))


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise NotFound(f"cannot read {path.name}: {error.strerror}", fix="name a file") from error
    if len(data) > limit:
        raise MalformedInput(f"{path.name} is larger than {limit} bytes", fix="name another file")
    return data
