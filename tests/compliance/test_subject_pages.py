"""The pages for data subjects, in a real browser: sealed there, shown plainly, closed otherwise."""

from __future__ import annotations

import base64
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from compliance.service.routes.subject_pages import MAX_FORM_BYTES, PAGE_POLICY
from compliance.service.subject_chasing import chase
from compliance.subject_sealing import open_package, seal_package
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
    service: RunningService, coordinator: Coordinator, desk: Desk, page: Page, tmp_path: Path
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
    page.picture(tmp_path / "phone.png", width=390)
    assert page.run("document.querySelector('dd').getClientRects()[0].height") < 40  # one line
    assert page.console == []
    assert SUBJECT not in str(service.tables())


COPY = """
document.getElementById('right-access').click();
document.getElementById('site-north').click();
document.getElementById('subject').value = '%s';
document.getElementById('identity-site').click();
document.querySelector('#intake button').click();
"""


def saved(folder: Path, name: str) -> bytes:
    """A file that the page let somebody save."""
    deadline = time.monotonic() + 60
    while not (folder / name).exists():
        assert time.monotonic() < deadline, sorted(folder.iterdir())
        time.sleep(0.05)
    return (folder / name).read_bytes()


def test_a_copy_is_opened_in_the_browser_with_the_key_that_it_made(
    service: RunningService, desk: Desk, page: Page, tmp_path: Path
) -> None:
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    page.save_to(downloads)
    page.open(f"{service.trust.url}/requests")
    page.run(COPY % SUBJECT)
    page.wait("!document.getElementById('filed').hidden")
    receipt, number, secret = page.text("#code"), page.text("#number"), page.text("#secret")
    picture(page, "filed-copy")
    page.run("document.getElementById('save').click()")
    assert saved(downloads, f"key-{number[:8]}.txt") == f"{secret}\n".encode()
    key = X25519PrivateKey.from_private_bytes(base64.b64decode(secret, validate=True))

    desk.prove(number)
    subject_key = desk.open(number).package_key
    assert subject_key is not None
    assert subject_key == key.public_key().public_bytes_raw()
    copy = b'{"subject": "Zo\xc3\xab"}'
    sealed = seal_package(copy, subject_key, request_id=number, site="north")
    assert open_package(sealed, key, request_id=number, site="north") == copy
    desk.hand_over(number, sealed)

    page.open(f"{service.trust.url}/requests/status")
    page.run(f"document.getElementById('receipt_code').value = '{receipt}'")
    page.run("document.querySelector('form button').click()")
    page.wait(
        "document.querySelector('button[data-site=north]') && document.readyState === 'complete'"
    )
    for wrong, told in (("hello", "This is not a key."), ("A" * 43 + "=", "does not open")):
        page.run(f"document.getElementById('secret').value = '{wrong}'")
        page.run("document.querySelector('button[data-site=north]').click()")
        page.wait(f"document.getElementById('copy-problem').innerText.includes('{told}')")
        assert page.run("document.getElementById('copy-north').hidden")
    page.run(f"document.getElementById('secret').value = ' {secret} '")
    page.run("document.querySelector('button[data-site=north]').click()")
    page.wait("!document.getElementById('copy-north').hidden")
    assert page.run("document.getElementById('copy-problem').hidden")
    picture(page, "copy")
    page.run("document.getElementById('copy-north').click()")
    assert saved(downloads, f"north-{number[:8]}.json") == copy
    assert page.console == []
    for table in service.tables().values():
        assert secret not in str(table)


def test_another_code_is_mailed_from_the_page(service: RunningService, desk: Desk) -> None:
    filed = ask(service, "north", email=ADDRESS)
    chase(service.registry)

    def post(**fields: str) -> tuple[int, str]:
        form = {"receipt_code": filed.receipt_code, **fields}
        answer = service.http().post("/requests/status", data=form)
        return answer.status_code, answer.text

    assert 'name="again"' in post()[1]
    for _ in range(2):
        status, text = post(code="", again="yes")
        assert (status, "A new code is on its way" in text) == (200, True)
    chase(service.registry)
    codes = [code_in(text) for _, _, text in mails(service.folder.path)]
    assert len(codes) == 3
    assert post(code=codes[0])[0] == 403
    assert "The sites have it" in post(code=codes[2])[1]
    status, text = post(again="yes")
    assert status == 403
    assert "A new code" not in text


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


def test_pages_load_nothing_from_elsewhere_and_run_their_own_scripts(
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
    for name in ("seal.js", "open.js", "hpke.js"):
        script = http.get(f"/requests/{name}")
        assert script.headers["content-type"].startswith("text/javascript")
        assert "eval(" not in script.text
        assert set(re.findall(r'from "([^"]*)"', script.text)) <= {"./hpke.js"}
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
        assert (status, "There is no request with this receipt code: check" in text) == (404, True)
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
    assert "The code is not right" in answer.text


def test_where_nothing_is_offered_a_person_reads_whom_to_ask(service: RunningService) -> None:
    answer = service.http().get("/requests")
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")
    assert "in writing" in answer.text
    assert "<form" not in answer.text
