"""Data subjects in tests: who they are, what a site does about them, and what they are told."""

from __future__ import annotations

import base64
import email
import email.policy
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from audit.canonical import digest
from audit.statement import SignedStatement, sign_statement
from compliance.statements import SiteSealingKey, SubjectAnswer, SubjectIdentity, SubjectRight
from compliance.subject_requests_api import seal_to_sites, sealing_key
from compliance.subject_requests_views import FiledRequest, SitePart
from compliance.subject_sealing import Identifiers, open_identifiers
from tests.compliance.federation import Site
from tests.compliance.running import RunningService

SUBJECT = "P-00417-jane-doe"
ADDRESS = "jane.doe@mail.example"

SETTINGS = """\
format = "fiduciary.requests/1"
public = true
jurisdictions = ["gdpr", "ccpa"]
identity = ["site-verified", "email-challenge"]
address = "https://requests.example"

[mail]
kind = "files"
sender = "requests@hospitals.example"
"""


def configure(service: RunningService, settings: str = SETTINGS) -> None:
    (service.folder.path / "requests.toml").write_text(settings, encoding="utf-8")


@dataclass
class Desk:
    """A site's side, by hand."""

    service: RunningService
    site: Site
    key: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)

    def __post_init__(self) -> None:
        self.calls = self.site.client(self.service).subject_requests
        self.calls.publish_key(self.site.name, self.key_statement())

    def key_statement(self, **changes: Any) -> SignedStatement:
        body = {
            "federation": "hospitals",
            "site": self.site.name,
            "public_key": base64.b64encode(self.key.public_key().public_bytes_raw()).decode(),
            **changes,
        }
        return sign_statement(SiteSealingKey.from_body(body).body(), self.site.identity)

    def parts(self) -> dict[str, SitePart]:
        return {part.request_id: part for part in self.calls.parts()}

    def open(self, request_id: str) -> Identifiers:
        sealed = self.parts()[request_id].sealed
        assert sealed is not None
        return open_identifiers(sealed, self.key, request_id=request_id, site=self.site.name)

    def identity(self, request_id: str, **changes: Any) -> SignedStatement:
        body = {
            "request": request_id,
            "site": self.site.name,
            "method": "identity-card",
            "checked_at": "2026-11-02T10:00:00.000Z",
            **changes,
        }
        return sign_statement(SubjectIdentity.from_body(body).body(), self.site.identity)

    def prove(self, request_id: str) -> None:
        self.calls.state_identity(request_id, self.identity(request_id))

    def statement(
        self, request_id: str, right: SubjectRight = "erasure", **fields: Any
    ) -> SignedStatement:
        body = {
            "request": request_id,
            "site": self.site.name,
            "right": right,
            "outcome": "not-found",
            "answered_by": "policy",
            "answered_at": "2026-11-02T11:00:00.000Z",
            **fields,
        }
        return sign_statement(SubjectAnswer.from_body(body).body(), self.site.identity)

    def erase(self, request_id: str, subject: str = "ab" * 32) -> SignedStatement:
        """Report an erasure, and give the answer that names it."""
        receipt = self.site.erasure(subject)
        self.site.client(self.service).report_erasure(receipt)
        answer = self.statement(request_id, outcome="done", records=3, erasures=[receipt.digest])
        self.calls.answer(request_id, answer)
        return answer

    def not_found(self, request_id: str, right: SubjectRight = "erasure") -> None:
        self.calls.answer(request_id, self.statement(request_id, right))

    def hand_over(self, request_id: str, package: bytes) -> None:
        answer = self.statement(
            request_id, "access", outcome="done", package=digest(package), delivery="sealed"
        )
        self.calls.answer(request_id, answer, package=package)


def sealed_for(
    service: RunningService, *sites: str, request_id: str, **fields: Any
) -> dict[str, bytes]:
    """Who it is, sealed as a careful client does it: to keys that the sites signed."""
    offer = service.client().subject_requests.offer()
    keys = {view.site: sealing_key(view) for view in offer.sites if view.site in sites}
    identifiers = Identifiers(subject_ids=(SUBJECT,), **fields)
    return seal_to_sites(identifiers, keys, request_id)


def ask(
    service: RunningService,
    *sites: str,
    right: SubjectRight = "erasure",
    jurisdiction: str = "gdpr",
    email: str | None = None,
    request_id: str | None = None,
) -> FiledRequest:
    """Ask as a subject does, from anywhere."""
    request_id = request_id or secrets.token_hex(16)
    return service.client().subject_requests.ask(
        right,
        jurisdiction,
        sealed_for(service, *sites, request_id=request_id),
        request_id=request_id,
        email=email,
    )


def filed_by_officer(service: RunningService, *sites: str, **options: Any) -> FiledRequest:
    """File as an officer does who got a letter."""
    request_id = options.pop("request_id", None) or secrets.token_hex(16)
    right = options.pop("right", "erasure")
    sealed = sealed_for(service, *sites, request_id=request_id)
    return service.as_("officer").subject_requests.file(
        right, options.pop("jurisdiction", "gdpr"), sealed, request_id=request_id, **options
    )


def mails(folder: Path) -> list[tuple[str, str, str]]:
    """Recipient, title and text of every message, in order."""
    found = []
    for path in sorted((folder / "mail").glob("*.eml")):
        message = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
        body = message.get_body()
        assert body is not None
        found.append((str(message["to"]), str(message["subject"]), body.get_content()))
    return found


def code_in(text: str) -> str:
    """The code in a message."""
    found = re.search(r"\b\d{8}\b", text)
    assert found is not None
    return found[0]


def actions(service: RunningService) -> list[str]:
    """What the log says of requests."""
    return [
        action.removeprefix("subject-request.")
        for _, action, _, _ in service.entries()
        if action.startswith("subject-request.")
    ]
