"""Requests of data subjects over a real PostgreSQL: the same way, the same clocks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from compliance.service.folder import NewService, create_folder
from compliance.service.subject_chasing import chase
from tests.compliance.federation import Coordinator
from tests.compliance.running import Clock, RunningService, running
from tests.compliance.subjects import (
    ADDRESS,
    SUBJECT,
    Desk,
    actions,
    ask,
    code_in,
    configure,
    filed_by_officer,
    mails,
)
from tests.postgresql import MISSING, find_programs, running_server

pytestmark = pytest.mark.skipif(find_programs() is None, reason=MISSING)


@pytest.fixture
def service(tmp_path: Path, clock: Clock) -> Iterator[RunningService]:
    with running_server() as server:
        with psycopg.connect(server.address("postgres"), autocommit=True) as connection:
            connection.execute("CREATE DATABASE subjects")
        address = server.address("subjects").replace("postgresql:", "postgresql+psycopg:")
        new = NewService("127.0.0.1", 8443, "127.0.0.1", "fiduciary.test/log", address)
        folder = create_folder(tmp_path / "compliance", new, clock)
        with running(folder.path, clock) as started:
            yield started


def test_a_request_from_the_form_to_its_end(
    service: RunningService, coordinator: Coordinator, clock: Clock
) -> None:
    configure(service)
    desk = Desk(service, coordinator.welcome("north"))
    officer = service.as_("officer").subject_requests
    subject = service.client().subject_requests
    filed = ask(service, "north", email=ADDRESS)
    assert chase(service.registry).sent == 1
    subject.prove(filed.receipt_code, code_in(mails(service.folder.path)[0][2]))
    assert desk.open(filed.request_id).subject_ids == (SUBJECT,)
    later = [filed_by_officer(service, "north", request_id=digit * 32) for digit in "ef"]
    first = officer.page(site="north", right="erasure", open_only=True, limit=1)
    assert first.next is not None
    second = officer.page(after=first.next)
    shown = [view.request_id for view in (*first.requests, *second.requests)]
    assert set(shown) == {filed.request_id, *(one.request_id for one in later)}
    assert shown == sorted(shown)
    clock.advance(days=40)
    assert chase(service.registry).reminded == 1
    assert (officer.page(overdue=True).overdue, officer.page().due_soon) == (1, 0)
    desk.erase(filed.request_id)
    assert subject.status(filed.receipt_code).stage == "completed"
    assert chase(service.registry).forgotten == 1
    assert actions(service)[-3:] == ["completed", "notified", "contact-forgotten"]
