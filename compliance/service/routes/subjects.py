"""Receipts of erasure.

* The service never learns who a subject is: receipts name the site's own pseudonym.
* An erasure, and the cases of the releases that the subject took part in (`service.erasure_cases`),
  are one change.
* The receipt that a site gets verifies offline, with the log's key alone. So do the follow-ups that
  say what was found and decided of releases; repeating the call gives those that came since.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from fastapi import APIRouter

from compliance import rules
from compliance.erasure_views import ErasureBody, ErasureRecorded
from compliance.service.access import requires
from compliance.service.call import Caller, Office
from compliance.service.erasure_cases import reach_releases, receipt_of
from compliance.service.errors import enforce
from compliance.service.filing import file_statement, find_filed, read_statement, site_key
from compliance.service.gate import GatedRoute
from compliance.statements import ErasureReceipt

router: Final = APIRouter(route_class=GatedRoute, prefix="/v1", tags=["subjects"])


@router.post("/erasures", status_code=201)
@requires("site")
def report_erasure(body: ErasureBody, office: Office, caller: Caller) -> ErasureRecorded:
    """Record a site's erasure receipt, and prove it."""
    with office.writing(caller) as transaction:
        session = transaction.session
        filed = find_filed(session, body.statement, caller.name)
        if filed is not None:
            position = filed.position
        else:
            erasure = read_statement(ErasureReceipt, body.statement, site_key(session, caller))
            enforce(rules.may_speak_for(caller, erasure.site))
            enforce(rules.may_record_erasure(erasure))
            position = file_statement(
                transaction, body.statement, "subject.erased", subject=erasure.subject
            )
            reach_releases(transaction, body.statement.digest, erasure)
        whole = receipt_of(office, session, body.statement.digest)
    return ErasureRecorded(
        position=position,
        receipt=replace(whole, follow_ups=()).to_json(),
        follow_ups=tuple(one.to_json() for one in whole.follow_ups),
    )
