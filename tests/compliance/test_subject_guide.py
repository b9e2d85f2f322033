"""`docs/subject-guide.md` says what the pages show and what the law's data has, all of it.

Its commands are followed in `tests/client/site/test_real_service.py`.
"""

from __future__ import annotations

from pathlib import Path

from compliance.rules.deadlines import Deadline, deadline_book
from compliance.service.routes.subject_pages import (
    OUTCOME_TEXTS,
    PART_TEXTS,
    RIGHT_TEXTS,
    STAGE_TEXTS,
)
from compliance.service.subject_codes import CODE_DIGITS, CODE_LIFE, CODE_TRIES, MAX_CODES
from compliance.service.subject_settings import SubjectSettings

GUIDE = (Path(__file__).parents[2] / "docs" / "subject-guide.md").read_text("utf-8")
NOTHING = "none"


def table(heading: str) -> list[tuple[str, ...]]:
    """The rows of the table whose first head it is."""
    _, found, rest = GUIDE.partition(f"\n| {heading} |")
    assert found, heading
    lines = rest.partition("\n\n")[0].splitlines()[2:]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]


def period(length: int, count: str) -> str:
    if not length:
        return NOTHING
    unit = {"months": "month", "days": "day", "business-days": "working day"}[count]
    return f"{length} {unit}{'' if length == 1 else 's'}"


def told(deadline: Deadline) -> tuple[str, ...]:
    """A deadline's row."""
    confirm = deadline_book().find(deadline.jurisdiction, deadline.kinds[0], "confirm")
    everything = len(deadline.kinds) == len(RIGHT_TEXTS)
    return (
        deadline.jurisdiction.upper(),
        "every request" if everything else ", ".join(sorted(deadline.kinds)),
        period(deadline.length, deadline.count),
        NOTHING if confirm is None else period(confirm.length, confirm.count),
        period(deadline.extension, deadline.count),
    )


def test_the_periods_are_those_of_the_law() -> None:
    expected = [told(one) for one in deadline_book().deadline if one.clock == "answer"]
    rows = [
        (law, ", ".join(sorted(rights.split(", "))), *periods)
        for law, rights, *periods in table("law")
    ]
    assert rows == expected
    # Such a row speaks for all its rights: they are confirmed alike.
    for one in deadline_book().deadline:
        confirms = {deadline_book().find(one.jurisdiction, k, "confirm") for k in one.kinds}
        assert len(confirms) == 1


def test_every_right_and_every_word_of_the_status_page_is_explained() -> None:
    assert [row[:2] for row in table("name")] == list(RIGHT_TEXTS)
    assert [row[0] for row in table("the page says")] == list(STAGE_TEXTS.values())
    lines = {row[0] for row in table("a site's line")}
    assert lines == {*PART_TEXTS.values(), *OUTCOME_TEXTS.values()}


def test_the_other_figures_are_those_of_the_service() -> None:
    settings = SubjectSettings.model_fields
    hours = int(CODE_LIFE.total_seconds() // 3600)
    words = " ".join(GUIDE.split())
    assert (
        f"It has {CODE_DIGITS} digits, works for {hours} hours and bears {CODE_TRIES} wrong tries"
        in words
    )
    assert f"sends another, {('two', 'three', 'four')[MAX_CODES - 2]} in all" in words
    assert f"within {settings['identity_days'].default} days, the request ends" in words
    assert f"reminded every {settings['remind_after_days'].default} days" in words
