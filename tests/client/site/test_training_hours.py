"""Training hours: across midnight, and on the nights when clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.training_hours import TrainingHours, Window, zone_named

BERLIN = ZoneInfo("Europe/Berlin")


def hours(*windows: str, zone: str = "Europe/Berlin") -> TrainingHours:
    return TrainingHours(windows, zone_named(zone))


def berlin(text: str, fold: int = 0) -> datetime:
    """A moment of Berlin, in UTC: times that come twice are equal to none of another zone."""
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).astimezone(UTC)


@pytest.mark.parametrize(
    ("window", "time", "inside"),
    [
        ("09:00-17:00", "08:59", False),
        ("09:00-17:00", "09:00", True),
        ("09:00-17:00", "16:59", True),
        ("09:00-17:00", "17:00", False),
        ("22:00-06:00", "21:59", False),
        ("22:00-06:00", "22:00", True),
        ("22:00-06:00", "23:59", True),
        ("22:00-06:00", "00:00", True),
        ("22:00-06:00", "05:59", True),
        ("22:00-06:00", "06:00", False),
        ("18:00-24:00", "23:59", True),
        ("18:00-24:00", "00:00", False),
        ("18:00-00:00", "23:59", True),
        ("18:00-00:00", "00:00", False),
        ("00:00-24:00", "00:00", True),
        ("00:00-24:00", "23:59", True),
    ],
)
def test_a_window_begins_with_its_start_and_ends_before_its_end(
    window: str, time: str, inside: bool
) -> None:
    assert hours(window).include(berlin(f"2026-11-02T{time}:30")) is inside


def test_wall_time_is_that_of_the_zone() -> None:
    noon = datetime(2026, 11, 2, 12, tzinfo=UTC)
    assert hours("13:00-14:00").include(noon)
    assert not hours("13:00-14:00", zone="UTC").include(noon)
    assert hours("07:00-08:00", zone="America/New_York").include(noon)


def test_several_windows() -> None:
    both = hours("06:00-07:00", "22:00-23:00")
    assert both.next_start(berlin("2026-11-02T07:00")) == berlin("2026-11-02T22:00")
    assert both.next_start(berlin("2026-11-02T23:00")) == berlin("2026-11-03T06:00")
    inside = berlin("2026-11-02T06:30:15")
    assert both.next_start(inside) == inside


@pytest.mark.parametrize(
    ("night", "lasts_hours"), [("2026-03-28", 7), ("2026-10-24", 9), ("2026-11-02", 8)]
)
def test_a_night_lasts_as_long_as_the_clock_says(night: str, lasts_hours: int) -> None:
    nightly, minute = hours("22:00-06:00"), berlin(f"{night}T21:00")
    inside = 0
    for _ in range(13 * 60):
        inside += nightly.include(minute)
        minute += timedelta(minutes=1)
    assert inside == 60 * lasts_hours


def test_a_window_in_the_hour_that_is_left_out_comes_the_next_day() -> None:
    """On 2026-03-29 the clocks of Berlin go from 02:00 to 03:00."""
    asked = berlin("2026-03-29T00:00")
    assert hours("02:15-02:45").next_start(asked) == berlin("2026-03-30T02:15")
    # A window that reaches out of that hour begins where the wall clock goes on.
    assert hours("02:15-04:00").next_start(asked) == berlin("2026-03-29T03:00")


def test_a_window_in_the_hour_that_comes_twice_comes_twice() -> None:
    """On 2026-10-25 the clocks of Berlin go from 03:00 back to 02:00."""
    window = hours("02:15-02:45")
    assert window.next_start(berlin("2026-10-25T00:00")) == berlin("2026-10-25T02:15")
    assert window.include(berlin("2026-10-25T02:30"))
    assert not window.include(berlin("2026-10-25T02:50"))
    again = window.next_start(berlin("2026-10-25T02:50"))
    assert again == berlin("2026-10-25T02:15", fold=1)
    assert window.include(berlin("2026-10-25T02:30", fold=1))


@given(
    start=st.integers(0, 1439),
    end=st.integers(0, 1439),
    minutes=st.integers(0, 366 * 24 * 60),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe"]),
)
def test_the_next_start_is_inside_and_nothing_before_it_is(
    start: int, end: int, minutes: int, zone: str
) -> None:
    if start == end:
        return
    window = hours(f"{start // 60:02}:{start % 60:02}-{end // 60:02}:{end % 60:02}", zone=zone)
    asked = datetime(2026, 1, 1, 0, 0, 30, tzinfo=UTC) + timedelta(minutes=minutes)
    found = window.next_start(asked)
    assert found is not None
    assert found >= asked
    assert window.include(found)
    if found > asked:
        between = (found - asked) / 7
        assert not any(window.include(asked + step * between) for step in range(7))


def test_a_refusal_says_the_same_until_the_next_start() -> None:
    nightly = hours("22:00-06:00")
    said = {nightly.refusal(berlin(f"2026-11-02T{hour:02}:17")) for hour in range(6, 22)}
    assert said == {
        "this site begins rounds 22:00-06:00 Europe/Berlin only; "
        "it trains next from 2026-11-02T21:00Z"
    }
    assert nightly.refusal(berlin("2026-11-02T22:00")) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "22:00",
        "22:00-6:00",
        "22:00-06:60",
        "24:00-06:00",
        "22:00-24:01",
        "22.00-06.00",
        "22:00 - 06:00",
        "-22:00-06:00",
        "22:00-06:00\n",
        "\u0662\u0662:\u0660\u0660-\u0660\u0666:\u0660\u0660",
        "06:00-06:00",
    ],
)
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected hours|lasts no time"):
        Window.parse(text)


@pytest.mark.parametrize(
    "name", ["", "Mars/Olympus", "../UTC", "/etc/passwd", "Europe", "europe\x00", "x" * 300]
)
def test_an_unknown_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="unknown time zone"):
        zone_named(name)
