"""Data subjects' requests from anywhere, without a token.

* Nothing is offered unless the operator's `requests.toml` says so.
* A receipt code is all that shows a request. A wrong, malformed or unknown one gets the same answer
  after the same work, and nothing is written: no difference tells whether a request exists.
* Addresses are limited whether they succeed or not.
"""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response

from audit.errors import NotFound
from compliance import rules
from compliance.rules import subject_requests as machine
from compliance.rules.deadlines import deadline_book
from compliance.service.access import public, public_counted
from compliance.service.call import Office, address_of
from compliance.service.errors import Denied, TooManyAttempts
from compliance.service.gate import GatedRoute
from compliance.service.problems import problem_response
from compliance.service.registry import Registry
from compliance.service.subject_cases import Case, send_to_sites, write_mail
from compliance.service.subject_codes import ask_identity, find_case, receipt_code, try_code
from compliance.service.subject_filing import file_case
from compliance.service.subject_settings import subject_settings
from compliance.service.subject_views import filed_view, public_status, site_keys
from compliance.subject_requests_views import (
    CodeBody,
    FiledRequest,
    PackageBody,
    PublicOffer,
    PublicRequestBody,
    PublicStatus,
    ReceiptBody,
    SealedPackage,
)

router: Final = APIRouter(route_class=GatedRoute, prefix="/v1/public", tags=["public requests"])

_WRONG_CODE: Final = rules.Refused(
    "code-refused",
    "the code is not right, was used, or is too old",
    "check it, or ask for a new one",
)


@router.get("/offer")
@public
def show_offer(office: Office) -> PublicOffer:
    """What may be asked for here, and to which keys identifiers are sealed."""
    settings = subject_settings(office.folder)
    if not settings.public:
        raise _nothing_offered()
    with office.reading() as session:
        return PublicOffer(
            jurisdictions=settings.jurisdictions,
            identity=tuple(
                method
                for method in settings.identity
                if method != "email-challenge" or settings.mail is not None
            ),
            sites=tuple(site_keys(session)),
            without_proof={
                rule.jurisdiction: rule.kinds
                for rule in deadline_book().without_proof
                if rule.jurisdiction in settings.jurisdictions
            },
        )


@router.post("/requests", status_code=201)
@public
def file_request(body: PublicRequestBody, office: Office, request: Request) -> FiledRequest:
    """File a request. The answer confirms that it came and holds the receipt code, this once."""
    settings = subject_settings(office.folder)
    if not settings.public:
        raise _nothing_offered()
    if not office.public_throttle.may_file(address_of(request), office.clock()):
        raise _too_many()
    if not settings.offers(body.jurisdiction, body.identity):
        raise Denied(
            rules.Refused(
                "not-offered",
                "this jurisdiction, or this way to show who asks, is not offered here",
                "see what is: GET /v1/public/offer",
                "malformed",
            )
        )
    if (body.identity == "email-challenge") != (body.email is not None):
        raise Denied(
            rules.Refused(
                "address-missing",
                "an address for mail comes with a code by mail",
                status="malformed",
            )
        )
    with office.writing(None) as transaction:
        case, is_new = file_case(transaction, body, settings, transaction.now)
        if is_new:
            case.row.confirmed_at = transaction.time  # the answer says what was received
            ask_identity(transaction, case)
        return filed_view(case, receipt_code(office, body.request_id))


@router.post("/requests/status", response_model=PublicStatus)
@public
def show_status(body: ReceiptBody, office: Office, request: Request) -> PublicStatus | Response:
    """Where a request stands."""
    case = look_up(office, request, body.receipt_code)
    return problem_response(unknown_code()) if case is None else public_status(case)


@router.post("/requests/identity", response_model=PublicStatus)
@public_counted
def prove_identity(body: CodeBody, office: Office, request: Request) -> PublicStatus | Response:
    """Show with the code that was mailed that the address is one's own."""
    case = look_up(office, request, body.receipt_code)
    if case is None:
        return problem_response(unknown_code())
    return public_status(prove(office, body.receipt_code, body.code))


@router.post("/requests/code", response_model=PublicStatus)
@public
def send_code(body: ReceiptBody, office: Office, request: Request) -> PublicStatus | Response:
    """Send a new code to the same address."""
    if look_up(office, request, body.receipt_code) is None:
        return problem_response(unknown_code())
    return public_status(mail_code(office, body.receipt_code))


@router.post("/requests/package", response_model=SealedPackage)
@public
def fetch_package(body: PackageBody, office: Office, request: Request) -> SealedPackage | Response:
    """A site's copy of the subject's data, sealed to the subject."""
    case = look_up(office, request, body.receipt_code)
    part = None
    if case is not None:
        part = next((one for one in case.parts if one.site == body.site), None)
    if case is None or part is None or part.package is None:
        return problem_response(unknown_code())
    with office.writing(None) as transaction:
        transaction.record(
            "subject-request.package-fetched",
            case.log_object,
            {"site": body.site},
            site=body.site,
        )
    return SealedPackage(request_id=case.row.request_id, site=body.site, sealed=part.package)


def look_up(office: Registry, request: Request, code: str) -> Case | None:
    """The request of a receipt code, for whoever shows one.

    Raises:
        TooManyAttempts: When the address asked too often, rightly or not.
    """
    if not office.public_throttle.may_look(address_of(request), office.clock()):
        raise _too_many()
    with office.reading() as session:
        case = find_case(session, code)
        session.expunge_all()  # it is read only, and outlives the session
        return case


def mail_code(office: Registry, receipt: str) -> Case:
    """Mail a new code to the address that a request names.

    Raises:
        Denied: When the request is not about a code by mail, or enough were mailed.
    """
    with office.writing(None) as transaction:
        case = _found(find_case(transaction.session, receipt))
        if case.row.identity != "email-challenge":
            raise Denied(
                rules.Refused(
                    "no-code", "this request is not about a code by mail", status="conflict"
                )
            )
        ask_identity(transaction, case)
        return case


def prove(office: Registry, receipt: str, code: str) -> Case:
    """Try a mailed code. A wrong one is counted before it is refused.

    Raises:
        Denied: When it is wrong, or nothing is to be proven any more.
    """
    with office.writing(None) as transaction:
        case = _found(find_case(transaction.session, receipt))
        if case.row.stage not in machine.WITHOUT_IDENTITY:
            return case
        right = try_code(transaction, case, code)
        if right:
            send_to_sites(transaction, case)
            write_mail(transaction, case, "received")
    if not right:
        raise Denied(_WRONG_CODE)
    return case


def unknown_code() -> NotFound:
    """What is said of every code that shows nothing."""
    return NotFound(
        "there is no request with this receipt code", fix="check the code letter by letter"
    )


def _found(case: Case | None) -> Case:
    if case is None:
        raise unknown_code()
    return case


def _nothing_offered() -> NotFound:
    return NotFound(
        "this service takes no requests from the public",
        fix="ask the hospital or company that has your data, in writing",
    )


def _too_many() -> TooManyAttempts:
    return TooManyAttempts("too many requests from this address", fix="wait, and try again")
