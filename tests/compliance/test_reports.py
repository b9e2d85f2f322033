"""Reports: every figure against the raw log, every link against its proof, hostile text, an empty
system, the file against the log."""

from __future__ import annotations

import base64
import html
import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from audit import cli as audit_cli
from audit.canonical import digest
from audit.errors import (
    ExitCode,
    FiduciaryError,
    MalformedInput,
    NotFound,
    Unreachable,
    VerificationFailed,
)
from audit.leaf import Leaf
from audit.log import action_key_name
from audit.merkle import hash_leaf
from audit.proof import Proof, verify_proof
from compliance import cli
from compliance.report_views import ReportDocument, Section
from compliance.reports import AUTHORS
from compliance.reports.drafting import blanks_of, positions_of
from compliance.reports.organisation import FILE, parse_organisation, template
from compliance.reports.rendering import render
from compliance.rules.registers import default_law
from compliance.statements import format_time
from tests.compliance.browser import browser
from tests.compliance.federation import Consumer, Coordinator
from tests.compliance.recomputing import figures, tables
from tests.compliance.reporting import HOSTILE, History, fresh_service, make_history

NAMES = [report.name for report in default_law().report]
CHROMIUM = shutil.which("chromium")
LAW = default_law()


@pytest.fixture(scope="module")
def history() -> Iterator[History]:
    with fresh_service() as service:
        yield make_history(service)


@pytest.fixture(scope="module")
def documents(history: History) -> dict[str, ReportDocument]:
    """Each report once, in JSON."""
    return {name: history.officer.reports.document(name) for name in NAMES}


@pytest.fixture(scope="module")
def pages(documents: dict[str, ReportDocument]) -> dict[str, str]:
    """Each report as a page."""
    return {name: render(made, "html").decode() for name, made in documents.items()}


# --- the law --------------------------------------------------------------------------------------


def test_each_report_of_the_law_can_be_made_and_none_else(history: History) -> None:
    assert set(AUTHORS) == set(NAMES)
    listed = history.service.as_("auditor").reports.list()
    assert [kind.name for kind in listed] == NAMES
    with pytest.raises(NotFound, match="no such report"):
        history.officer.reports.make("gdpr-99")


@pytest.mark.parametrize("name", NAMES)
def test_a_report_has_the_sections_of_the_law_in_its_order(
    documents: dict[str, ReportDocument], name: str
) -> None:
    law = LAW.report_of(name)
    assert law is not None
    made = documents[name]
    assert [(s.id, s.article, s.states) for s in made.sections] == [
        (s.id, s.article, s.states) for s in law.section
    ]
    assert made.as_of == LAW.version
    for section, asked in zip(made.sections, law.section, strict=True):
        said = section.figures or section.tables
        assert said, f"{name}/{section.id} says nothing at all"
        assert {figure.key for figure in section.figures if figure.key} == {
            people.key for people in asked.people
        }


# --- every figure ---------------------------------------------------------------------------------


def system_figures(made: ReportDocument) -> dict[str, str]:
    return {
        f"{section.id}/{figure.id}": f"{figure.value}"
        for section in made.sections
        for figure in section.figures
        if figure.stated_by == "system"
    }


@pytest.mark.parametrize("name", NAMES)
def test_each_figure_is_what_the_raw_log_says(
    history: History, documents: dict[str, ReportDocument], name: str
) -> None:
    made = documents[name]
    assert system_figures(made) == figures(history, name, made.log_size)


@pytest.mark.parametrize("name", NAMES)
def test_each_table_is_what_the_raw_log_says(
    history: History, documents: dict[str, ReportDocument], name: str
) -> None:
    made = documents[name]
    expected = tables(history, name, made.log_size)
    shown = {f"{s.id}/{t.id}": t for s in made.sections for t in s.tables}
    witnesses = {"measures/witnesses", "cybersecurity/witnesses"}
    assert set(expected) == set(shown) - witnesses
    for key, rows in expected.items():
        width = len(rows[0]) if rows else 0
        assert [row.cells[:width] for row in shown[key].rows] == rows, key
        assert all(len(row.cells) == len(shown[key].heads) for row in shown[key].rows)
        assert all(row.evidence.positions for row in shown[key].rows), f"{key} proves nothing"


def test_a_bar_is_what_its_row_says(documents: dict[str, ReportDocument]) -> None:
    section = next(s for s in documents["gdpr-33"].sections if s.id == "authority")
    (chart,) = section.charts
    assert [(bar.label, f"{bar.value}", f"{bar.limit}") for bar in chart.bars] == [
        ("letters", "2.0", "72"), ("mail", "76.0", "72"), ("late", "76.0", "72"),
    ]  # fmt: skip


# --- every link -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_each_link_leads_to_an_entry_that_the_log_proves(
    history: History, documents: dict[str, ReportDocument], name: str
) -> None:
    made = documents[name]
    by_position = {entry.position: entry for entry in history.entries()}
    assert positions_of(made.sections) == tuple(entry.position for entry in made.evidence)
    for entry in made.evidence:
        raw = by_position[entry.position]
        assert (entry.time, entry.actor, entry.action, entry.object) == (
            raw.time, raw.actor, raw.action, raw.object,
        )  # fmt: skip
        assert entry.proof is not None
        proof = Proof.parse(entry.proof)
        checkpoint = verify_proof(proof, history.service.trust.log_key)
        assert checkpoint.size == made.log_size
        assert proof.extra is not None
        assert hash_leaf(proof.extra).hex() == entry.leaf_hash
        assert Leaf.parse(proof.extra).position == entry.position == proof.index


class Page(HTMLParser):
    """Tags, identities and addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.identities: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name == "id":
                self.identities.append(value or "")
            if name in ("href", "src", "action", "xlink:href"):
                self.links.append(value or "")


@pytest.mark.parametrize("name", NAMES)
def test_a_page_leads_nowhere_but_to_its_own_evidence(
    documents: dict[str, ReportDocument], pages: dict[str, str], name: str
) -> None:
    page = Page(pages[name])
    assert len(set(page.identities)) == len(page.identities)
    inner = {link[1:] for link in page.links if link.startswith("#")}
    assert inner <= set(page.identities)
    proofs = [link for link in page.links if not link.startswith("#")]
    saved = [
        base64.b64decode(link.removeprefix("data:application/octet-stream;base64,"), validate=True)
        for link in proofs
    ]
    assert [text.decode() for text in saved] == [e.proof for e in documents[name].evidence]
    assert page.tags.isdisjoint({"script", "img", "iframe", "object", "link", "form", "base"})
    assert not any(attribute.startswith("on") for attribute in page.attributes)


def test_a_saved_proof_is_one_that_audit_verifies(
    history: History,
    documents: dict[str, ReportDocument],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    entry = documents["gdpr-33"].evidence[0]
    assert entry.proof is not None
    file = tmp_path / "entry.tlog-proof"
    file.write_text(entry.proof, "utf-8")
    key = history.service.trust.log_key.encoded()
    for text, code in ((entry.proof, 0), (_other_leaf(entry.proof), ExitCode.VERIFICATION_FAILED)):
        file.write_text(text, "utf-8")
        monkeypatch.setattr(sys, "argv", ["audit", "verify-proof", str(file), "--key", key])
        with pytest.raises(SystemExit) as ended:
            audit_cli.main()
        assert int(str(ended.value.code or 0)) == code
        if not code:
            assert entry.object in capsys.readouterr().out


def _other_leaf(proof: str) -> str:
    extra = base64.b64decode(proof.splitlines()[1].removeprefix("extra "))
    other = base64.b64encode(extra.replace(b"officer", b"0fficer")).decode()
    return "\n".join([proof.splitlines()[0], f"extra {other}", *proof.split("\n")[2:]])


# --- hostile text ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_hostile_text_is_text_in_html(
    documents: dict[str, ReportDocument], pages: dict[str, str], name: str
) -> None:
    hostile = "alert(1)" in documents[name].model_dump_json()
    text = pages[name]
    assert "\u202e" not in text
    assert "<script" not in text
    assert text.count("{{ 7 * 7 }}") == text.count("alert(1)&lt;/script&gt;")
    assert ("&lt;script&gt;alert(1)&lt;/script&gt;" in text) == hostile


@pytest.mark.parametrize("name", NAMES)
def test_hostile_text_is_text_in_markdown(documents: dict[str, ReportDocument], name: str) -> None:
    made = documents[name]
    text = render(made, "markdown").decode()
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    inline = [child for token in tokens for child in token.children or ()]
    kinds = {token.type for token in (*tokens, *inline)}
    assert kinds.isdisjoint({"html_block", "html_inline", "image", "fence", "code_block"})
    links = {f"{token.attrs['href']}" for token in inline if token.type == "link_open"}
    assert all(re.fullmatch(r"#entry-\d+", link) for link in links)
    entries = {f"Entry {entry.position}" for entry in made.evidence}
    headings = [
        following.content
        for token, following in itertools.pairwise(tokens)
        if token.type == "heading_open"
    ]
    assert {link.replace("#entry-", "Entry ") for link in links} == entries & set(headings)
    expected = 2 + len(made.sections) + len(entries) + sum(len(s.tables) for s in made.sections)
    assert len(headings) == expected
    rows = sum(len(table.rows) + 1 for s in made.sections for table in s.tables if table.rows)
    assert sum(token.type == "tr_open" for token in tokens) == rows
    if "alert(1)" in made.model_dump_json():
        words = "".join(token.content for token in inline if token.type in ("text", "text_special"))
        assert "<script>alert(1)</script> {{ 7 * 7 }} {% raw %} ${7*7}" in words


def test_the_history_is_hostile_where_somebody_can_write(
    documents: dict[str, ReportDocument],
) -> None:
    hostile = {name for name, made in documents.items() if "alert(1)" in made.model_dump_json()}
    assert "gdpr-33" in hostile


# --- an empty system ------------------------------------------------------------------------------


def test_an_empty_system_says_that_nothing_was_done() -> None:
    with fresh_service() as service:
        made = {name: service.as_("officer").reports.document(name) for name in NAMES}
        for name, document in made.items():
            filled = {
                f"{section.id}/{table.id}"
                for section in document.sections
                for table in section.tables
                if table.rows
            }
            assert filled <= {"log/actions", "reports/reports", "retention/rules"}
            assert not any(section.charts for section in document.sections)
            assert "python" not in render(document, "html").decode().lower(), name
            for key, value in system_figures(document).items():
                assert re.match(r"0\b|none\b|no\b|\d+$|\d{4}-\d\d-\d\d$", value), f"{key}: {value}"
    assert system_figures(made["gdpr-33"])["register/breaches"] == "0"
    assert system_figures(made["overview"])["training/plans"] == "0"


# --- what people state ----------------------------------------------------------------------------


def test_what_people_state_stands_where_the_law_asks_and_nothing_is_made_up(
    history: History, documents: dict[str, ReportDocument]
) -> None:
    blanks = [
        figure
        for section in documents["gdpr-30-controller"].sections
        for figure in section.figures
        if figure.stated_by == "nobody"
    ]
    assert len(blanks) == documents["gdpr-30-controller"].blanks == 11
    assert {figure.value for figure in blanks} == {None}
    file = history.service.folder.path / FILE
    file.write_text(
        'format = "fiduciary.organisation/1"\n[controller]\n'
        f'name = """General Hospital {HOSTILE}"""\ncontact = ["1 Main Street", "City"]\n'
        'representative = "  "\n',
        "utf-8",
    )
    try:
        made = history.officer.reports.document("gdpr-30-controller")
        who = made.sections[0]
        assert who.figures[0].value == f"General Hospital {HOSTILE}"
        assert (who.figures[0].stated_by, who.figures[1].value) == (
            "organisation", "1 Main Street\nCity",
        )  # fmt: skip
        assert who.figures[3].value is None, "white space states nothing"
        assert made.blanks == 9
        assert made.organisation == digest(file.read_bytes())
        entry = history.entries("report.made")[-1]
        assert entry.payload["organisation"] == made.organisation
        assert "<script" not in render(made, "html").decode()
        for text, reason in (
            ('format = "fiduciary.organisation/1"\n[controller]\nnmae = "x"', "controller.nmae"),
            ("[controller]", "no known format"),
            ("not toml", "malformed"),
        ):
            file.write_text(text, "utf-8")
            with pytest.raises(Unreachable, match=reason):
                history.officer.reports.make("gdpr-30-controller")
    finally:
        file.unlink()


def test_the_template_asks_for_all_that_people_owe() -> None:
    text = template(LAW)
    assert parse_organisation(text.encode(), LAW).stated == {}
    filled = re.sub(r'^#(\w+) = ""$', r'\1 = "stated"', text, flags=re.MULTILINE)
    stated = parse_organisation(filled.encode(), LAW).stated
    assert set(stated) == {people.key for _, people in LAW.people_state()}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("controller = 1", "expected a table"),
        ("[controller]\nname = 1", "expected a text"),
        ("[controller]\nname = [1]", "expected a text"),
        (f'[controller]\nname = "{"x" * 10_001}"', "more than 10000"),
    ],
)
def test_an_organisation_that_cannot_be_read(text: str, reason: str) -> None:
    with pytest.raises(MalformedInput, match=reason):
        parse_organisation(f'format = "fiduciary.organisation/1"\n{text}'.encode(), LAW)


# --- the file and the log -------------------------------------------------------------------------


def test_no_entry_no_report(history: History) -> None:
    before = len(history.entries())
    history.service.faults.append = True
    try:
        with pytest.raises(Unreachable, match="audit entry"):
            history.officer.reports.make("overview")
    finally:
        history.service.faults.append = False
    assert len(history.entries()) == before


def test_the_same_document_is_the_same_file(documents: dict[str, ReportDocument]) -> None:
    made = documents["gdpr-33"]
    for wanted in ("html", "markdown", "json"):
        assert render(made, wanted) == render(made.model_copy(), wanted)


def test_a_forgotten_payload_is_said_to_be_forgotten(tmp_path: Path) -> None:
    with fresh_service() as service:
        coordinator = Coordinator(service)
        coordinator.register()
        north, officer = coordinator.welcome("north"), service.as_("officer")
        plan_id = coordinator.approved_plan()
        coordinator.run(plan_id, north)
        release = coordinator.release(plan_id)
        coordinator.api.submit_release(release.manifest, sealed_key=release.sealed_key)
        coordinator.api.upload_release(release.release_id, release.file(tmp_path))
        officer.approve_release(release.release_id)
        desk = Consumer(service)
        until = format_time(service.clock() + timedelta(days=2))
        officer.grant(
            release.release_id, desk.name, public_key=desk.public_key, purpose="triage",
            expires_at=until,
        )  # fmt: skip
        service.registry.keyring.destroy(action_key_name("release.granted", "2026-11"))
        made = officer.reports.document("gdpr-30-controller")
        recipients = next(section for section in made.sections if section.id == "recipients")
        (grants,) = recipients.tables
        assert {row.cells[0] for row in grants.rows} == {"(forgotten)"}
        assert all(row.evidence.positions for row in grants.rows)


def test_of_very_many_entries_the_newest_are_linked_and_the_way_to_all_is_named(
    history: History,
) -> None:
    with history.service.http("wrong") as nobody:
        for _ in range(3):
            for _ in range(20):
                nobody.get("/v1/plans")
            history.service.clock.advance(minutes=2)
    made = history.officer.reports.document("gdpr-30-controller")
    measures = next(section for section in made.sections if section.id == "measures")
    (refused,) = (figure for figure in measures.figures if figure.id == "refused-calls")
    raw = [entry.position for entry in history.entries("request.refused")]
    assert refused.value == f"{len(raw)}"
    assert list(refused.evidence.positions) == raw[-50:]
    assert refused.evidence.more == len(raw) - 50 > 0
    assert "compliance log --action request.refused" in render(made, "html").decode()
    assert "compliance log --action request.refused" in render(made, "markdown").decode()


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    history: History,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    history.service.trust.save(tmp_path / "trust.json")
    monkeypatch.setenv("FIDUCIARY_TRUST", str(tmp_path / "trust.json"))
    monkeypatch.setenv("FIDUCIARY_TOKEN_FILE", str(history.service.folder.token("auditor")))

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["compliance", "report", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return int(str(ended.value.code or 0)), captured.out, captured.err

    return run


def test_an_auditor_makes_a_report_and_anybody_can_check_the_file(
    history: History, run: Run, tmp_path: Path
) -> None:
    code, out, _ = run()
    assert code == 0
    assert all(name in out for name in NAMES)
    code, out, _ = run("gdpr-33")
    assert out.startswith("# Register of personal data breaches\n")
    code, out, _ = run("gdpr-33", "--json")
    assert json.loads(out)["name"] == "gdpr-33"
    assert run("gdpr-33", "-o", str(tmp_path / "x.pdf"))[0] == ExitCode.MALFORMED_INPUT

    for ending in ("html", "md", "json"):
        file = tmp_path / f"breaches.{ending}"
        code, _, err = run("gdpr-33", "-o", str(file))
        assert code == 0
        assert digest(file.read_bytes()) in err.replace("\n", "")
        proof = Proof.parse(file.with_name(f"{file.name}.tlog-proof").read_text("utf-8"))
        verify_proof(proof, history.service.trust.log_key)
        assert proof.extra is not None
        assert Leaf.parse(proof.extra).object == f"report:{digest(file.read_bytes())}"
        code, out, _ = run("gdpr-33", "--verify", str(file), "--json")
        verified = json.loads(out)
        assert (code, verified["report"], verified["made_by"]) == (0, "gdpr-33", "auditor")
        assert verified["position"] == proof.index
    assert run("overview", "--verify", str(file))[0] == ExitCode.VERIFICATION_FAILED
    file.write_bytes(file.read_bytes().replace(b"letters", b"Letters", 1))
    code, _, err = run("gdpr-33", "--verify", str(file))
    assert code == ExitCode.VERIFICATION_FAILED
    assert "was changed" in err
    assert run("--verify", str(tmp_path / "none"))[0] == ExitCode.NOT_FOUND


def test_a_proof_of_something_else_is_no_proof_of_the_file(history: History) -> None:
    made = history.officer.reports.make("overview", "json")
    other = made.model_copy(update={"position": made.position - 1})
    with pytest.raises(VerificationFailed, match="not that this file was made"):
        history.officer.reports.proof(other)
    with pytest.raises(FiduciaryError):
        history.officer.reports.proof(made.model_copy(update={"position": 10**9}))


# --- in a browser ---------------------------------------------------------------------------------


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium: apt-get install chromium")
def test_a_page_in_a_browser(pages: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(pages["gdpr-33"], "utf-8")
    shown = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom", file.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout  # fmt: skip
    assert "<title>Register of personal data breaches" in shown
    cells = [html.unescape(cell) for cell in re.findall(r"<td>([^<]*)", shown)]
    assert "OVERDUE" in cells
    assert any(cell.startswith("<script>alert(1)</script> {{ 7 * 7 }}") for cell in cells)
    assert shown.count("<svg") == 1
    assert shown.count('class="bar over"') == 2
    assert Page(shown).tags.isdisjoint({"script", "img"})


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium: apt-get install chromium")
def test_entries_stay_readable_on_a_phone(pages: dict[str, str], tmp_path: Path) -> None:
    """Where the table is narrower than its digests it scrolls: no row is a screen high."""
    (tmp_path / "report.html").write_text(pages["gdpr-33"], "utf-8")
    with browser(tmp_path / "profile") as page:
        page.open((tmp_path / "report.html").as_uri())
        page.picture(tmp_path / "phone.png", width=380)
        heights = page.run(
            "[...document.querySelectorAll('#evidence tr')].map(r => r.offsetHeight)"
        )
        assert max(heights) < 150
        assert page.run("document.documentElement.scrollWidth") == 380


def test_a_section_counts_its_blanks() -> None:
    section = Section(id="a", article="A", title="t", states="s")
    assert blanks_of([section]) == 0


def test_the_page_of_the_documentation_lists_every_report() -> None:
    page = (Path(__file__).parents[2] / "docs" / "registers.md").read_text("utf-8")
    rows = re.findall(r"^\| `([\w.-]+)` \| ([^|]+) \| ([^|]+) \|$", page, re.MULTILINE)
    assert rows == [(report.name, report.title, report.law) for report in LAW.report]
