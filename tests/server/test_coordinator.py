"""What the coordinator believes before it trains, and what it does when something is wrong."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from audit.errors import FiduciaryError, MalformedInput, VerificationFailed
from audit.keys import SigningKey
from audit.statement import SignedStatement, sign_statement, verify_statement
from compliance.resources import PlanEvidence, PlanView
from compliance.statements import Decision, Refusal, utc_now
from server.coordinator import Coordinator, verify_plan
from server.errors import PlanRefused
from server.rounds import Stopped
from server.runs import RoundSummary, RunState
from tests.server.conftest import Service, plan_of, until
from tests.server.ground import Ground, ground
from tests.site_reports import site_report

COORDINATOR = SigningKey.generate("demo/coordinator")
LOG = SigningKey.generate("log")
FORGER = SigningKey.generate("forger")


def decision(plan_id: str, key: SigningKey = LOG, **changes: Any) -> SignedStatement:
    fields: dict[str, Any] = {
        "object": f"plan:{plan_id}",
        "verdict": "approved",
        "decided_by": "officer",
        "decided_at": utc_now(),
    }
    return sign_statement(Decision.model_validate({**fields, **changes}).body(), key)


def view(
    statement: SignedStatement, approval: SignedStatement | None, plan_id: str | None = None
) -> PlanView:
    return PlanView(
        plan_id=plan_id or statement.digest,
        state="approved",
        statement=statement,
        submitted_by="coordinator",
        submitted_at=utc_now(),
        submitted_position=1,
        approval=approval,
        rejection=None,
        approved_position=2,
        rounds_reported=0,
        outcome=None,
    )


def verified(found: PlanView) -> str:
    plan = verify_plan(found, federation="demo", coordinator=COORDINATOR.public, log_key=LOG.public)
    return plan.name


PLAN = sign_statement(plan_of().body(), COORDINATOR)
OTHER = sign_statement(plan_of(name="other").body(), COORDINATOR)


def test_our_own_approved_plan_is_believed() -> None:
    assert verified(view(PLAN, decision(PLAN.digest))) == "routing"


@pytest.mark.parametrize(
    ("found", "error", "said"),
    [
        (view(PLAN, None), PlanRefused, "carries no approval"),
        (view(PLAN, decision(OTHER.digest)), PlanRefused, "for something else"),
        (
            view(PLAN, decision(PLAN.digest, object=f"release:{PLAN.digest}")),
            PlanRefused,
            "for something else",
        ),
        (view(PLAN, decision(PLAN.digest, verdict="rejected")), PlanRefused, "something else"),
        (
            view(PLAN, decision(PLAN.digest, decided_by="coordinator")),
            PlanRefused,
            "by its own author",
        ),
        (view(PLAN, decision(PLAN.digest, FORGER)), VerificationFailed, "signed by"),
        (view(PLAN, decision(PLAN.digest, COORDINATOR)), VerificationFailed, "signed by"),
        (view(PLAN, PLAN), VerificationFailed, "signed by"),
        (
            view(PLAN, sign_statement(plan_of().body(), LOG)),
            MalformedInput,
            "malformed decision",
        ),
        (
            view(OTHER, decision(PLAN.digest), plan_id=PLAN.digest),
            VerificationFailed,
            "another plan's id",
        ),
    ],
)
def test_an_approval_that_is_none_starts_nothing(
    found: PlanView, error: type[FiduciaryError], said: str
) -> None:
    with pytest.raises(error, match=said):
        verified(found)


def test_a_plan_that_we_did_not_sign_starts_nothing() -> None:
    forged = sign_statement(plan_of().body(), FORGER)
    with pytest.raises(VerificationFailed):
        verified(view(forged, decision(forged.digest)))


def test_a_plan_of_another_federation_starts_nothing() -> None:
    foreign = sign_statement(plan_of(federation="other").body(), COORDINATOR)
    with pytest.raises(PlanRefused, match="for federation other"):
        verified(view(foreign, decision(foreign.digest)))


# --- with a real compliance service --------------------------------------------------------------


@pytest.fixture(scope="module")
def field(shared_service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with ground(shared_service, tmp_path_factory.mktemp("ground")) as made:
        yield made


@contextmanager
def coordinating(field: Ground) -> Iterator[Coordinator]:
    """A coordinator at work in a thread."""
    stop = threading.Event()
    coordinator = Coordinator(field.federation, field.link, field.registrar, field.notes, stop)
    work = threading.Thread(target=coordinator.run)
    work.start()
    try:
        yield coordinator
    finally:
        stop.set()
        work.join(30)
        assert not work.is_alive()


def test_nothing_starts_while_the_compliance_service_is_away(field: Ground) -> None:
    plan_id, _ = field.approved(name="early")
    field.service.stop()
    try:
        with coordinating(field) as coordinator:
            until(
                lambda: any("waiting for the compliance service" in n for n in field.notes.lines),
                "the coordinator to notice",
            )
            assert coordinator.status()["compliance"] != "reachable"
            assert field.folder(plan_id).load() is None
            field.service.start()
            # The base model of this plan is on nobody's machine: it ends, and says why.
            until(lambda: field.compliance.plan(plan_id).state == "failed", "the run to end")
            until(lambda: coordinator.status()["compliance"] == "reachable", "it is back")
    finally:
        if field.service.process.poll() is not None:
            field.service.start()
    outcome = field.compliance.plan(plan_id).run_outcome
    assert outcome is not None
    assert outcome.verdict == "failed"
    assert "cannot build the model" in outcome.reason
    assert field.compliance.releases() == ()


def test_a_plan_whose_approval_was_forged_is_refused_and_recorded(field: Ground) -> None:
    plan_id, _ = field.approved(name="tampered")
    found = field.compliance.plan(plan_id)
    tampered = found.model_copy(update={"approval": decision(plan_id, FORGER)})
    coordinator = Coordinator(
        field.federation, field.link, field.registrar, field.notes, threading.Event()
    )
    coordinator._train(field.compliance, tampered)
    assert field.folder(plan_id).load() is None
    assert any(plan_id in error for error in coordinator.status()["errors"])
    with field.service.client("officer") as officer:
        (entry,) = officer.log_entries(action="refusal.reported")
    statement = SignedStatement.from_json((entry.payload or {})["statement"])
    refusal = Refusal.from_body(verify_statement(statement, field.federation.identity.public))
    assert (refusal.object, refusal.code) == (f"plan:{plan_id}", "verification-failed")
    officer_view = field.compliance.plan(plan_id)
    assert officer_view.state == "approved"  # it did not run, and is not called failed


def test_a_run_that_cannot_be_released_does_not_block_the_next(field: Ground) -> None:
    plan_id, plan = field.approved(name="unreleasable")
    folder = field.folder(plan_id)
    folder.save(
        RunState(
            plan_id=plan_id,
            name=plan.name,
            rounds=plan.rounds,
            stage="completed",
            rounds_done=plan.rounds,
            started_at=utc_now(),
            updated_at=utc_now(),
        )
    )
    next_id, _ = field.approved(name="next")
    with coordinating(field) as coordinator:
        until(lambda: field.compliance.plan(next_id).state == "failed", "the next plan to end")
        assert any("no measured model" in error for error in coordinator.status()["errors"])
    assert field.compliance.plan(plan_id).state == "completed"


class LateReports:
    """A compliance service that has one more site's report each time it is asked."""

    def __init__(self, *sites: str) -> None:
        self._sites = sites
        self.asked = 0

    def plan_evidence(self, plan_id: str) -> PlanEvidence:
        here = self._sites[: self.asked]
        self.asked += 1
        return PlanEvidence(
            rounds=(),
            reports=tuple(
                sign_statement(site_report(PLAN.digest, one).body(), LOG) for one in here
            ),
        )


def trained_by(*sites: str) -> RunState:
    done = RoundSummary(
        round=0,
        phase="probe",
        participants=sites,
        absent={},
        report=PLAN.digest,
        state_digest=PLAN.digest,
        seconds=1,
    )
    return RunState(
        plan_id=PLAN.digest,
        name="late",
        rounds=1,
        history=(done,),
        started_at=utc_now(),
        updated_at=utc_now(),
    )


def test_a_release_waits_for_reports_that_are_being_sent(
    field: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.coordinator.REPORTS_LOOK_SECONDS", 0.001)
    stop = threading.Event()
    coordinator = Coordinator(field.federation, field.link, field.registrar, field.notes, stop)
    late = LateReports("st-elm", "lakeside")
    coordinator._reported(cast(Any, late), trained_by("lakeside", "st-elm"))
    assert late.asked == 3
    assert not any(line.startswith("late:") for line in field.notes.lines)

    monkeypatch.setattr("server.coordinator.REPORTS_SECONDS", 0.01)
    coordinator._reported(cast(Any, LateReports("st-elm")), trained_by("lakeside", "st-elm"))
    assert "not all reports of lakeside have come" in field.notes.lines[-1]

    stop.set()
    with pytest.raises(Stopped):
        coordinator._reported(cast(Any, LateReports()), trained_by("lakeside"))
