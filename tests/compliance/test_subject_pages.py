"""The pages for data subjects, in a real browser: sealed there, shown plainly, closed otherwise."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from compliance.service.routes.subject_pages import MAX_FORM_BYTES, PAGE_POLICY
from compliance.service.subject_chasing import chase
from tests.compliance.browser import CHROMIUM, Page, browser
from tests.compliance.federation import Coordinator, Site
from tests.compliance.running import RunningService
from tests.compliance.subjects import ADDRESS, SUBJECT, Desk, ask, code_in, configure, mails

PICTURES = os.environ.get("FIDUCIARY_PICTURES")
"""A folder for pictures of the pages, for whoever wants to look at them."""


@pytest.fixture
def desk(service: RunningService, north: Site) -> Desk:
    configure(service)
    return Desk(service, north)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("needs Debian's chromium: apt-get install chromium")
    with browser(tmp_path / "profile") as opened:
        yield opened


def picture(page: Page, name: str, **options: object) -> None:
    if PICTURES:
        page.picture(Path(PICTURES) / f"{name}.png", **options)  # type: ignore[arg-type]


FILL = """
document.getElementById('right-erasure').click();
document.getElementById('site-north').click();
document.getElementById('site-south').click();
document.getElementById('subject').value = '%s\\n second-id ';
document.getElementById('details').value = 'Zoë';
document.getElementById('identity-email').click();
document.getElementById('email').value = '%s';
"""


def test_a_subject_asks_in_a_browser_and_the_sites_alone_can_read_it(
    service: RunningService, coordinator: Coordinator, desk: Desk, page: Page
) -> None:
    south = Desk(service, coordinator.welcome("south"))
    page.open(f"{service.trust.url}/requests")
    picture(page, "form")
    picture(page, "form-phone-dark", width=390, dark=True)
    send = "document.querySelector('#intake button').click()"
    page.run(send)
    assert page.text("#problem") == "Choose what you ask for."
    assert page.run("document.activeElement.id") == "problem"
    page.run(FILL % (SUBJECT, ADDRESS))
    page.run(send)
    page.wait(
        "!document.getElementById('filed').hidden || !document.getElementById('problem').hidden"
    )
    assert page.run("document.getElementById('problem').hidden"), page.text("#problem")
    picture(page, "filed")
    receipt, number = page.text("#code"), page.text("#number")
    assert page.run("document.getElementById('subject').value") == ""
    assert page.run("document.cookie.length + localStorage.length + sessionStorage.length") == 0

    page.open(f"{service.trust.url}/requests/status")
    assert receipt not in page.run("location.href")
    page.run(f"document.getElementById('receipt_code').value = '{receipt.lower()}'")
    page.run("document.querySelector('form button').click()")
    page.wait("document.getElementById('code')")
    assert page.text("h2") == "We do not know yet who asks"
    picture(page, "status")
    chase(service.registry)
    code = code_in(mails(service.folder.path)[0][2])
    page.run(f"document.getElementById('code').value = '{code}'")
    page.run("document.querySelector('form button').click()")
    page.wait("document.querySelector('h2').innerText === 'The sites have it'")
    assert "Has not fetched it yet." in page.text("table")
    for one in (desk, south):
        opened = one.open(number)
        assert (opened.subject_ids, opened.details) == ((SUBJECT, "second-id"), "Zoë")
    desk.erase(number)
    south.not_found(number)
    page.run(f"document.getElementById('receipt_code').value = '{receipt}'")
    page.run("document.querySelector('form button').click()")
    page.wait("document.querySelector('h2').innerText === 'It is answered'")
    picture(page, "answered")
    assert page.console == []
    assert SUBJECT not in str(service.tables())


def test_everything_on_the_form_has_a_name_and_a_place(
    service: RunningService, desk: Desk, page: Page
) -> None:
    page.open(f"{service.trust.url}/requests")
    usable = {"radio", "checkbox", "textbox", "button", "combobox", "link"}
    told = [(role, name) for role, name in page.roles() if role in usable]
    assert len(told) > 12
    assert all(name for _, name in told), told
    assert page.run("document.documentElement.lang") == "en"
    assert page.run("document.querySelectorAll('h1').length") == 1
    assert page.run("document.querySelectorAll('fieldset > legend').length") == 3
    assert page.run("document.documentElement.scrollWidth <= innerWidth")


def test_pages_load_nothing_from_elsewhere_and_run_one_script(
    service: RunningService, desk: Desk
) -> None:
    http = service.http()
    for path in ("/requests", "/requests/status"):
        answer = http.get(path)
        assert answer.headers["content-security-policy"] == PAGE_POLICY
        assert answer.headers["content-type"].startswith("text/html")
        links = re.findall(r'(?:src|href|action)="([^"]*)"', answer.text)
        assert links
        assert all(link[0] in "/#" and not link.startswith("//") for link in links)
        assert "<script>" not in answer.text
        assert not re.search(r'\son\w+="', answer.text)
        assert "style=" not in answer.text
    assert "eval(" not in http.get("/requests/seal.js").text
    assert http.get("/requests/style.css").headers["content-type"].startswith("text/css")


def test_what_comes_in_a_form_is_text(service: RunningService, desk: Desk) -> None:
    filed = ask(service, "north")
    http = service.http()
    kind = {"content-type": "application/x-www-form-urlencoded"}

    def post(body: str) -> tuple[int, str]:
        answer = http.post("/requests/status", content=body, headers=kind)
        return answer.status_code, answer.text

    status, text = post(f"receipt_code={filed.receipt_code}")
    assert status == 200
    assert filed.request_id in text
    for body in ("", "receipt_code=", "receipt_code=%3Cscript%3Ealert(1)%3C/script%3E", "x=1"):
        status, text = post(body)
        assert (status, "there is no request with this receipt code" in text) == (404, True)
        assert "alert(1)" not in text
    assert post(f"receipt_code={filed.receipt_code}&code=" + "9" * 8)[0] == 403
    for body in ("&".join(f"a{n}=1" for n in range(20)), "receipt_code=\xff", "a=%ff"):
        assert post(body)[0] == 422
    assert post("a=" + "x" * MAX_FORM_BYTES)[0] == 413


def test_a_wrong_code_is_told_on_the_page(service: RunningService, desk: Desk) -> None:
    filed = ask(service, "north", email=ADDRESS)
    answer = service.http().post(
        "/requests/status", data={"receipt_code": filed.receipt_code, "code": "not-it"}
    )
    assert answer.status_code == 403
    assert "the code is not right" in answer.text


def test_no_page_is_shown_where_nothing_is_offered(service: RunningService) -> None:
    answer = service.http().get("/requests")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
