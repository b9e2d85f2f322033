"""Who may do what, for every set of roles and every limit: no combination bypasses a rule."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from compliance import rules
from compliance.rules import ALLOWED, Bearer, Refused, Scope
from compliance.wire import ASSIGNABLE_ROLES, Role

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
SITES = ("north", "south")
ALL_SITES: tuple[tuple[str, ...], ...] = ((), ("north",), ("south",), SITES)


def every_bearer(name: str) -> Iterator[Bearer]:
    """A principal with each set of roles, each of which is limited in each way."""
    for count in range(1, len(ASSIGNABLE_ROLES) + 1):
        for roles in itertools.combinations(ASSIGNABLE_ROLES, count):
            limitable = [role for role in roles if role in rules.LIMITABLE_ROLES]
            for chosen in itertools.product(ALL_SITES, repeat=len(limitable)):
                limits = frozenset(
                    (role, site)
                    for role, sites in zip(limitable, chosen, strict=True)
                    for site in sites
                )
                yield Bearer(name, frozenset(roles), limits=limits)
    yield Bearer(f"site:{name}", frozenset({"site"}))


EVERY = {name: list(every_bearer(name)) for name in ("ada", "bob")}


def code(ruling: rules.Ruling) -> str | None:
    return ruling.code if isinstance(ruling, Refused) else None


def test_there_are_as_many_as_there_should_be() -> None:
    # Of the 15 sets, 3 have no limitable role, 8 one of them, 4 both; and there is the site.
    assert len(EVERY["ada"]) == 3 + 8 * 4 + 4 * 16 + 1


@pytest.mark.parametrize("undecided", ["submitted", "candidate"])
def test_nobody_approves_their_own_plan_or_release(undecided: Any) -> None:
    for officer in EVERY["ada"]:
        for submitted_by, author in (("ada", "x"), ("x", "ada"), ("ada", "ada")):
            ruling = rules.may_decide(
                Bearer("ada", officer.roles, limits=officer.limits),
                submitted_by=submitted_by,
                author=author,
                state=undecided,
                undecided=undecided,
            )
            assert code(ruling) == "own-work"


def test_nobody_grants_to_themselves() -> None:
    for officer, grantee in itertools.product(EVERY["ada"], repeat=2):
        ruling = rules.may_grant(
            officer,
            grantee=Bearer(officer.name, grantee.roles, limits=grantee.limits),
            purpose="triage",
            purpose_of_plan="triage",
            release="approved",
            evidence_ended=False,
            expires_at=NOW + timedelta(days=1),
            now=NOW,
        )
        assert code(ruling) == "own-grant"


def test_nobody_confirms_rotates_or_ends_what_would_be_a_second_self() -> None:
    for actor, target in itertools.product(EVERY["ada"], EVERY["bob"]):
        confirmed = rules.may_confirm(actor, target, proposed_by="cyd")
        ended = rules.may_revoke_principal(actor, target)
        rotated = rules.may_rotate(
            actor, target, overlap=timedelta(hours=1), former_tokens=0, now=NOW
        )
        if confirmed == ALLOWED:
            assert actor.scope("officer").contains(target.scope("officer"))
        if rotated == ALLOWED:
            assert "officer" in actor.roles
            assert not target.holds("officer", "site")
        if ALLOWED in (rotated, ended):
            assert actor.scope("officer").contains(target.scope(*target.roles))
        assert code(rules.may_confirm(actor, target, proposed_by=actor.name)) == "own-appointment"
    for actor in EVERY["ada"]:
        assert code(rules.may_confirm(actor, actor, proposed_by="cyd")) == "own-appointment"
        assert code(rules.may_revoke_principal(actor, actor)) == "own-principal"


def test_nobody_hands_out_more_than_they_hold() -> None:
    for actor in EVERY["ada"]:
        for roles in ({"officer"}, {"auditor"}, {"coordinator"}, {"consumer"}, {"site"}):
            for sites in ALL_SITES:
                ruling = rules.may_add_principal(actor, "new", roles, sites, None, NOW)  # type: ignore[arg-type]
                made = Bearer(
                    "new",
                    frozenset(roles),  # type: ignore[arg-type]
                    limits=frozenset((role, site) for role in roles for site in sites),  # type: ignore[misc]
                )
                if ruling == ALLOWED:
                    assert "site" not in roles
                    assert rules.governs(actor, made)
                elif actor.scope("officer") == rules.EVERYWHERE and "site" not in roles:
                    assert code(ruling) == "role-not-limitable"


def test_a_role_without_limits_is_needed_where_nothing_is_narrowed() -> None:
    for bearer in EVERY["ada"]:
        for roles in itertools.combinations((*ASSIGNABLE_ROLES, "site"), 2):
            ruling = rules.may_call(bearer, roles)
            held = bearer.roles.intersection(roles)
            unlimited = held - {role for role, _ in bearer.limits}
            assert (ruling == ALLOWED) == bool(unlimited)
            narrowed = rules.may_call(bearer, roles, by_site=True)
            assert (narrowed == ALLOWED) == bool(held)


def test_an_unconfirmed_officer_may_call_nothing() -> None:
    for bearer in EVERY["ada"]:
        waiting = Bearer(bearer.name, bearer.roles, limits=bearer.limits, confirmed=False)
        assert code(rules.may_call(waiting, tuple(bearer.roles), by_site=True)) == (
            "principal-unconfirmed"
        )


scopes = st.builds(Scope, st.none() | st.frozensets(st.sampled_from("abcd")))
site_sets = st.frozensets(st.sampled_from("abcde"))


@given(scopes, scopes, site_sets)
def test_scopes_contain_what_they_contain(one: Scope, other: Scope, sites: frozenset[str]) -> None:
    assert one.meets(sites) == any(one.includes(site) for site in sites) or one.sites is None
    if one.covers(sites):
        assert all(one.includes(site) for site in sites)
    if one.contains(other):
        assert one.covers(sites) or not other.covers(sites)
        assert one.meets(sites) or not other.meets(sites)
    assert rules.EVERYWHERE.contains(one)
    assert one.contains(rules.NOWHERE)
    assert code(rules.may_commit(one, sites)) == (None if one.covers(sites) else "site-outside")


def test_a_site_is_one_site_and_who_names_no_site_commits_none() -> None:
    north = Scope(frozenset({"north"}))
    assert Bearer("site:north", frozenset({"site"})).scope("site") == north
    assert code(rules.may_commit(north, ())) == "site-outside"


class Appointments(RuleBasedStateMachine):
    """Officers add, confirm and end each other in any order, as far as the rules let them.

    What must hold: beyond the founder, who had nobody beside them, every officer whose token works
    was made or confirmed by two different people, or was made when no other could confirm it; and
    nobody's powers come from themselves.
    """

    def __init__(self) -> None:
        super().__init__()
        self.people: dict[str, Bearer] = {"founder": Bearer("founder", frozenset({"officer"}))}
        self.proposed_by: dict[str, str] = {}
        self.confirmed_by: dict[str, str] = {}
        self.alone: set[str] = {"founder"}

    def working(self) -> list[Bearer]:
        return [
            person
            for person in self.people.values()
            if person.confirmed and person.revoked_at is None and "officer" in person.roles
        ]

    def _actor(self, data: st.DataObject) -> Bearer:
        return data.draw(st.sampled_from(self.working()))

    @rule(
        data=st.data(),
        roles=st.frozensets(st.sampled_from(("officer", "auditor")), min_size=1),
        sites=st.sampled_from(ALL_SITES),
    )
    def add(self, data: st.DataObject, roles: frozenset[Role], sites: tuple[str, ...]) -> None:
        actor = self._actor(data)
        name = f"p{len(self.people)}"
        if rules.may_add_principal(actor, name, roles, sites, None, NOW) != ALLOWED:
            return
        made = Bearer(
            name, roles, limits=frozenset((role, site) for role in roles for site in sites)
        )
        if rules.needs_confirmation(made, actor.name, self.working()):
            made = Bearer(name, roles, limits=made.limits, confirmed=False)
        elif "officer" in roles:
            self.alone.add(name)
            others = [person for person in self.working() if person.name != actor.name]
            assert not any(
                person.scope("officer").contains(made.scope("officer")) for person in others
            )
        self.people[name] = made
        self.proposed_by[name] = actor.name

    @precondition(lambda self: any(not person.confirmed for person in self.people.values()))
    @rule(data=st.data())
    def confirm(self, data: st.DataObject) -> None:
        actor = self._actor(data)
        waiting = [person for person in self.people.values() if not person.confirmed]
        target = data.draw(st.sampled_from(waiting))
        proposer = self.proposed_by[target.name]
        if rules.may_confirm(actor, target, proposed_by=proposer) == ALLOWED:
            self.people[target.name] = Bearer(
                target.name, target.roles, target.expires_at, target.revoked_at, target.limits
            )
            self.confirmed_by[target.name] = actor.name

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        actor = self._actor(data)
        target = data.draw(st.sampled_from(list(self.people.values())))
        if rules.may_revoke_principal(actor, target) == ALLOWED:
            self.people[target.name] = Bearer(
                target.name, target.roles, None, NOW, target.limits, target.confirmed
            )

    @invariant()
    def somebody_is_left(self) -> None:
        assert self.working()
        assert any(person.scope("officer") == rules.EVERYWHERE for person in self.working())

    @invariant()
    def every_officer_has_two_people_behind_them(self) -> None:
        for person in self.working():
            if person.name in self.alone:
                continue
            proposer, confirmer = self.proposed_by[person.name], self.confirmed_by[person.name]
            assert len({person.name, proposer, confirmer}) == 3


Appointments.TestCase.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)
TestAppointments = Appointments.TestCase
