"""Erasure: requests, receipts that verify offline, and nothing that says who it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audit.errors import Conflict, MalformedInput, NotFound, VerificationFailed
from audit.receipt import Receipt, verify_receipt
from tests.compliance.federation import Coordinator, Site
from tests.compliance.running import RunningService

SUBJECT = "cd" * 32


def test_an_erasure_answers_its_request_and_its_receipt_verifies(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    officer, site = service.as_("officer"), north.client(service)
    request = officer.file_request("erasure", "north", sealed=b"only north can read this")
    assert [view.request_id for view in site.requests("open")] == [request.request_id]
    recorded = site.report_erasure(north.erasure(SUBJECT), request_id=request.request_id)

    receipt = Receipt.parse(json.dumps(recorded.receipt).encode())
    verified = verify_receipt(receipt, service.trust.log_key, north.identity.public)
    assert verified.body["subject"] == SUBJECT
    assert verified.leaf.position == recorded.position
    done = officer.requests("done")
    assert [(view.state, view.erasure) for view in done] == [("done", receipt.statement.digest)]
    assert site.requests("open") == ()


def test_a_receipt_is_given_again_and_still_verifies(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    site, erasure = north.client(service), north.erasure(SUBJECT)
    first = site.report_erasure(erasure)
    coordinator.invite("south")  # the log grows
    again = site.report_erasure(erasure)
    assert again.position == first.position
    for recorded in (first, again):
        verify_receipt(
            Receipt.from_json(recorded.receipt), service.trust.log_key, north.identity.public
        )


def test_an_altered_receipt_does_not_verify(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    site = north.client(service)
    one = site.report_erasure(north.erasure(SUBJECT)).receipt
    other = site.report_erasure(north.erasure("ef" * 32)).receipt
    mixed = Receipt.from_json({**one, "statement": other["statement"]})
    with pytest.raises(VerificationFailed):
        verify_receipt(mixed, service.trust.log_key, north.identity.public)


def test_a_sites_own_requests_are_answered_by_the_erasure(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    site = north.client(service)
    own = site.file_request("erasure", "north", subject=SUBJECT)
    site.file_request("erasure", "north", subject="ef" * 32)
    site.report_erasure(north.erasure(SUBJECT))
    states = {view.request_id: view.state for view in site.requests()}
    assert states.pop(own.request_id) == "done"
    assert list(states.values()) == ["open"]


def test_what_is_no_answer_to_a_request(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    site = north.client(service)
    request = service.as_("officer").file_request("erasure", "north")
    with pytest.raises(NotFound, match="no such request"):
        site.report_erasure(north.erasure(), request_id="f" * 32)
    with pytest.raises(MalformedInput, match="leaves the subject's key"):
        site.report_erasure(north.erasure(key_destroyed=False), request_id=request.request_id)
    site.report_erasure(north.erasure(), request_id=request.request_id)
    with pytest.raises(Conflict, match="answered already"):
        site.report_erasure(north.erasure("ef" * 32), request_id=request.request_id)


def test_a_request_is_filed_once(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    officer = service.as_("officer")
    first = officer.file_request("erasure", "north", sealed=b"x", request_id="a" * 32)
    tables = service.tables()
    assert officer.file_request("erasure", "north", sealed=b"x", request_id="a" * 32) == first
    assert service.tables() == tables
    with pytest.raises(Conflict, match="another request"):
        officer.file_request("erasure", "north", sealed=b"y", request_id="a" * 32)
    with pytest.raises(NotFound):
        officer.file_request("erasure", "nowhere")


def test_sealed_identifiers_are_in_no_log_entry(
    service: RunningService, coordinator: Coordinator, north: Site, tmp_path: Path
) -> None:
    service.as_("officer").file_request("erasure", "north", sealed=b"sealed-identifiers")
    assert "sealed-identifiers" not in str(service.entries())
    assert b"sealed-identifiers".hex() not in str(service.entries())
