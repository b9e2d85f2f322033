"""A report as a file: HTML for people, Markdown for text, JSON for programs.

* The same document gives the same bytes.
* Whatever somebody else wrote is text: the HTML environment escapes every value, the Markdown one
  backslashes every character that Markdown, GitHub's included, gives a meaning to. Neither looks
  for templates in what it shows.
* Control characters, and those that turn the direction of text round (Trojan Source,
  CVE-2021-42574), are shown as U+FFFD: a report reads as it was written.
* The page loads nothing and runs nothing; its own policy forbids both.
"""

from __future__ import annotations

import base64
import json
import re
from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from compliance.report_views import EvidenceLink, ReportDocument, ReportFormat
from compliance.reports.charts import draw

DISCLAIMER: Final = (
    "Made by a program from what it did and from what people stated. It is no legal advice, and it "
    "does not say that the law is met: read it, complete it, and ask your counsel."
)

LINKS_SHOWN: Final = 8
"""Entries that a line links to before the others are folded away."""

_TEMPLATES: Final = Path(__file__).parent / "templates"

_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]"
)
_MARKDOWN: Final = re.compile(r"([\\`*_{}\[\]<>|~#&!$@])")
_ADDRESS: Final = re.compile(r"(?i)\b(https?|ftp|mailto|xmpp)(:)|\b(www)(\.)")
_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d{3})?Z", re.ASCII)
_SPACE: Final = re.compile(r"\s+")


def render(document: ReportDocument, wanted: ReportFormat) -> bytes:
    """The file."""
    match wanted:
        case "html":
            text = _html().get_template("report.html.j2").render(**_values(document))
        case "markdown":
            text = _markdown().get_template("report.md.j2").render(**_values(document))
        case "json":
            dumped = document.model_dump(mode="json")
            text = json.dumps(dumped, indent=2, ensure_ascii=False) + "\n"
    return text.encode("utf-8")


def clean(value: Any) -> Any:
    r"""A value without characters that are not seen; a time as people write it, to the second.

    >>> clean("2026-11-02T11:20:00.000Z"), clean("safe\u202etxt")
    ('2026-11-02 11:20:00 UTC', 'safe\ufffdtxt')
    """
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    whole_time = _TIME.fullmatch(value)
    if whole_time:
        return f"{whole_time[1]} {whole_time[2]} UTC"
    return _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", value)


def escape_markdown(value: Any) -> Any:
    r"""A value that Markdown shows as it is, on one line.

    >>> print(escape_markdown("[x](y) <b>"))
    \[x\](y) \<b\>
    """
    if isinstance(value, Markup):
        return value
    text = _SPACE.sub(" ", f"{clean(f'{value}')}").strip()
    text = _MARKDOWN.sub(r"\\\1", text)
    return _ADDRESS.sub(lambda match: f"{match[1] or match[3]}\\{match[2] or match[4]}", text)


def proof_address(proof: str) -> Markup:
    """A proof as a `data:` address, for a link that saves it."""
    encoded = base64.b64encode(proof.encode("utf-8")).decode("ascii")
    return Markup(f"data:application/octet-stream;base64,{encoded}")  # noqa: S704  base64 only


def markdown_links(evidence: EvidenceLink) -> Markup:
    """Links to entries of the evidence list."""
    links = ", ".join(f"[{position}](#entry-{position})" for position in evidence.positions)
    return Markup(links)  # noqa: S704  numbers only


def _values(document: ReportDocument) -> dict[str, Any]:
    return {"report": document, "disclaimer": DISCLAIMER, "links_shown": LINKS_SHOWN}


def _environment(**options: Any) -> Environment:
    environment = Environment(  # noqa: S701  its two callers say what escapes
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )
    environment.globals.update(draw=draw)
    environment.filters.update(
        links=markdown_links,
        proof_address=proof_address,
    )
    return environment


@cache
def _html() -> Environment:
    return _environment(autoescape=True, finalize=clean)


@cache
def _markdown() -> Environment:
    # Every value passes `escape_markdown`; HTML's escapes would be shown as they are.
    return _environment(autoescape=False, finalize=escape_markdown)
