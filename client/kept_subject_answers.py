"""What a site answered to data subjects' requests, kept until the service no longer asks.

An answer is durable here before it is queued, so that one which did not arrive is sent again, the
same, and nothing is acted on twice for it.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Literal

from audit.durable import write_durably
from audit.errors import Refused
from audit.statement import SignedStatement
from client.outbox import Outbox
from client.site import Site
from compliance.statements import Document


class KeptSubjectAnswers:
    """The answers of one site.

    Args:
        site: Whose they are.
    """

    def __init__(self, site: Site) -> None:
        self._folder = site.paths.requests
        self._outbox = Outbox(site)

    def give(self, request_id: str, signed: SignedStatement, package: bytes | None) -> None:
        """Keep an answer, and queue it for the service.

        Args:
            request_id: What it answers.
            signed: The answer.
            package: The copy of the data that goes with it, sealed.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        kept = _KeptAnswer(
            statement=signed.to_json(),
            package=None if package is None else base64.b64encode(package).decode("ascii"),
        )
        write_durably(self._path(request_id), kept.model_dump_json().encode())
        self._outbox.put("subject-answer", signed, package=package)

    def give_again(self, request_id: str) -> bool:
        """Queue an answer that was given before and did not arrive; whether there is one.

        Raises:
            Refused: When the service did not take it.
        """
        kept = self._path(request_id)
        if not kept.exists():
            return False
        item = _KeptAnswer.model_validate_json(kept.read_bytes())
        signed = SignedStatement.from_json(item.statement)
        if self._outbox.was_rejected(signed):
            raise Refused(
                "the compliance service did not take this site's answer",
                fix="see why in the journal, then give another: `client requests answer ID`",
            )
        package = None if item.package is None else base64.b64decode(item.package)
        self._outbox.put("subject-answer", signed, package=package)
        return True

    def forget_all_but(self, still_asked: set[str]) -> None:
        """Drop answers that arrived; the journal has what they say.

        Args:
            still_asked: Requests that the service still asks about.
        """
        waiting = any("-subject-answer-" in path.name for path in self._outbox.files())
        if waiting or not self._folder.is_dir():
            return
        for path in self._folder.glob("*.json"):
            if path.stem not in still_asked:
                path.unlink(missing_ok=True)

    def _path(self, request_id: str) -> Path:
        return self._folder / f"{request_id}.json"


class _KeptAnswer(Document):
    """An answer as the site keeps it, until the service no longer asks."""

    format: Literal["fiduciary.kept-subject-answer/1"] = "fiduciary.kept-subject-answer/1"
    statement: dict[str, object]
    package: str | None = None
