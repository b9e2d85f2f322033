"""Data subjects' requests at the site: fetched, opened, acted on, answered with a signature.

* The site asks; nobody calls it. Identifiers are sealed to a key that this site's identity signed,
  and are opened in memory: none is written or printed but to the operator who asks for it.
* Erasure, objection and restriction are acted on by themselves; everything else waits for the
  operator, unless `requests.toml` says so (`automatic`).
* Acting may be repeated and answers are kept, so a request that a crash interrupted is finished,
  and answered once.
* The action comes first, its journal entry next, the answer last: an answer that says `done` is
  never ahead of what was done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal, Protocol

from audit.canonical import digest
from audit.durable import write_durably
from audit.errors import (
    FiduciaryError,
    MalformedInput,
    NotFound,
    Refused,
    Unauthorised,
    Unreachable,
)
from audit.log import Entry
from audit.statement import SignedStatement, sign_statement
from client.erasure import erase_subject
from client.evidence import EvidenceService
from client.kept_subject_answers import KeptSubjectAnswers
from client.ledger import Ledger
from client.outbox import SubjectAnswers
from client.request_settings import read_request_settings
from client.sealing_keys import destroy_earlier, open_sealed, rotate_key, sealing_statement
from client.site import Site
from client.subject_exclusions import exclude_subjects
from client.subject_package import make_package
from client.vault.store import Vault
from compliance.resources import Recorded
from compliance.rules.deadlines import Ground, deadline_book, may_refuse_on
from compliance.statements import (
    SiteSealingKey,
    SubjectAnswer,
    SubjectIdentity,
    utc_now,
)
from compliance.subject_requests_views import SitePart, SiteWork, TrainedRelease
from compliance.subject_sealing import Identifiers, seal_package

ANSWERED: Final = "subject-request-answered"


class PartService(SubjectAnswers, Protocol):
    """The part of the compliance service that a site's desk talks to."""

    def publish_key(self, site: str, statement: SignedStatement) -> Recorded:
        """Tell to which key identifiers are sealed."""

    def work(self) -> SiteWork:
        """What this site must do, and what is known of its key."""

    def take(self, request_id: str) -> Recorded:
        """State that this site has its part."""

    def state_identity(self, request_id: str, identity: SignedStatement) -> Recorded:
        """State that it is known who asks."""

    def releases(self, request_id: str) -> Sequence[TrainedRelease]:
        """Releases of plans that name this site, and their recipients."""


class DeskService(EvidenceService, Protocol):
    """The compliance service, as the desk sees it."""

    @property
    def subject_requests(self) -> PartService:
        """Requests of data subjects."""


class SubjectDesk:
    """Answers data subjects' requests for one site.

    Args:
        site: Whose subjects they are.
        vault: The site's data.
        ledger: Knows which plans trained.
        service: The compliance service.
        clock: Gives the time as statements write it.
    """

    def __init__(
        self,
        site: Site,
        vault: Vault,
        ledger: Ledger,
        service: DeskService,
        clock: Callable[[], str] = utc_now,
    ) -> None:
        self._site = site
        self._vault = vault
        self._ledger = ledger
        self._service = service
        self._clock = clock
        self._answers = KeptSubjectAnswers(site)

    def publish_key(self) -> str:
        """Tell the service to which key identifiers are sealed. Repeating it changes nothing.

        Returns:
            The digest of the key's statement.

        Raises:
            FiduciaryError: When the service knows a newer key, refuses otherwise or is away.
        """
        statement = sealing_statement(self._site)
        self._service.subject_requests.publish_key(self._site.name, statement)
        return statement.digest

    def parts(self) -> Sequence[SitePart]:
        """What this site must do, the most urgent first."""
        return self._service.subject_requests.work().parts

    def fetch(self) -> Sequence[SitePart]:
        """What this site must do; keys of before are destroyed once nothing needs them."""
        work = self._service.subject_requests.work()
        destroy_earlier(self._site, work.sealing_key)
        return work.parts

    def rotate_key(self) -> SiteSealingKey:
        """Replace the key and tell the service.

        Raises:
            Unreachable: When the service is away; the key is replaced, `client start` tells it.
        """
        known = self._service.subject_requests.work().sealing_key
        stated = rotate_key(self._site, 0 if known is None else known.generation)
        self.publish_key()
        return stated

    def part(self, request_id: str) -> SitePart:
        """One of them, by its id or the first digits of it.

        Raises:
            NotFound: When there is none, or more than one.
        """
        found = [part for part in self.parts() if part.request_id.startswith(request_id)]
        if len(found) != 1 or not request_id:
            raise NotFound(
                f"{len(found)} open requests have an id that begins so",
                fix="list them: `client requests list`",
            )
        return found[0]

    def serve(self, parts: Sequence[SitePart], told: Callable[[str, bool], None]) -> list[SitePart]:
        """Answer what needs no operator.

        Args:
            parts: What this site must do.
            told: Told, in a sentence, what was done, and whether it is a problem.

        Returns:
            What waits for the operator.

        Raises:
            Unreachable: When the service does not answer; it is all tried again later.
        """
        automatic = read_request_settings(self._site.paths.request_settings).automatic
        waiting = []
        self._answers.forget_all_but({part.request_id for part in parts})
        for part in parts:
            if part.sealed is None:
                waiting.append(part)
                continue
            try:
                if self._answers.give_again(part.request_id):
                    continue
                self._take(part)
                if part.right not in automatic:
                    waiting.append(part)
                    continue
                answer = self.act(part, "policy")
                told(f"request {part.request_id[:8]} ({part.right}): {answer.outcome}", False)
            except (Unreachable, Unauthorised):
                raise
            except FiduciaryError as error:
                # One request that cannot be acted on must not hold the others up.
                waiting.append(part)
                told(f"request {part.request_id[:8]} waits: {error}. {error.fix}", True)
        return waiting

    def identify(self, part: SitePart) -> Identifiers:
        """Who it is.

        Raises:
            Refused: When identity is not proven yet: the service has not sent it.
            VerificationFailed: When it was sealed to another key.
        """
        if part.sealed is None:
            raise Refused(
                "the service sends nothing before it is known who asks",
                fix="check who it is, then `client requests confirm ID`",
            )
        return open_sealed(self._site, part.sealed, part.request_id)

    def confirm(self, part: SitePart, method: str) -> None:
        """State that the operator knows who asks.

        Raises:
            FiduciaryError: When the service refuses or does not answer.
        """
        stated = SubjectIdentity.from_body(
            {
                "request": part.request_id,
                "site": self._site.name,
                "method": method,
                "checked_at": self._clock(),
            }
        )
        signed = sign_statement(stated.body(), self._site.identity)
        self._record("subject-request-identified", signed)
        self._service.subject_requests.state_identity(part.request_id, signed)

    def act(
        self,
        part: SitePart,
        by: Literal["policy", "operator"],
        *,
        corrected: bool = False,
    ) -> SubjectAnswer:
        """Do what is asked for, and put the answer into the outbox.

        Args:
            part: The request.
            by: Who decides.
            corrected: Of a rectification: the operator has corrected the records.

        Raises:
            Refused: When the operator must do something first.
            FiduciaryError: When it cannot be done; nothing is answered then.
        """
        identifiers = self.identify(part)
        known = self._known(identifiers)
        if part.right == "objection":
            self._exclude(identifiers.subject_ids, part)
            records, datasets = self._held(known)
            counted = {"records": records, "datasets": datasets}
            return self._answer(part, by, {"outcome": "done", "excluded": True, **counted})
        if not known:
            return self._answer(part, by, {"outcome": "not-found"})
        records, datasets = self._held(known)
        done: dict[str, object] = {"outcome": "done", "records": records, "datasets": datasets}
        package: bytes | None = None
        match part.right:
            case "erasure":
                done |= self._erase(known)
            case "restriction":
                self._exclude(known, part)
                done["excluded"] = True
            case "rectification":
                if not corrected:
                    raise Refused(
                        "only you can correct the records",
                        fix="see `client requests show ID`, correct the file, add it again, then"
                        " `client requests answer ID --corrected`",
                    )
                done["corrected"] = True
            case "access" | "portability":
                package = self._package(part, identifiers, known, done)
        return self._answer(part, by, done, package)

    def decline(self, part: SitePart, *, ground: str | None) -> SubjectAnswer:
        """Say no on a ground of the law; without one, that nobody is known here by these ids.

        Raises:
            Refused: When the law has no such ground. Nothing is signed then.
        """
        outcome: dict[str, object] = {"outcome": "not-found"}
        if ground is not None:
            found = may_refuse_on(deadline_book(), part.jurisdiction, part.right, ground)
            if not isinstance(found, Ground):
                raise Refused(found.reason, fix=found.fix)
            outcome = {"outcome": "refused", "ground": ground}
        return self._answer(part, "operator", outcome)

    # --- inside -------------------------------------------------------------------------------

    def _take(self, part: SitePart) -> None:
        if part.state == "sent":
            self._service.subject_requests.take(part.request_id)

    def _known(self, identifiers: Identifiers) -> list[str]:
        """The ids that the vault knows; of several that are one, the first."""
        found: dict[str, str] = {}
        for subject_id in identifiers.subject_ids:
            try:
                found.setdefault(self._vault.about(subject_id).pseudonym, subject_id)
            except (NotFound, MalformedInput):
                continue
        return list(found.values())

    def _held(self, known: Sequence[str]) -> tuple[int, int]:
        holdings = [self._vault.about(subject_id).datasets for subject_id in known]
        records = sum(count for held in holdings for _, count in held)
        return records, len({dataset.id for held in holdings for dataset, _ in held})

    def _erase(self, known: Sequence[str]) -> dict[str, object]:
        erased = [
            erase_subject(self._site, self._vault, self._ledger, subject_id) for subject_id in known
        ]
        return {
            "records": sum(one.receipt.records_removed for one in erased),
            "datasets": len({name for one in erased for name in one.receipt.datasets}),
            "erasures": [one.statement for one in erased],
        }

    def _exclude(self, subject_ids: Sequence[str], part: SitePart) -> None:
        exclude_subjects(self._site, self._vault, subject_ids, part.request_id, self._clock())

    def _package(
        self,
        part: SitePart,
        identifiers: Identifiers,
        known: Sequence[str],
        done: dict[str, object],
    ) -> bytes | None:
        releases = self._service.subject_requests.releases(part.request_id)
        retention = {
            plan_id: self._service.plan(plan_id).plan.retention_days
            for plan_id in sorted({release.plan_id for release in releases})
        }
        data = make_package(
            self._site, self._vault, known, part, releases, retention, self._clock()
        )
        if identifiers.package_key is None:
            folder = self._site.paths.packages
            folder.mkdir(mode=0o700, exist_ok=True)
            write_durably(folder / f"{part.request_id}.json", data)
            done |= {"package": digest(data), "delivery": "by-operator"}
            return None
        sealed = seal_package(
            data, identifiers.package_key, request_id=part.request_id, site=self._site.name
        )
        done |= {"package": digest(sealed), "delivery": "sealed"}
        return sealed

    def _answer(
        self,
        part: SitePart,
        by: Literal["policy", "operator"],
        fields: dict[str, object],
        package: bytes | None = None,
    ) -> SubjectAnswer:
        answer = SubjectAnswer.from_body(
            {
                "request": part.request_id,
                "site": self._site.name,
                "right": part.right,
                "answered_by": by,
                "answered_at": self._clock(),
                **fields,
            }
        )
        signed = sign_statement(answer.body(), self._site.identity)
        self._record(ANSWERED, signed)
        self._answers.give(part.request_id, signed, package)
        return answer

    def _record(self, action: str, signed: SignedStatement) -> None:
        self._site.journal.record(
            Entry(
                actor=self._site.principal,
                action=action,
                object=signed.log_object,
                subject=None,
                payload={"statement": signed.to_json()},
            )
        )
