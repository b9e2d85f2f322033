"""A datasheet as a page: it tells every figure in words, and a hostile name is no markup."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from audit.errors import ExitCode
from client.datasheet_page import datasheet_page
from client.deidentification.measurement import CharacterCounts, measurement_of
from client.recall.evaluation import evaluation_of
from client.recall.kept import Measured
from client.site import Site
from client.vault import Dataset, Vault
from tests.client.data.records import ROWS, add, stage

AT = "2026-11-26T12:00:00.000Z"
HOSTILE = '<script>alert("x")</script>'


class Tags(HTMLParser):
    """Which tags a page has, and what they point at."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.pointing: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.pointing += [name for name, _ in attrs if name in ("src", "href", "onload", "style")]


def measured() -> Measured:
    counts = [CharacterCounts(10, 10, 12), CharacterCounts(10, 8, 8)]
    found = evaluation_of(measurement_of(counts, {"PERSON": 4}, {"PERSON": 3}), 0)
    return Measured(found.figures("evaluation", AT), found.to_json())


def of(dataset: Dataset, **changes: Any) -> Dataset:
    return replace(dataset, datasheet=dataset.datasheet.model_copy(update=changes))


def test_every_count_and_figure_is_told_in_words(site: Site, vault: Vault) -> None:
    dataset = of(
        add(site, vault, *ROWS),
        replacements={"PERSON": 30, "DATE_TIME": 10},
        quarantined={"text-too-long": 2},
        duplicates_dropped=1,
    )
    page = datasheet_page(dataset, [measured()], AT)
    text = " ".join(re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL).split())
    for said in (
        "even 5 (50.0%)",
        "odd 5 (50.0%)",
        "PERSON 30 (75.0%)",
        "kept out: text-too-long 2",
        "rows that repeat another 1",
        "evaluation of 2026-11-26: with 95 % confidence",
        "0.900 (",
        "whole PERSON",
        dataset.digest,
        "none stated: no plan may use it",
    ):
        assert said in text, said
    assert "Nobody measured" in datasheet_page(dataset, [], AT)


def test_a_page_holds_no_script_and_asks_nobody_for_anything(site: Site, vault: Vault) -> None:
    dataset = of(add(site, vault, *ROWS), label_counts={HOSTILE: 9, "x" * 200: 1}, purposes=("a",))
    page = datasheet_page(replace(dataset, name=HOSTILE), [measured()], AT)
    found = Tags(page)
    assert "script" not in found.tags
    assert found.pointing == []
    assert "default-src 'none'" in page
    assert "http://" not in page.replace("http-equiv", "")
    assert "https://" not in page


def test_more_classes_than_a_page_shows_are_one_bar(site: Site, vault: Vault) -> None:
    rows = ((f"P-{n}", f"text {n}", f"class {n:03}") for n in range(60))
    page = datasheet_page(stage(vault, *rows), [], AT)
    assert "21 more" in page
    assert "class 059" not in page


def test_the_page_is_written_for_the_operator_alone(
    typed: Any, vault: Vault, tmp_path: Path
) -> None:
    stage(vault, *ROWS)
    page = tmp_path / "notes.html"
    page.write_text("older")
    page.chmod(0o644)
    assert typed("show", "notes", "--html", str(page))[0] == ExitCode.OK
    assert "Datasheet of notes" in page.read_text(encoding="utf-8")
    assert page.stat().st_mode & 0o077 == 0
    code, _, err = typed("show", "notes", "--html", str(tmp_path / "notes.pdf"))
    assert (code, "ends in .html" in err) == (ExitCode.USAGE, True)
