"""Why a site was not counted in, as a code of a short list; the sentence is for people.

The sentences are those of `server.rounds` and of the site itself. A site chooses the words of its
refusal, so none of them may become a label or an id.
"""

from __future__ import annotations

from typing import Final, Literal

AbsenceCode = Literal["offline", "deadline", "not-needed", "refused", "not-accepted", "lost"]

MEANINGS: Final[dict[AbsenceCode, str]] = {
    "offline": "it was not connected",
    "deadline": "it did not answer in time",
    "not-needed": "it was not waited for, as a quorum had become impossible",
    "refused": "it said no; its own status has the reason",
    "not-accepted": "its answer was not what was asked for",
    "lost": "its answer was lost on the way, or its connection was",
}

_BEGINNINGS: Final[tuple[tuple[str, AbsenceCode], ...]] = (
    ("offline", "offline"),
    ("no answer within", "deadline"),
    ("not waited for", "not-needed"),
    ("refused: ", "refused"),
    ("answer not accepted: ", "not-accepted"),
)


def absence_code(reason: str) -> AbsenceCode:
    """The code of a reason that an exchange gave.

    >>> absence_code("refused: purpose: not here"), absence_code("it lost its connection")
    ('refused', 'lost')
    """
    for beginning, code in _BEGINNINGS:
        if reason.startswith(beginning):
            return code
    return "lost"
