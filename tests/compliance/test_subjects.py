"""Erasure: receipts that verify offline."""

from __future__ import annotations

import json

import pytest

from audit.errors import MalformedInput, VerificationFailed
from audit.receipt import Receipt, verify_receipt
from tests.compliance.federation import Coordinator, Site
from tests.compliance.running import RunningService

SUBJECT = "cd" * 32


def test_an_erasure_is_recorded_and_its_receipt_verifies(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    recorded = north.client(service).report_erasure(north.erasure(SUBJECT))

    receipt = Receipt.parse(json.dumps(recorded.receipt).encode())
    verified = verify_receipt(receipt, service.trust.log_key, north.identity.public)
    assert verified.body["subject"] == SUBJECT
    assert verified.leaf.position == recorded.position


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


def test_what_is_no_erasure(service: RunningService, coordinator: Coordinator, north: Site) -> None:
    with pytest.raises(MalformedInput, match="leaves the subject's key"):
        north.client(service).report_erasure(north.erasure(key_destroyed=False))


def test_a_site_of_before_may_name_the_request_that_it_answered(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    body = {"statement": north.erasure(SUBJECT).to_json(), "request_id": "f" * 32}
    answer = service.http(north.token).post("/v1/erasures", json=body)
    assert answer.status_code == 201, answer.text
