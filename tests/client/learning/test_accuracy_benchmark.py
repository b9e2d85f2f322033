"""The benchmark's own parts: who gets which rows, and what it says without data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.accuracy import EXIT_SKIPPED, SITES, deal, describe_skew, main, read_rows
from client.learning.data import Example

EXAMPLES = [Example(f"row-{n}", f"text {n}", n % 10) for n in range(2000)]


def test_without_the_data_it_says_so_and_exits_as_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIDUCIARY_DATA", str(tmp_path / "nowhere"))
    assert main(["--quick"]) == EXIT_SKIPPED
    told = capsys.readouterr()
    assert told.out == ""
    assert "FIDUCIARY_DATA" in told.err
    assert "nowhere" in told.err


def test_every_row_goes_to_one_site_and_always_the_same() -> None:
    dealt = deal(EXAMPLES, 4, 10)
    assert sorted(e.subject for site in dealt for e in site) == sorted(e.subject for e in EXAMPLES)
    assert dealt == deal(EXAMPLES, 4, 10)


def test_the_deal_is_skewed_and_the_skew_is_told() -> None:
    dealt = deal(EXAMPLES, 4, 10)
    shares = np.array([np.bincount([e.label for e in site], minlength=10) for site in dealt])
    assert (shares.max(axis=0) / shares.sum(axis=0)).mean() > 0.5
    lines = list(describe_skew(dealt, 10))
    assert [line.split()[0] for line in lines] == list(SITES)
    assert all(float(line.rsplit(" ", 1)[1]) > 0.1 for line in lines)


def test_each_row_is_a_subject(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text('text,category\n"hello, you",a\nbye,b\n', encoding="utf-8")
    assert read_rows(path) == [("train-0", "hello, you", "a"), ("train-1", "bye", "b")]
