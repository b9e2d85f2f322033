"""A site's part in secure sums, against a coordinator that wants two."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from audit.errors import FiduciaryError, MalformedInput
from audit.keys import SigningKey
from audit.statement import SignedStatement, verify_statement
from client.answers import Answers
from client.arrays import arrays_digest
from client.fleet_tasks import IncomingTask, TaskKind
from client.kept_answers import Answer
from client.peers import Peers
from client.refusals import Declined
from client.reveals import AlreadyRevealed
from client.rounds import Work
from client.secure_aggregation.collector import Collector
from client.secure_aggregation.fixed_point import FixedPoint
from client.secure_aggregation.member import Member
from client.secure_aggregation.messages import MASKED, Session
from client.secure_sums import SecureSums
from client.stopping import StopSignal
from compliance.statements import TrainingPlan
from tests.client.site.documents import make_plan
from tests.client.site.fleet import make_task
from tests.client.site.world import World
from tests.site_reports import site_report

PLAN_ID = f"sha256:{'3' * 64}"
ARRAYS = {"w": np.array([0.25, -0.5, 0.125], np.float32)}


def secure_plan(**changes: Any) -> TrainingPlan:
    return make_plan(
        format="fiduciary.plan/3",
        secure_aggregation=True,
        quorum=2,
        phase={"steps_per_round": 1},
        **changes,
    )


class Ours:
    """The site `north` with its `SecureSums`, and `south`, whose keys it knows."""

    def __init__(
        self, world: World, plan: TrainingPlan | None = None, south: SigningKey | None = None
    ) -> None:
        self.world, self.plan = world, plan or secure_plan()
        self.south = south or SigningKey.generate("south")
        peers = Peers(world.site)
        peers._keep({"south": self.south.public})
        answers = Answers(world.site, world.compliance, StopSignal(), world.notes)
        self.arrays = ARRAYS
        self.sums = SecureSums(world.site, peers, answers, contextlib.nullcontext)
        self.keys = {"north": world.site.identity.public, "south": self.south.public}

    def work(self, stretch: float = 1.0) -> Work:
        report = site_report(PLAN_ID, "north")
        return Work(self.plan, Answer(self.arrays, report.body()), stretch)

    def session(self, **changes: Any) -> Session:
        form = FixedPoint.of(self.plan, 0)
        fields = {
            "plan_id": PLAN_ID,
            "round": 0,
            "activity": "train",
            "unit_exponent": form.exponent,
            "nonce": secrets.token_hex(16),
        }
        return Session.model_validate({**fields, **changes})

    def begin(self, session: Session) -> SignedStatement:
        task = make_task(
            session.activity,
            PLAN_ID,
            0,
            {},
            json.dumps({"session": session.model_dump(mode="json")}),
        )
        return read(self.sums.begin(task, self.work()))

    def step(self, kind: TaskKind, session: Session, **content: Any) -> Any:
        return self.sums.step(task_for(kind, session, **content))


def task_for(kind: TaskKind, session: Session, **content: Any) -> IncomingTask:
    return make_task(kind, PLAN_ID, 0, {}, json.dumps({"session": session.digest, **content}))


def read(text: str) -> SignedStatement:
    return SignedStatement.from_json(json.loads(text))


def as_json(statements: dict[str, SignedStatement]) -> dict[str, Any]:
    return {name: statement.to_json() for name, statement in statements.items()}


def summed(ours: Ours, session: Session, until: str = "reveal") -> Collector:
    """A whole sum of the site and its neighbour, by an honest coordinator."""
    south = Member(session, "south", ours.south, ours.keys, 2)
    vector = FixedPoint.of(ours.plan, 0).encode(ARRAYS)
    collector = Collector(session, ours.keys, 2, 3, "<u4")
    collector.accept_keys("north", ours.begin(session))
    collector.accept_keys("south", south.keys)
    collector.close()
    offers = as_json(collector.offers)
    collector.accept_shares("north", read(ours.step("deal", session, offers=offers)))
    collector.accept_shares("south", south.deal(collector.offers))
    collector.close()
    boxes = {n: b.model_dump(mode="json") for n, b in collector.dealt_to("north").items()}
    answer = ours.step("mask", session, boxes=boxes)
    collector.accept_masked("north", answer.arrays[MASKED])
    collector.accept_masked("south", south.mask(collector.dealt_to("south"), vector))
    collector.close()
    survivors = collector.survivors
    collector.accept_attestation("north", read(ours.step("attest", session, survivors=survivors)))
    collector.accept_attestation("south", south.attest(survivors))
    collector.close()
    if until == "attest":
        return collector
    attested = as_json(collector.attested)
    collector.accept_reveal("north", read(ours.step("reveal", session, attested=attested)))
    collector.accept_reveal("south", south.reveal(collector.attested))
    collector.close()
    return collector


def test_a_sum_has_what_was_trained_and_the_report_names_what_was_sent(world: World) -> None:
    ours = Ours(world)
    total = summed(ours, ours.session()).unmask()
    mean = FixedPoint.of(ours.plan, 0).decode(total, ARRAYS)["w"] / 2
    np.testing.assert_allclose(mean, ARRAYS["w"], atol=1e-6)
    actions = [entry.action for entry in world.site.journal.leaves(-1, 1000)]
    assert actions[-2:] == ["round-train", "round-revealed"]


def test_the_report_is_signed_over_the_masked_vector_once(world: World) -> None:
    ours = Ours(world)
    session = ours.session()
    collector = summed(ours, session, until="attest")
    boxes = {n: b.model_dump(mode="json") for n, b in collector.dealt_to("north").items()}
    first, second = (ours.step("mask", session, boxes=boxes) for _ in range(2))
    assert first.report == second.report
    stated = verify_statement(
        SignedStatement.from_json(first.report["statement"]), world.site.identity.public
    )
    assert stated["update_digest"] == arrays_digest(first.arrays)
    assert stated["update_digest"] != arrays_digest(ARRAYS)
    actions = [entry.action for entry in world.site.journal.leaves(-1, 1000)]
    assert actions.count("round-train") == 1


def test_a_second_sum_of_the_round_is_possible_until_one_was_unmasked(world: World) -> None:
    ours = Ours(world)
    summed(ours, ours.session(), until="attest")
    summed(ours, ours.session())
    with pytest.raises(AlreadyRevealed):
        ours.begin(ours.session())


def test_a_sum_that_was_left_cannot_be_gone_on_with(world: World) -> None:
    ours = Ours(world)
    first = ours.session()
    collector = summed(ours, first, until="attest")
    ours.begin(ours.session())
    with pytest.raises(Declined, match="has no part in that sum"):
        ours.step("reveal", first, attested=as_json(collector.attested))


def test_nothing_is_masked_with_the_records_of_somebody_who_was_erased_since(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check() -> None:
        raise Declined("subject-erased", "somebody was erased")

    ours = Ours(world)
    work = replace(ours.work(), check=check)
    monkeypatch.setattr(ours, "work", lambda: work)
    with pytest.raises(Declined, match="somebody was erased"):
        summed(ours, ours.session())


def test_the_same_session_begun_again_has_the_same_keys(world: World) -> None:
    ours = Ours(world)
    session = ours.session()
    assert ours.begin(session) == ours.begin(session)


def test_the_same_session_after_a_restart_is_another_sum(world: World) -> None:
    """A coordinator that waits for a crash and uses the session's name again gets no second sum."""
    ours = Ours(world)
    session = ours.session()
    summed(ours, session)
    again = Ours(world, south=ours.south)
    with pytest.raises(AlreadyRevealed):
        summed(again, session)


BROKEN: dict[str, tuple[TaskKind, Callable[[Session], str], str]] = {
    "no JSON": ("deal", lambda s: "{", "not JSON"),
    "another field": ("deal", lambda s: json.dumps({"session": s.digest, "boxes": {}}), "expected"),
    "offers are a list": (
        "deal",
        lambda s: json.dumps({"session": s.digest, "offers": []}),
        "signed statements by site",
    ),
    "boxes are a list": (
        "mask",
        lambda s: json.dumps({"session": s.digest, "boxes": []}),
        "expected boxes",
    ),
    "survivors are numbers": (
        "attest",
        lambda s: json.dumps({"session": s.digest, "survivors": [1, 2]}),
        "names of survivors",
    ),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_what_is_no_step_is_refused(world: World, name: str) -> None:
    kind, document, said = BROKEN[name]
    ours = Ours(world)
    session = ours.session()
    ours.begin(session)
    with pytest.raises(MalformedInput, match=said):
        ours.sums.step(make_task(kind, PLAN_ID, 0, {}, document(session)))


def test_a_sum_of_another_round_is_refused(world: World) -> None:
    ours = Ours(world)
    with pytest.raises(MalformedInput, match="another round"):
        ours.begin(ours.session(round=1))
    session = ours.session()
    ours.begin(session)
    other = make_task(
        "deal", f"sha256:{'4' * 64}", 0, {}, json.dumps({"session": session.digest, "offers": {}})
    )
    with pytest.raises(MalformedInput, match="another round"):
        ours.sums.step(other)


def test_of_an_ended_plan_nothing_is_left_to_give_and_nothing_is_summed_again(
    world: World,
) -> None:
    """Counts of the last state may be asked for again, but not with other survivors."""
    ours = Ours(world)
    session = ours.session()
    summed(ours, session)
    ours.sums.forget(PLAN_ID)
    with pytest.raises(Declined):
        ours.step("deal", session, offers={})
    with pytest.raises(AlreadyRevealed):
        ours.begin(ours.session())


def sharing() -> TrainingPlan:
    plan = secure_plan()
    privacy = plan.privacy.model_copy(update={"noise_sites": 2})
    return plan.model_copy(update={"privacy": privacy})


def test_a_range_in_which_a_share_of_the_noise_could_be_cut_is_refused(world: World) -> None:
    """A coordinator that states tiny units would get signs of what only the sum protects."""
    ours = Ours(world, sharing())
    least = ours.session()
    ours.begin(least)
    with pytest.raises(MalformedInput, match="so small that the noise could be cut"):
        ours.begin(ours.session(unit_exponent=least.unit_exponent - 1))
    ours.arrays = {"w": np.array([0, 1e6, 0], np.float32)}
    with pytest.raises(Declined, match="cutting them would cut noise"):
        ours.begin(ours.session())
    alone = Ours(world)
    alone.arrays = ours.arrays
    alone.begin(alone.session())  # its own noise protects what is cut


def test_a_unit_that_would_swallow_a_share_of_the_noise_is_refused(world: World) -> None:
    ours = Ours(world, sharing())
    ours.begin(ours.session())
    with pytest.raises(FiduciaryError, match="units to this site's share of the noise"):
        ours.begin(ours.session(unit_exponent=0))
