"""The demo's page of results, as a browser shows it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from demo.results import REPORT_KEYS, print_results, render_html, write_reports
from demo.story import Results

CHROMIUM = shutil.which("chromium")


def results() -> Results:
    return Results(
        accuracy=0.8125,
        macro_f1=0.79,
        majority_share=0.2,
        epsilon_by_site={"st-elm": 7.9991, "lakeside": 7.5},
        delta=1e-5,
        identifiers_planted=1000,
        identifiers_left=3,
        log_entries=57,
        log_verified=True,
        tamper_detected=False,
        tamper_message="nothing was noticed",
        erasure_receipt_verified=True,
        erased_records=2,
        release_loaded=True,
        predictions=[{"text": "<script>document.title='owned'</script>", "label": "billing"}],
        rounds=[
            {"round": 0, "accuracy": None, "epsilon": 3.0},
            {"round": 1, "accuracy": 0.8125, "epsilon": 7.9991},
        ],
        seconds=100.5,
        seconds_by_chapter={"Rounds": 60.0, "Release": 10.0},
    )


def test_json_report_has_every_promised_key(tmp_path: Path) -> None:
    _, data = write_reports(results(), tmp_path)
    written = json.loads(data.read_text())
    assert set(REPORT_KEYS) <= set(written)
    assert written["epsilon_by_site"] == {"st-elm": 7.9991, "lakeside": 7.5}


def test_terminal_page_says_what_did_not_hold() -> None:
    console = Console(record=True, width=140)
    print_results(results(), console)
    text = console.export_text()
    assert "3 of 1000" in text
    assert "NOT caught" in text
    assert "nothing was noticed" in text


def test_page_loads_nothing_and_runs_nothing() -> None:
    page = render_html(results())
    assert "<script" not in page.replace("&lt;script", "")
    links = [link for link in re.findall(r'(?:src|href)="([^"]*)"', page) if link[:1] != "#"]
    assert links == []


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium: apt-get install chromium")
def test_page_in_a_browser(tmp_path: Path) -> None:
    page, _ = write_reports(results(), tmp_path)
    shown = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom", page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout  # fmt: skip
    assert "<title>Fiduciary: one private federated run</title>" in shown
    cells = [html.unescape(cell) for cell in re.findall(r'<td class="value[^>]*>([^<]*)', shown)]
    assert "0.812" in cells
    assert "7.999" in cells
    assert "NOT caught" in cells
    assert shown.count("<svg") == 1
