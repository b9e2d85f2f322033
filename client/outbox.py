"""Signed statements that the compliance service has not taken yet, one durable file each.

* A statement is in the outbox before anybody tries to send it, so none is lost when the service is
  away or this process is killed.
* Sending repeats: the service records the same statement once.
* Reports about one plan that wait together go in one call. The service records all or none of
  them; where it refuses, they are sent one by one, which tells which of them it means.
* What the service does not answer for stays. What it refuses for good is moved to `rejected/` and
  journalled: it is evidence too, and it must not block the rest.
* The answer to an erasure is the receipt for the data subject, with what was found and decided
  about releases. It is verified, then stored.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from pydantic import ValidationError

from audit.durable import sync_directory, write_durably
from audit.errors import (
    Conflict,
    FiduciaryError,
    MalformedInput,
    NotFound,
    Refused,
    Unauthorised,
    Unreachable,
    VerificationFailed,
)
from audit.log import Entry
from audit.receipt import Receipt, verify_receipt
from audit.statement import SignedStatement
from client.site import Site
from compliance.erasure_views import ErasureRecorded
from compliance.resources import MAX_REPORTS_AT_ONCE, Recorded
from compliance.statements import (
    Document,
    ErasureReceipt,
    SiteReport,
    SubjectAnswer,
    first_problem,
)
from compliance.wire import Octets

Kind = Literal["site-report", "refusal", "erasure", "subject-answer"]

REJECTED = "rejected"

_REJECTIONS = (Conflict, Refused, MalformedInput, NotFound, VerificationFailed)


class SubjectAnswers(Protocol):
    """The part of the compliance service that takes answers to subjects' requests."""

    def answer(
        self, request_id: str, answer: SignedStatement, *, package: bytes | None = None
    ) -> Recorded:
        """Record a SubjectAnswer, with the copy that is sealed to the subject."""


class StatementService(Protocol):
    """The part of the compliance service that takes a site's statements."""

    @property
    def subject_requests(self) -> SubjectAnswers:
        """Takes answers to subjects' requests."""

    def report_site(
        self, plan_id: str, report: SignedStatement, *more: SignedStatement
    ) -> Recorded:
        """Record SiteReports about one plan, all or none."""

    def report_refusal(self, refusal: SignedStatement) -> Recorded:
        """Record a Refusal."""

    def report_erasure(self, erasure: SignedStatement) -> ErasureRecorded:
        """Record an ErasureReceipt and get the receipt that verifies offline."""


class Unsent(Document):
    """One statement that waits, as its file holds it."""

    later: ClassVar[Mapping[str, int]] = {"package": 2}

    format: Literal["fiduciary.unsent/1"] = "fiduciary.unsent/1"
    kind: Kind
    statement: dict[str, Any]
    request_id: str | None = None
    """Of an erasure that was asked for in the way of before. Nothing reads it."""
    package: Octets | None = None
    """The copy of a subject's data that goes with an answer, sealed to the subject."""

    @property
    def signed(self) -> SignedStatement:
        """The statement."""
        return SignedStatement.from_json(self.statement)


@dataclass(frozen=True)
class _Waiting:
    """A file that waits; `plan_id` where it holds a report, which may go with others."""

    path: Path
    item: Unsent
    plan_id: str | None


@dataclass
class Delivery:
    """What one attempt to send did.

    Attributes:
        sent: How many statements the service took.
        waiting: How many still wait.
        rejected: Reasons of those that the service refused for good.
        problem: Why some still wait.
    """

    sent: int = 0
    waiting: int = 0
    rejected: list[str] = field(default_factory=list)
    problem: FiduciaryError | None = None


class Outbox:
    """The outbox of one site.

    Args:
        site: Whose folder, journal and receipts.
        clock_ns: Orders the files; tests may give their own.
    """

    def __init__(self, site: Site, *, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._site = site
        self._folder = site.paths.outbox
        self._clock_ns = clock_ns

    def put(
        self,
        kind: Kind,
        statement: SignedStatement,
        *,
        package: bytes | None = None,
    ) -> None:
        """Keep a statement until it is sent; durable when this returns."""
        digest = statement.digest.removeprefix("sha256:")[:16]
        self._folder.mkdir(mode=0o700, exist_ok=True)
        if any(self._folder.glob(f"*-{digest}.json")):
            return
        item = Unsent(kind=kind, statement=statement.to_json(), package=package)
        name = f"{self._clock_ns():020d}-{kind}-{digest}.json"
        write_durably(self._folder / name, item.model_dump_json().encode())

    def files(self) -> list[Path]:
        """What waits, oldest first."""
        return sorted(self._folder.glob("*.json")) if self._folder.is_dir() else []

    def was_rejected(self, statement: SignedStatement) -> bool:
        """Whether the service refused a statement for good."""
        digest = statement.digest.removeprefix("sha256:")[:16]
        return any((self._folder / REJECTED).glob(f"*-{digest}.json"))

    def send(self, service: StatementService) -> Delivery:
        """Send what waits, oldest first, until the service does not answer."""
        delivery = Delivery()
        try:
            for batch in self._batches(delivery):
                self._send(batch, service, delivery)
        except (Unreachable, Unauthorised) as error:
            delivery.problem = error
        delivery.waiting = len(self.files())
        return delivery

    def _batches(self, delivery: Delivery) -> Iterator[list[_Waiting]]:
        """What waits; neighbouring reports about one plan go together."""
        batch: list[_Waiting] = []
        for path in self.files():
            try:
                found = self._waiting(path)
            except MalformedInput as error:
                self._reject(path, error, delivery)
                continue
            together = batch and batch[-1].plan_id == found.plan_id is not None
            if batch and not (together and len(batch) < MAX_REPORTS_AT_ONCE):
                yield batch
                batch = []
            batch.append(found)
        if batch:
            yield batch

    def _send(self, batch: list[_Waiting], service: StatementService, delivery: Delivery) -> None:
        try:
            self._deliver([waiting.item for waiting in batch], service)
        except _REJECTIONS as error:
            if len(batch) == 1:
                self._reject(batch[0].path, error, delivery)
                return
            for waiting in batch:  # all or none was recorded: one by one tells which is refused
                self._send([waiting], service, delivery)
        else:
            for waiting in batch:
                waiting.path.unlink(missing_ok=True)
            delivery.sent += len(batch)

    def _waiting(self, path: Path) -> _Waiting:
        try:
            item = Unsent.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise MalformedInput(f"malformed {path.name}: {first_problem(error)}") from error
        is_report = item.kind == "site-report"
        return _Waiting(
            path, item, SiteReport.from_body(item.signed.body).plan_id if is_report else None
        )

    def _deliver(self, items: Sequence[Unsent], service: StatementService) -> None:
        item, (signed, *more) = items[0], [each.signed for each in items]
        match item.kind:
            case "site-report":
                service.report_site(SiteReport.from_body(signed.body).plan_id, signed, *more)
            case "refusal":
                service.report_refusal(signed)
            case "erasure":
                answer = service.report_erasure(signed)
                self._store_receipt(signed, answer)
            case "subject-answer":
                request = SubjectAnswer.from_body(signed.body).request
                service.subject_requests.answer(request, signed, package=item.package)

    def _store_receipt(self, signed: SignedStatement, answer: ErasureRecorded) -> None:
        follow_ups = tuple(Receipt.from_json(one) for one in answer.follow_ups)
        receipt = replace(Receipt.from_json(answer.receipt), follow_ups=follow_ups)
        if receipt.statement.digest != signed.digest:
            raise VerificationFailed("the service's receipt is for another statement")
        verify_receipt(receipt, self._site.trust.log_key, self._site.identity.public)
        subject = ErasureReceipt.from_body(signed.body).subject
        write_receipt(receipt_path(self._site, subject), receipt)

    def _reject(self, path: Path, error: FiduciaryError, delivery: Delivery) -> None:
        delivery.rejected.append(str(error))
        self._site.journal.record(
            Entry(
                actor=self._site.principal,
                action="statement-rejected",
                object=f"outbox:{path.stem}",
                subject=None,
                payload={"code": error.code, "reason": str(error)[:500]},
            )
        )
        rejected = self._folder / REJECTED
        rejected.mkdir(mode=0o700, exist_ok=True)
        path.rename(rejected / path.name)
        sync_directory(self._folder)


def receipt_path(site: Site, pseudonym: str) -> Path:
    """Where the compliance service's receipt of an erasure is."""
    return site.paths.receipts / f"{pseudonym[:16]}.json"


def own_receipt_path(site: Site, pseudonym: str) -> Path:
    """Where the receipt is that the site's own journal proves, there from the first moment."""
    return site.paths.receipts / f"{pseudonym[:16]}.site.json"


def write_receipt(path: Path, receipt: Receipt) -> None:
    """Write a receipt file, durably."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    write_durably(path, (json.dumps(receipt.to_json(), indent=2) + "\n").encode())
