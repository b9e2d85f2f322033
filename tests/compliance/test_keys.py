"""Keys of principals: replaced with an overlap, ended, last used; and officers' appointments."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit.errors import Conflict, FiduciaryError, MalformedInput, Refused, Unauthorised
from compliance.api import ComplianceClient
from compliance.service.database import Database
from compliance.service.folder import Folder, open_registry
from compliance.service.schema import migrate
from tests.compliance.federation import Site
from tests.compliance.running import Clock, RunningService, running


def works(client: ComplianceClient) -> bool:
    try:
        client.access.identity()
    except Unauthorised:
        return False
    return True


def test_a_replaced_key_works_until_its_overlap_ends(service: RunningService, clock: Clock) -> None:
    officer = service.as_("officer")
    first = service.client(officer.add_principal("script", ["auditor"]).token)
    made = first.access.rotate("script", overlap_hours=2)
    second = service.client(made.token)
    assert works(first)
    assert works(second)
    assert first.access.identity().expires_at == made.former_works_until
    assert second.access.identity().expires_at is None
    clock.advance(hours=2)
    assert not works(first)
    assert service.last_entry()[3]["reason"] == "token-expired"
    assert works(second)
    tables = str(service.tables())
    assert made.token not in tables


def test_a_stolen_key_and_all_before_it_end_at_once(service: RunningService) -> None:
    officer = service.as_("officer")
    first = service.client(officer.add_principal("script", ["consumer"]).token)
    second = service.client(officer.access.rotate("script").token)
    third = service.client(officer.access.rotate("script", overlap_hours=0).token)
    assert [works(client) for client in (first, second, third)] == [False, False, True]
    assert service.last_entry()[3]["reason"] == "token-unknown"
    actor, action, name, payload = next(
        entry for entry in reversed(service.entries()) if entry[1] == "principal.rotated"
    )
    assert (actor, action, name) == ("officer", "principal.rotated", "principal:script")
    assert payload == {"former_works_until": None}


def test_replaced_keys_do_not_pile_up(service: RunningService, clock: Clock) -> None:
    officer = service.as_("officer")
    officer.add_principal("script", ["consumer"])
    for _ in range(5):
        officer.access.rotate("script")
    with pytest.raises(Conflict, match="5 replaced keys"):
        officer.access.rotate("script")
    clock.advance(hours=25)
    officer.access.rotate("script")


def test_nobody_else_gets_a_key(service: RunningService, north: Site) -> None:
    officer = service.as_("officer")
    second = service.client(officer.add_principal("second", ["officer"]).token)
    with pytest.raises(Refused, match="nobody but themselves gets an officer's key"):
        second.access.rotate("officer")
    auditor = service.as_("auditor")
    said = set()
    for name in ("officer", "coordinator", "site:north", "nobody"):
        with pytest.raises(Unauthorised) as refused:
            auditor.access.rotate(name)
        said.add(str(refused.value))
    assert len(said) == 1  # whether there is such a name is not told
    for client in (officer, north.client(service)):
        with pytest.raises(Refused, match="belongs to its enrolment"):
            client.access.rotate("site:north")
    with pytest.raises(MalformedInput):
        officer.access.rotate("second", overlap_hours=24 * 365)
    officer.revoke_principal("second")
    with pytest.raises(Unauthorised, match="not valid"):
        second.access.rotate("second")


def test_a_revoked_principal_has_no_key_left(service: RunningService) -> None:
    officer = service.as_("officer")
    first = service.client(officer.add_principal("script", ["auditor"]).token)
    second = service.client(first.access.rotate("script").token)
    officer.revoke_principal("script")
    assert not works(first)
    assert not works(second)
    assert service.last_entry()[3]["reason"] == "token-revoked"
    with pytest.raises(Conflict, match="revoked or has expired"):
        officer.access.rotate("script")


def test_an_officer_is_appointed_by_two_where_there_are_two(service: RunningService) -> None:
    officer = service.as_("officer")
    added = officer.add_principal("second", ["officer"])
    assert added.confirmed  # there was nobody to confirm it
    second = service.client(added.token)
    appointed = officer.add_principal("third", ["officer", "auditor"])
    third = service.client(appointed.token)
    assert not appointed.confirmed
    for attempt in (third.plans, third.access.identity, lambda: third.access.confirm("third")):
        with pytest.raises(Unauthorised, match="second officer has confirmed"):
            attempt()
    assert service.last_entry()[:2] == ("third", "request.refused")
    with pytest.raises(Refused, match="nobody confirms themselves, or whom they proposed"):
        officer.access.confirm("third")
    entries = len(service.entries())
    assert second.access.confirm("third").confirmed
    assert second.access.confirm("third").confirmed  # a repeat is no second confirmation
    assert [entry[:3] for entry in service.entries()[entries:]] == [
        ("second", "principal.confirmed", "principal:third")
    ]
    assert third.plans() == ()
    with pytest.raises(FiduciaryError, match="no appointment"):
        officer.access.confirm("auditor")


def test_an_appointment_needs_an_officer_of_those_sites(service: RunningService) -> None:
    officer = service.as_("officer")
    north = service.client(officer.add_principal("n", ["officer"], sites=["north"]).token)
    # The officer of one site cannot confirm an officer of all: nobody could, so nobody must.
    assert officer.add_principal("everywhere", ["officer"]).confirmed
    assert not officer.add_principal("n2", ["officer"], sites=["north"]).confirmed
    assert not officer.add_principal("s", ["officer"], sites=["south"]).confirmed
    with pytest.raises(Unauthorised, match="nobody confirms a role for sites"):
        north.access.confirm("s")
    assert north.access.confirm("n2").confirmed


def test_the_last_use_is_told_and_survives_a_restart(tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "compliance"
    with running(folder, clock) as service:
        officer = service.as_("officer")
        token = officer.add_principal("script", ["auditor"]).token
        last = {view.name: view.last_used_at for view in officer.principals()}
        assert last["script"] is None
        clock.advance(days=3)
        service.client(token).access.identity()
        used_at = {view.name: view.last_used_at for view in officer.principals()}["script"]
        assert used_at == "2026-11-05T09:00:00.000Z"
    clock.advance(days=1)
    with running(folder, clock) as service:
        views = {view.name: view for view in service.as_("officer").principals()}
        assert views["script"].last_used_at == used_at


def test_a_last_use_that_cannot_be_saved_is_kept(tmp_path: Path, clock: Clock) -> None:
    with running(tmp_path / "compliance", clock) as service:
        service.as_("officer").principals()
        service.faults.commit = True
        service.registry.last_uses.save(service.registry.database)
        service.faults.commit = False
        assert service.tables()["last_uses"] == []
        service.registry.last_uses.save(service.registry.database)
        assert [row[0] for row in service.tables()["last_uses"]] == ["officer"]


def test_a_caller_whose_roles_changed_meanwhile_changes_nothing(tmp_path: Path) -> None:
    from compliance.rules import Bearer
    from compliance.service.errors import Denied
    from compliance.service.folder import NewService, create_folder

    clock = Clock()
    path = tmp_path / "compliance"
    create_folder(path, NewService("127.0.0.1", 8443, "127.0.0.1", "fiduciary.test/log"), clock)
    registry = open_registry(Folder(path), clock)
    assert isinstance(registry.database, Database)
    wider = Bearer("auditor", frozenset({"auditor", "officer"}))
    with pytest.raises(Denied, match="changed meanwhile"), registry.writing(wider) as transaction:
        transaction.record("plan.approved", "plan:x", {})
    registry.close()


def test_a_version_without_limits_knows_nobody_whom_they_held_back(
    tmp_path: Path, clock: Clock
) -> None:
    folder = tmp_path / "compliance"
    with running(folder, clock) as service:
        officer = service.as_("officer")
        officer.add_principal("second", ["officer"])
        officer.add_principal("waits", ["officer"])
        officer.add_principal("north", ["auditor"], sites=["north"])
        officer.add_principal("free", ["auditor"])
        with service.resting():
            migrate(service.registry, "0003")
        rows = service.tables()["principals"]
    revoked = {row[0] for row in rows if row[-1] is not None}
    assert revoked == {"waits", "north"}
