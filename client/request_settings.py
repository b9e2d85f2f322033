"""`requests.toml` in the site's folder: which requests of data subjects need nobody to look."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from compliance.statements import Document, SubjectRight
from compliance.toml_file import load_toml

AUTOMATIC: Final[tuple[SubjectRight, ...]] = ("erasure", "objection", "restriction")
"""What nobody need look at: it gives nothing away."""

Rights = Annotated[tuple[SubjectRight, ...], Field(max_length=6)]


class RequestSettings(Document):
    """`requests.toml` in the site's folder.

    `automatic` names the rights that are acted on without the operator. With `access` or
    `portability`, a copy goes out without anybody having looked at it, sealed to the key that came
    with the request.
    """

    format: Literal["fiduciary.site-requests/1"] = "fiduciary.site-requests/1"
    automatic: Rights = AUTOMATIC


def read_request_settings(path: Path) -> RequestSettings:
    """Read the operator's choices.

    Raises:
        MalformedInput: With the line or key that is wrong.
    """
    try:
        return load_toml(path, RequestSettings, fix=f"correct {path}")
    except FileNotFoundError:
        return RequestSettings()
