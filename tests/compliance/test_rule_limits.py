"""Each rule by itself, at its limit: what is just allowed, what is just refused, and as what."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from audit.checkpoint import Checkpoint
from compliance import rules
from compliance.rules import ALLOWED, Bearer, Recall, Refused, Ruling
from compliance.rules.aliases import may_set_alias
from compliance.rules.deidentification import shortfall
from compliance.rules.erasure_cases import (
    CaseFacts,
    may_conclude,
    may_decide_case,
    may_rely,
    may_retrain,
)
from compliance.rules.unlearning import Bound, Debt, SiteDebt
from compliance.statements import (
    CertificateRenewal,
    DeidentificationDemand,
    DeidentificationFigures,
    Evidence,
    ReleaseManifest,
    RoundReport,
    RunOutcome,
    SiteAdmission,
    SiteEnrolment,
    SiteReport,
    StartsFrom,
    TrainingPlan,
)
from tests.compliance.federation import DIGEST, METRICS, plan_body, triage_manifest

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
TIME = "2026-11-02T09:00:00Z"
OTHER = "sha256:" + "f" * 64
MOMENT = timedelta(milliseconds=1)
RECALL = Recall(NOW, "wrong")


def code(ruling: Ruling) -> str | None:
    return ruling.code if isinstance(ruling, Refused) else None


def plan(*sites: str, **changes: Any) -> TrainingPlan:
    body = plan_body(sites or ("north", "south"), format="fiduciary.plan/4", **changes)
    return TrainingPlan.from_body(body)


# --- plans and their runs -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"round": 2}, "round-unknown"),
        ({"phase": "adapter"}, "phase-mismatch"),
        ({"plan_id": OTHER}, "plan-mismatch"),
        ({"participants": ["north"]}, "participants-mismatch"),
        ({"absent": {"south": "off"}}, "participants-mismatch"),
        ({"participants": ["north"], "absent": {"south": "off"}}, "quorum-missing"),
        ({"participants": [], "absent": {"north": "a", "south": "b"}}, "round-missed"),
        (
            {"participants": [], "absent": {"north": "a", "south": "b"}, "update_norm": "0"},
            None,
        ),
    ],
)
def test_a_round_report(changes: dict[str, Any], expected: str | None) -> None:
    report = RoundReport.from_body(
        {
            "plan_id": DIGEST,
            "round": 1,
            "phase": "probe",
            "participants": ["north", "south"],
            "absent": {},
            "update_norm": "0.5",
            "state_digest": DIGEST,
            "epsilon_by_site": {},
            "finished_at": TIME,
            **changes,
        }
    )
    bearing = plan(quorum=2, missed_rounds=1)
    assert code(rules.may_report_round(report, bearing, DIGEST, "approved")) == expected
    assert code(rules.may_report_round(report, bearing, DIGEST, "completed")) in (
        "plan-mismatch",
        "plan-not-approved",
    )
    if not report.participants:
        strict = plan(quorum=2)
        assert code(rules.may_report_round(report, strict, DIGEST, "approved")) == "round-missed"


@pytest.mark.parametrize(
    ("changes", "state", "expected"),
    [
        ({}, "approved", None),
        ({}, "failed", None),  # it comes late, and is evidence
        ({}, "submitted", "plan-not-approved"),
        ({"round": 2}, "approved", "round-unknown"),
        ({"site": "west"}, "approved", "site-not-asked"),
        ({"base_model_digest": OTHER}, "approved", "base-model-mismatch"),
        ({"plan_id": OTHER}, "approved", "plan-mismatch"),
    ],
)
def test_a_site_report(changes: dict[str, Any], state: Any, expected: str | None) -> None:
    report = SiteReport.from_body(
        {
            "plan_id": DIGEST,
            "site": "north",
            "round": 1,
            "activity": "train",
            "steps": 5,
            "epsilon_spent": "1",
            "update_digest": DIGEST,
            "dataset_digest": DIGEST,
            "base_model_digest": DIGEST,
            "deidentification_digest": DIGEST,
            "software": "x",
            "reported_at": TIME,
            **changes,
        }
    )
    assert code(rules.may_report_site(report, plan(), DIGEST, state)) == expected


@pytest.mark.parametrize(
    ("changes", "missed", "expected"),
    [
        ({}, 0, None),
        ({}, 1, None),
        ({}, 2, "rounds-missed"),
        ({"metrics": None}, 1, "rounds-missed"),
        ({"rounds_done": 3}, 0, "round-unknown"),
        ({"rounds_done": 1}, 0, "rounds-missing"),
        ({"rounds_done": 1, "verdict": "failed"}, 0, None),
        ({"plan_id": OTHER}, 0, "plan-mismatch"),
    ],
)
def test_an_outcome(changes: dict[str, Any], missed: int, expected: str | None) -> None:
    outcome = RunOutcome.from_body(
        {
            "plan_id": DIGEST,
            "verdict": "completed",
            "rounds_done": 2,
            "metrics": METRICS,
            "finished_at": TIME,
            **changes,
        }
    )
    bearing = plan(missed_rounds=1)
    assert code(rules.may_close(outcome, bearing, DIGEST, "approved", missed)) == expected


def test_a_run_bears_no_more_missed_rounds_than_its_plan_says() -> None:
    body = plan_body(("north",), format="fiduciary.plan/4", missed_rounds=1)
    body["phases"][0]["rounds"] = 3
    three = TrainingPlan.from_body(body)
    outcome = RunOutcome.from_body(
        {
            "plan_id": DIGEST,
            "verdict": "completed",
            "rounds_done": 3,
            "metrics": METRICS,
            "finished_at": TIME,
        }
    )
    assert rules.may_close(outcome, three, DIGEST, "approved", 1) == ALLOWED
    assert code(rules.may_close(outcome, three, DIGEST, "approved", 2)) == "rounds-missed"


def test_what_is_decided_is_not_decided_again() -> None:
    def decided(state: Any) -> str | None:
        officer = Bearer("olga", frozenset({"officer"}))
        return code(
            rules.may_decide(
                officer, submitted_by="x", author="y", state=state, undecided="submitted"
            )
        )

    assert decided("submitted") is None
    assert decided("approved") == decided("rejected") == decided("completed") == "already-decided"
    assert decided("announced") == "content-missing"


# --- releases -------------------------------------------------------------------------------------


def manifest(**changes: Any) -> ReleaseManifest:
    limit = {"ciphertext_bytes": rules.MAX_RELEASE_BYTES, "epsilon_by_site": {"north": "2"}}
    return triage_manifest(**{**limit, "created_at": TIME, **changes})


@pytest.mark.parametrize(
    ("changes", "state", "expected"),
    [
        ({}, "completed", None),
        ({}, "failed", "plan-not-completed"),
        (
            {"base_model": {"name": "embedded:all-MiniLM-L6-v2", "digest": OTHER}},
            "completed",
            "base-model-mismatch",
        ),
        ({"delta": "0.0001"}, "completed", "delta-mismatch"),
        ({"epsilon_by_site": {"north": "2", "west": "2"}}, "completed", "site-unknown"),
        ({"epsilon_by_site": {"south": "8"}}, "completed", "epsilon-understated"),
        ({"ciphertext_bytes": rules.MAX_RELEASE_BYTES + 1}, "completed", "size-out-of-range"),
        (
            {"format": "fiduciary.release/4", "epsilon_with_start": {"north": "2"}},
            "completed",
            "epsilon-understated",
        ),
    ],
)
def test_a_release(changes: dict[str, Any], state: Any, expected: str | None) -> None:
    reported = {"north": Decimal(2)}
    assert code(rules.may_release(manifest(**changes), plan(), state, reported)) == expected


def test_a_release_that_goes_on_states_what_all_of_its_rounds_tell() -> None:
    start = StartsFrom.after(OTHER, plan(), 1, DIGEST)
    going_on = plan(starts_from=start.model_dump(mode="json"))

    def released(**whole: str) -> str | None:
        stated = manifest(epsilon_by_site={"north": "2", "south": "3"}, **_whole(whole))
        return code(rules.may_release(stated, going_on, "completed", {"north": Decimal(2)}))

    assert released(north="2", south="3") is None
    assert released() == "epsilon-understated"
    assert released(north="2") == released(north="2", south="2.9") == "epsilon-understated"


def _whole(epsilons: dict[str, str]) -> dict[str, Any]:
    return {"format": "fiduciary.release/4", "epsilon_with_start": epsilons} if epsilons else {}


def test_an_upload_is_of_the_submitter_and_octet_for_octet() -> None:
    coordinator = Bearer("coordinator", frozenset({"coordinator"}))
    assert rules.may_upload("announced", submitted_by="coordinator", uploader=coordinator) == (
        ALLOWED
    )
    other = rules.may_upload("announced", submitted_by="another", uploader=coordinator)
    assert code(other) == "not-the-submitter"
    again = rules.may_upload("candidate", submitted_by="coordinator", uploader=coordinator)
    assert code(again) == "content-exists"

    def matches(size_bytes: int, digest: str) -> str | None:
        return code(
            rules.content_matches(
                size_bytes=size_bytes, digest=digest, expected_bytes=5, expected_digest=DIGEST
            )
        )

    assert matches(5, DIGEST) is None
    assert matches(6, DIGEST) == "content-size-mismatch"
    assert matches(5, OTHER) == "content-digest-mismatch"


def test_a_grant() -> None:
    def granted(**changes: Any) -> str | None:
        facts = {
            "grantee": Bearer("desk", frozenset({"consumer"})),
            "purpose": "triage",
            "purpose_of_plan": "triage",
            "release": "approved",
            "evidence_ended": False,
            "expires_at": NOW + rules.MAX_GRANT,
            "now": NOW,
            **changes,
        }
        return code(rules.may_grant(Bearer("olga", frozenset({"officer"})), **facts))

    ended = Bearer("desk", frozenset({"consumer"}), expires_at=NOW)
    assert granted() is None
    assert granted(grantee=None) == granted(grantee=ended) == "grantee-unknown"
    assert granted(recall=RECALL) == "release-recalled"
    assert granted(purpose="research") == "purpose-differs"
    assert granted(release="candidate") == "release-not-approved"
    assert granted(evidence_ended=True) == "evidence-ended"
    assert granted(expires_at=NOW) == "expiry-past"
    assert granted(expires_at=NOW + rules.MAX_GRANT + MOMENT) == "expiry-too-late"


def test_a_recall_ends_downloads_and_aliases_and_is_of_what_somebody_can_have() -> None:
    grant = rules.Grant(NOW + MOMENT)
    assert rules.may_download(grant, "approved", NOW) == ALLOWED
    assert code(rules.may_download(grant, "recalled", NOW, RECALL)) == "release-recalled"
    assert code(rules.may_download(None, "recalled", NOW, RECALL)) == "grant-missing"
    assert rules.may_recall("approved") == ALLOWED
    assert code(rules.may_recall("candidate")) == "release-not-approved"
    assert code(rules.may_recall("recalled")) == "already-recalled"

    def aliased(**changes: Any) -> str | None:
        facts = {
            "submitted_by": "carl",
            "approved_by": "olga",
            "state": "approved",
            "recall": None,
            **changes,
        }
        return code(may_set_alias(Bearer("otto", frozenset({"officer"})), **facts))

    assert aliased() is None
    assert aliased(approved_by="otto") == aliased(submitted_by="otto") == "own-work"
    assert aliased(state="candidate") == aliased(state="announced") == "release-not-approved"
    assert aliased(state="recalled", recall=RECALL) == "release-recalled"


# --- sites ----------------------------------------------------------------------------------------


def test_an_invitation() -> None:
    assert rules.may_invite(NOW + rules.MAX_INVITATION, NOW) == ALLOWED
    late = rules.may_invite(NOW + rules.MAX_INVITATION + MOMENT, NOW)
    assert code(late) == "expiry-too-late"
    assert code(rules.may_invite(NOW, NOW)) == "expiry-past"


def test_a_kit_enrols_the_site_that_it_was_issued_for() -> None:
    enrolment = SiteEnrolment(
        federation="hospitals",
        site="north",
        identity_key="k",
        certificate_request="pem",
        requested_at=TIME,
    )

    def enrolled(site: str) -> str | None:
        return code(
            rules.may_enrol(
                rules.Invitation(site, "kit", NOW + MOMENT),
                kit_sha256="kit",
                enrolment=enrolment,
                enrolment_id=DIGEST,
                site_known=False,
                now=NOW,
            )
        )

    assert enrolled("north") is None
    assert enrolled("south") == "kit-for-another-site"


def admission(**changes: Any) -> SiteAdmission:
    return SiteAdmission.from_body(
        {
            "format": "fiduciary.admission/2",
            "federation": "hospitals",
            "site": "north",
            "enrolment": DIGEST,
            "certificate": "pem",
            "admitted_at": TIME,
            **changes,
        }
    )


def test_an_admission() -> None:
    def admitted(state: Any = "pending", certificate: bool = True, **changes: Any) -> str | None:
        return code(
            rules.may_admit(
                admission(**changes),
                site="north",
                federation="hospitals",
                enrolment_id=DIGEST,
                state=state,
                certificate_matches=certificate,
            )
        )

    assert admitted() is None
    assert admitted("approved") == admitted("revoked") == "site-not-pending"
    assert admitted(site="south") == admitted(federation="banks") == "admission-mismatch"
    assert admitted(enrolment=OTHER) == "admission-mismatch"
    assert admitted(certificate=False) == "certificate-mismatch"


def test_a_renewal_is_asked_for() -> None:
    def asked(**changes: Any) -> str | None:
        request = CertificateRenewal.from_body(
            {
                "federation": changes.pop("federation", "hospitals"),
                "site": "north",
                "certificate": changes.pop("certificate", DIGEST),
                "certificate_request": "pem",
                "requested_at": TIME,
            }
        )
        facts = {
            "site": "north",
            "federation": "hospitals",
            "state": "approved",
            "present": DIGEST,
            "ends_at": NOW + timedelta(days=120),
            "same_key": True,
            "now": NOW,
            **changes,
        }
        return code(rules.may_ask_renewal(request, **facts))

    assert asked() is None
    assert asked(state="revoked") == "site-not-approved"
    assert asked(site="south") == asked(federation="banks") == "renewal-mismatch"
    assert asked(same_key=False) == "renewal-mismatch"
    assert asked(certificate=OTHER) == asked(present=None) == "renewal-outdated"
    assert asked(ends_at=NOW + timedelta(days=120) + MOMENT) == "renewal-early"


def test_a_renewal_is_answered() -> None:
    def renewed(**changes: Any) -> str | None:
        stated = admission(
            renewal=changes.pop("renewal", OTHER), federation=changes.pop("stated", "hospitals")
        )
        facts = {
            "site": "north",
            "federation": "hospitals",
            "enrolment_id": DIGEST,
            "state": "approved",
            "waiting": OTHER,
            "certificate_matches": True,
            "lasts_longer": True,
            **changes,
        }
        return code(rules.may_renew(stated, **facts))

    assert renewed() is None
    assert renewed(state="revoked") == "site-not-approved"
    assert renewed(stated="banks") == renewed(enrolment_id=OTHER) == "admission-mismatch"
    assert renewed(renewal=DIGEST) == renewed(renewal=None) == "renewal-not-asked"
    assert renewed(renewal=None, waiting=None) == "renewal-not-asked"
    assert renewed(certificate_matches=False) == "certificate-mismatch"
    assert renewed(lasts_longer=False) == "certificate-mismatch"


def test_a_token_comes_by_the_certificate_that_was_admitted() -> None:
    for required in (True, False):
        assert rules.may_come_by([b"a", b"b"], b"b", required=required) == ALLOWED
        assert code(rules.may_come_by([b"a"], b"c", required=required)) == "certificate-foreign"
    assert rules.may_come_by([b"a"], None, required=False) == ALLOWED
    assert code(rules.may_come_by([b"a"], None, required=True)) == "certificate-missing"


def test_a_witness_has_its_sites_name_and_vouches_for_this_log_in_its_time() -> None:
    def named(state: Any, name: str) -> str | None:
        return code(rules.may_witness(state, federation="hospitals", site="north", key_name=name))

    assert named("approved", "hospitals/site/north") is None
    assert named("approved", "hospitals/site/south") == "witness-name"
    assert named("revoked", "hospitals/site/north") == "site-not-approved"

    def witnessed(
        root: bytes | None = b"r" * 32, ahead: timedelta = rules.MAX_CLOCK_AHEAD, *more: str
    ) -> str | None:
        head = Checkpoint("log.example", 3, b"r" * 32, more)
        at = int((NOW + ahead).timestamp())
        return code(rules.is_witnessed(head, issued_root=root, unix_seconds=at, now=NOW))

    assert witnessed() is None
    assert witnessed(None) == witnessed(b"s" * 32) == "head-unknown"
    assert witnessed(b"r" * 32, timedelta(), "more") == "head-unknown"
    assert witnessed(ahead=rules.MAX_CLOCK_AHEAD + timedelta(seconds=1)) == "cosigned-in-future"


# --- erasures -------------------------------------------------------------------------------------


def test_neither_the_submitter_nor_the_plans_author_decides_a_case() -> None:
    def decides(name: str, state: Any = "open") -> str | None:
        facts = CaseFacts(state, "approved", submitted_by="carl", author="anna")
        return code(may_decide_case(Bearer(name, frozenset({"officer"})), facts))

    assert decides("olga") is None
    assert decides("carl") == decides("anna") == "own-work"
    assert decides("olga", "closed") == "case-closed"


def owed(*sites: str, together: float = 2.0) -> Debt:
    one = Bound(1.0, 1e-5)
    return Debt({site: SiteDebt(1, 0, one, one) for site in sites}, one, Bound(together, 1e-5))


def test_relying_on_a_bound() -> None:
    own = Evidence(name="evaluation.json", digest=DIGEST)
    attack = Evidence(name="membership.json", digest=DIGEST)

    def relied(
        *evidence: Evidence, audited: tuple[str, ...] = (), together: float = 2.0
    ) -> str | None:
        return code(
            may_rely(
                evidence,
                files={"evaluation.json": DIGEST},
                audited=audited,
                debt=owed("north", "south", together=together),
            )
        )

    assert relied(own, attack) is None
    assert relied(own, audited=("north", "south")) is None
    assert relied(own, audited=("north",)) == relied(own) == "evidence-missing"
    assert relied(attack) == "evidence-missing"
    wrong = Evidence(name="evaluation.json", digest=OTHER)
    assert relied(wrong, attack) == "evidence-mismatch"
    # Of one site alone there is a bound; of all erased subjects together there is none.
    assert relied(own, attack, together=float("inf")) == "debt-unbounded"


def test_a_retraining() -> None:
    def retrained(**changes: Any) -> str | None:
        facts = {
            "state": "approved",
            "submitted_position": 8,
            "last_erasure_position": 7,
            "approved_sites": ["north", "south", "east"],
            **{key: changes.pop(key) for key in list(changes) if key in _RETRAIN},
        }
        new = plan(*changes.pop("sites", ()), **changes)
        return code(may_retrain(new, plan(), **facts))

    assert retrained() is None
    assert retrained(state="completed") is None
    assert retrained(state="failed") == retrained(state="submitted") == "plan-not-approved"
    assert retrained(last_erasure_position=9) == "plan-too-early"
    assert retrained(purpose="research") == "plan-of-something-else"
    assert retrained(sites=("north",)) == "plan-of-something-else"
    assert retrained(sites=("north",), approved_sites=["north"]) is None  # the other has left
    assert retrained(sites=("north", "south", "east")) == "plan-of-something-else"
    late = Refused("start-too-late", "it holds somebody")
    assert retrained(starts_without_them=late) == "start-too-late"


_RETRAIN = {
    "state",
    "submitted_position",
    "last_erasure_position",
    "approved_sites",
    "starts_without_them",
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"state": "open"}, "nothing-to-conclude"),
        ({"replacement_plan": OTHER}, "not-the-retraining"),
        ({"run": "failed"}, "retraining-unfinished"),
        ({"replacement": "candidate"}, "retraining-unfinished"),
        ({"replacement_owes": True}, "erasure-debt"),
    ],
)
def test_a_retraining_is_concluded(changes: dict[str, Any], expected: str | None) -> None:
    facts = {
        "state": "retraining",
        "retraining_plan": DIGEST,
        "replacement_plan": DIGEST,
        "replacement": "approved",
        "run": "completed",
        "replacement_owes": False,
        **changes,
    }
    assert code(may_conclude(**facts)) == expected


def test_a_measurement_is_fresh_up_to_its_last_moment() -> None:
    figures = DeidentificationFigures.model_validate(
        {
            "method": "review",
            "recall": "0.99",
            "recall_at_least": "0.95",
            "leak_share": "0.01",
            "leak_share_at_most": "0.04",
            "measured_at": TIME,
        }
    )
    demand = DeidentificationDemand.model_validate(
        {"minimum_recall": "0.95", "maximum_leak_share": "0.04", "not_older_than_days": 30}
    )
    last = NOW + timedelta(days=30)
    assert shortfall(demand, [figures], last) == ""
    assert "within 30 days" in shortfall(demand, [figures], last + MOMENT)


# --- principals -----------------------------------------------------------------------------------


def test_a_principal() -> None:
    everywhere = Bearer("olga", frozenset({"officer"}))
    limited = Bearer("otto", frozenset({"officer"}), limits=frozenset({("officer", "north")}))

    def added(actor: Bearer, roles: tuple[Any, ...], *sites: str, **changes: Any) -> str | None:
        facts = {"name": "new", "expires_at": NOW + MOMENT, **changes}
        return code(
            rules.may_add_principal(actor, facts["name"], roles, sites, facts["expires_at"], NOW)
        )

    assert added(everywhere, ("officer",)) is None
    assert added(limited, ("officer",), "north") is None
    assert added(limited, ("officer",)) == "beyond-own-scope"
    assert added(limited, ("officer",), "north", "south") == "beyond-own-scope"
    assert added(everywhere, ("site",)) == "role-not-assignable"
    assert added(everywhere, ("consumer",), "north") == "role-not-limitable"
    assert added(everywhere, ("officer",), expires_at=NOW) == "expiry-past"
    assert added(everywhere, ("officer",), name="compliance") == "name-reserved"


def test_a_key_is_replaced() -> None:
    def rotated(actor: Bearer, target: Bearer, **changes: Any) -> str | None:
        facts = {"overlap": rules.MAX_OVERLAP, "former_tokens": 4, "now": NOW, **changes}
        return code(rules.may_rotate(actor, target, **facts))

    officer = Bearer("olga", frozenset({"officer"}))
    desk = Bearer("desk", frozenset({"consumer"}), expires_at=NOW + MOMENT)
    assert rotated(desk, desk) is None
    assert rotated(officer, desk) is None
    assert rotated(Bearer("x", frozenset({"consumer"})), desk) == "not-own-key"
    assert rotated(officer, Bearer("otto", frozenset({"officer"}))) == "officers-key"
    limited = Bearer("otto", frozenset({"officer"}), limits=frozenset({("officer", "north")}))
    assert rotated(limited, desk) == "beyond-own-scope"
    site = Bearer("site:north", frozenset({"site"}))
    assert rotated(site, site) == "site-token"
    ended = Bearer("desk", frozenset({"consumer"}), expires_at=NOW)
    assert rotated(ended, ended) == "principal-ended"
    assert rotated(desk, desk, overlap=rules.MAX_OVERLAP + MOMENT) == "overlap-too-long"
    assert rotated(desk, desk, overlap=-MOMENT) == "overlap-too-long"
    assert rotated(desk, desk, former_tokens=rules.MAX_FORMER_TOKENS) == "too-many-keys"
    assert rotated(desk, desk, former_tokens=9, overlap=timedelta()) is None


def test_an_appointment_waits_where_another_officer_could_confirm_it() -> None:
    new, olga, otto = (Bearer(name, frozenset({"officer"})) for name in ("new", "olga", "otto"))
    limited = Bearer("otto", frozenset({"officer"}), limits=frozenset({("officer", "north")}))
    assert rules.needs_confirmation(new, "olga", [new, olga, otto])
    assert not rules.needs_confirmation(new, "olga", [new, olga])
    assert not rules.needs_confirmation(new, "olga", [new, olga, limited])
    desk = Bearer("desk", frozenset({"consumer"}))
    assert not rules.needs_confirmation(desk, "olga", [olga, otto])


def test_an_appointment_is_confirmed() -> None:
    def confirmed(actor: str, **changes: Any) -> str | None:
        appointee = Bearer("new", frozenset({"officer"}), **changes)
        officer = Bearer(actor, frozenset({"officer"}))
        return code(rules.may_confirm(officer, appointee, proposed_by="olga"))

    assert confirmed("otto") is None
    assert confirmed("olga") == confirmed("new") == "own-appointment"
    assert confirmed("otto", revoked_at=NOW) == "principal-ended"
