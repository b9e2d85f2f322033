"""Reports that wait are sent together, and one that the service refuses hurts no other."""

from __future__ import annotations

from itertools import count

import pytest

from audit.errors import Conflict, Unreachable
from audit.statement import SignedStatement, sign_statement
from client.outbox import REJECTED, Outbox
from client.site import Site
from compliance.resources import MAX_REPORTS_AT_ONCE, Recorded
from compliance.statements import Refusal, SiteReport, utc_now
from tests.client.site.counterparts import FakeCompliance
from tests.site_reports import site_report

FIRST, SECOND = (f"sha256:{digit * 64}" for digit in "12")


class Service(FakeCompliance):
    """Counts what comes in one call; `refused` are rounds that it takes nothing of."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.refused: set[int] = set()
        self.away_after: int | None = None

    def report_site(
        self, plan_id: str, report: SignedStatement, *more: SignedStatement
    ) -> Recorded:
        if self.away_after is not None and len(self.calls) >= self.away_after:
            raise Unreachable("no route")
        found = [SiteReport.from_body(each.body) for each in (report, *more)]
        assert {each.plan_id for each in found} == {plan_id}
        if any(each.round in self.refused for each in found):
            raise Conflict("the plan is closed")
        self.calls.append([f"{plan_id[7]}:{each.round}" for each in found])
        return Recorded(position=0)

    def report_refusal(self, refusal: SignedStatement) -> Recorded:
        self.calls.append(["refusal"])
        return Recorded(position=0)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def outbox(joined: Site) -> Outbox:
    return Outbox(joined, clock_ns=count().__next__)


def put_report(site: Site, outbox: Outbox, round_index: int, plan_id: str = FIRST) -> None:
    report = site_report(plan_id, site.name, round=round_index)
    outbox.put("site-report", sign_statement(report.body(), site.identity))


def put_refusal(site: Site, outbox: Outbox) -> None:
    refusal = Refusal(
        refused_by=site.principal,
        object=f"plan:{FIRST}",
        code="no",
        reason="no",
        refused_at=utc_now(),
    )
    outbox.put("refusal", sign_statement(refusal.body(), site.identity))


def test_neighbouring_reports_of_a_plan_go_together_and_order_is_kept(
    joined: Site, outbox: Outbox, service: Service
) -> None:
    put_report(joined, outbox, 0)
    put_report(joined, outbox, 1)
    put_refusal(joined, outbox)
    put_report(joined, outbox, 2)
    put_report(joined, outbox, 0, SECOND)
    delivery = outbox.send(service)
    assert service.calls == [["1:0", "1:1"], ["refusal"], ["1:2"], ["2:0"]]
    assert (delivery.sent, delivery.waiting, delivery.rejected) == (5, 0, [])


def test_a_call_takes_so_many_and_no_more(joined: Site, outbox: Outbox, service: Service) -> None:
    for number in range(MAX_REPORTS_AT_ONCE + 1):
        put_report(joined, outbox, number)
    assert outbox.send(service).sent == MAX_REPORTS_AT_ONCE + 1
    assert [len(call) for call in service.calls] == [MAX_REPORTS_AT_ONCE, 1]


def test_one_refused_report_is_put_aside_and_the_others_arrive(
    joined: Site, outbox: Outbox, service: Service
) -> None:
    service.refused = {1}
    for number in range(3):
        put_report(joined, outbox, number)
    delivery = outbox.send(service)
    assert service.calls == [["1:0"], ["1:2"]]
    assert (delivery.sent, delivery.waiting) == (2, 0)
    assert delivery.rejected == ["the plan is closed"]
    assert len(list((joined.paths.outbox / REJECTED).iterdir())) == 1


def test_a_service_that_goes_away_between_calls_leaves_the_rest(
    joined: Site, outbox: Outbox, service: Service
) -> None:
    put_report(joined, outbox, 0)
    put_refusal(joined, outbox)
    put_report(joined, outbox, 1)
    put_report(joined, outbox, 2)
    service.away_after = 2
    delivery = outbox.send(service)
    assert (delivery.sent, delivery.waiting) == (2, 2)
    assert isinstance(delivery.problem, Unreachable)
    service.away_after = None
    assert outbox.send(service).sent == 2


def test_what_cannot_be_read_is_put_aside(joined: Site, outbox: Outbox, service: Service) -> None:
    put_report(joined, outbox, 0)
    (joined.paths.outbox / "00-site-report-broken.json").write_text("{")
    delivery = outbox.send(service)
    assert (delivery.sent, delivery.waiting, len(delivery.rejected)) == (1, 0, 1)
