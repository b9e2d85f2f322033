"""Every way in which a command can end has its exit code, and says what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import typer

from audit.errors import BudgetExhausted, ExitCode, FiduciaryError, NotFound
from audit.terminal import run_app


def app_that(action: Callable[[], None]) -> typer.Typer:
    app = typer.Typer()

    @app.command()
    def main() -> None:
        action()

    return app


def exit_code_of(action: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["command"])
    with pytest.raises(SystemExit) as ended:
        run_app(app_that(action))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def raising(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FiduciaryError("x"), ExitCode.UNEXPECTED),
        (NotFound("x"), ExitCode.NOT_FOUND),
        (BudgetExhausted("x"), ExitCode.BUDGET_EXHAUSTED),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
        (typer.Exit(26), ExitCode.CHECK_POLICY),
        (PermissionError(13, "Permission denied", "token"), ExitCode.UNEXPECTED),
        (OSError(28, "No space left on device", "log.csv"), ExitCode.UNEXPECTED),
        (FileNotFoundError(2, "No such file or directory", "log.csv"), ExitCode.NOT_FOUND),
        (IsADirectoryError(21, "Is a directory", "log.csv"), ExitCode.NOT_FOUND),
    ],
)
def test_outcomes(error: BaseException, code: ExitCode, monkeypatch: pytest.MonkeyPatch) -> None:
    assert exit_code_of(raising(error), monkeypatch) == code


@pytest.mark.parametrize("lines", [1, 10_000])
def test_a_reader_that_went_away_is_no_success_and_no_noise(lines: int) -> None:
    program = (
        "import typer; from audit.terminal import out, run_app; app = typer.Typer();"
        f" app.command()(lambda: out().print('NOT VERIFIED\\n' * {lines})); run_app(app)"
    )
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        ended = subprocess.run(
            [sys.executable, "-c", program], stdout=closed, stderr=subprocess.PIPE, check=False
        )
    assert (ended.returncode, ended.stderr) == (ExitCode.CLOSED_PIPE, b"")


def test_success_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    assert exit_code_of(lambda: None, monkeypatch) == ExitCode.OK


def test_an_error_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exit_code_of(raising(NotFound("no [plan] here", fix="run [that]")), monkeypatch)
    captured = capsys.readouterr()
    assert captured.err == "error: no [plan] here\n  fix: run [that]\n"
    assert captured.out == ""


def test_an_unreadable_file_is_named_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exit_code_of(raising(PermissionError(13, "Permission denied", "t.token")), monkeypatch)
    assert "t.token: Permission denied" in capsys.readouterr().err


def test_a_defect_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["command"])
    with pytest.raises(ZeroDivisionError):
        run_app(app_that(raising(ZeroDivisionError())))


def test_a_missing_package_names_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["command"])
    missing = ModuleNotFoundError("no", name="torch.nn")
    with pytest.raises(SystemExit) as ended:
        run_app(app_that(raising(missing)), extra="site")
    assert ended.value.code == ExitCode.UNEXPECTED
    assert "package torch" in (text := capsys.readouterr().err)
    assert "pip install 'fiduciary[site]'" in text


def test_a_missing_module_of_our_own_is_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["command"])
    with pytest.raises(ModuleNotFoundError):
        run_app(app_that(raising(ModuleNotFoundError("no", name="client.nothing"))), extra="site")
