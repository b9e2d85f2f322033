"""Clocks that jump by hours, at a site or at the coordinator, break no run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from flwr.app.message import message
from flwr.server.superlink.linkstate import in_memory_linkstate
from flwr.supernode import node_auth_http_interceptor

from client.arrays import Arrays
from compliance.statements.documents import format_time
from server import runs, training
from tests.server.conftest import Service
from tests.server.ground import Ground, ground
from tests.server.scripted import Script, counting, kept
from tests.server.test_training import rounds_of, run, simple_phase


@pytest.fixture(scope="module")
def field(shared_service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with ground(shared_service, tmp_path_factory.mktemp("recovery")) as made:
        yield made


def shifted(hours: float) -> Callable[[], datetime]:
    return lambda: datetime.now(UTC) + timedelta(hours=hours)


@pytest.mark.parametrize("hours", [-7, 7])
def test_sites_whose_clocks_are_hours_off_take_part(
    field: Ground, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    plan_id, plan = field.approved(name=f"site-clock{hours}", phases=(simple_phase(1),))
    monkeypatch.setattr(node_auth_http_interceptor, "now", shifted(hours))  # signs calls
    monkeypatch.setattr(message, "now", shifted(hours))  # dates replies
    with field.site("st-elm", plan), field.site("lakeside", plan):
        state = run(field, field.training(plan_id, plan))
    assert state.stage == "completed"
    (report,) = rounds_of(field, plan_id)
    assert report.participants == ("lakeside", "st-elm")


@pytest.mark.parametrize("hours", [-7, 7])
def test_the_coordinators_clock_jumps_in_the_middle_of_a_round(field: Ground, hours: int) -> None:
    """Forward, every site seems lost until its next sign of life, and is asked again."""
    plan_id, plan = field.approved(name=f"jump{hours}", phases=(simple_phase(2),))
    answers: dict[str, Arrays] = {}
    trained = counting([])
    with pytest.MonkeyPatch.context() as patch:

        def jump(state: Arrays) -> Arrays:
            patch.setattr(in_memory_linkstate, "now", shifted(hours))
            patch.setattr(training, "utc_now", lambda: _text(hours))
            patch.setattr(runs, "utc_now", lambda: _text(hours))
            return trained.update(state)

        with (
            field.site("st-elm", plan, kept(Script(update=jump), answers)),
            field.site("lakeside", plan),
        ):
            state = run(field, field.training(plan_id, plan))
    assert state.stage == "completed"
    assert [report.participants for report in rounds_of(field, plan_id)] == [
        ("lakeside", "st-elm")
    ] * 2


def _text(hours: float) -> str:
    return format_time(shifted(hours)())
