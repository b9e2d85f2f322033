"""What a data subject is told by mail: no identifier, no result, no receipt code."""

from __future__ import annotations

from typing import Final

from audit.words import count_of
from compliance.service.subject_cases import Case
from compliance.service.subject_codes import CODE_LIFE
from compliance.service.subject_settings import SubjectSettings
from compliance.service.subject_views import ground_text

_STATUS: Final = (
    "You can see where your request stands with the receipt code that you were given{where}.\n"
)


def message(
    purpose: str, case: Case, settings: SubjectSettings, *, code: str = ""
) -> tuple[str, str]:
    """Title and text of a message.

    Args:
        purpose: `received`, `code`, `extended`, `refused`, `completed` or `expired`.
        case: The request.
        settings: Where the service is reached.
        code: Of a message with a code.
    """
    row = case.row
    name = f"Your request {row.request_id[:8]}"
    where = f" at {settings.address}/requests/status" if settings.address else ""
    sites = ", ".join(part.site for part in case.parts)
    lines = _lines(purpose, case, code, sites)
    return f"{name}: {_TITLES[purpose]}", "\n".join([*lines, "", _STATUS.format(where=where)])


_TITLES: Final = {
    "received": "it has come",
    "code": "your code",
    "extended": "it takes longer",
    "refused": "it was refused",
    "completed": "it was answered",
    "expired": "it has expired",
}


def _lines(purpose: str, case: Case, code: str, sites: str) -> list[str]:
    row = case.row
    match purpose:
        case "received":
            return [
                f"Your request ({row.right}) has come. It concerns: {sites}.",
                "First it is checked who asks; then each of them acts and signs its answer.",
                f"You get an answer by {row.due_at[:10]}.",
            ]
        case "code":
            hours = int(CODE_LIFE.total_seconds() // 3600)
            return [
                f"Your code is {code}. It works for {count_of(hours, 'hour')}, once.",
                "Enter it on the page with your receipt code. If you have asked for nothing, do"
                " nothing: without the code nobody is told anything.",
            ]
        case "extended":
            return [f"It takes until {row.due_at[:10]}, because: {row.notice}"]
        case "refused":
            ground = ground_text(row.jurisdiction, row.right, row.ground)
            return [
                f"Your request ({row.right}) was refused: {ground}.",
                *([row.notice] if row.notice else []),
                "You may complain to a supervisory authority, and go to court.",
            ]
        case "completed":
            return ["Every one of them has answered your request.", *filter(None, [row.notice])]
        case _:
            return ["Nobody showed who asks, so the request has ended. You may file a new one."]
