"""One distinct error for each rule that an input can break, and no rule without an input."""

from __future__ import annotations

import ast
import importlib
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.errors import ExitCode, MalformedInput
from tests.audit.malformed import RULES, Malformed

MODULES = (
    "bundle",
    "canonical",
    "checkpoint",
    "cosignature",
    "encoding",
    "keys",
    "leaf",
    "note",
    "proof",
    "receipt",
    "statement",
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.message[:60])
def test_the_message_of_each_rule(rule: Malformed, tmp_path: Path) -> None:
    with pytest.raises(MalformedInput) as caught:
        rule.read(tmp_path)
    assert str(caught.value) == rule.message
    assert caught.value.code.startswith("malformed-")
    assert caught.value.exit_code == ExitCode.MALFORMED_INPUT


def test_no_two_rules_share_a_message() -> None:
    messages = [rule.message for rule in RULES]
    # An integer may be too large in a document that is read and in one that is written.
    shared = {"malformed canonical JSON: integer beyond 2**53 - 1"}
    assert {item for item in messages if messages.count(item) > 1} <= shared


def test_every_rule_of_every_parser_is_broken_here(tmp_path: Path) -> None:
    raised = set()
    for rule in RULES:
        with pytest.raises(MalformedInput) as caught:
            rule.read(tmp_path)
        raised |= set(_sites_of(caught.value))
    missing = [
        f"audit/{module}.py:{first}"
        for module in MODULES
        for first, last in _raises(module)
        if not any((module, line) in raised for line in range(first, last + 1))
    ]
    assert not missing, "add an input for each of these rules to malformed.py"


def _sites_of(error: BaseException | None) -> Iterator[tuple[str, int]]:
    """Where an error was raised, and the errors that it was made of."""
    while error is not None:
        for frame, line in traceback.walk_tb(error.__traceback__):
            yield Path(frame.f_code.co_filename).stem, line
        error = error.__cause__


def _raises(module: str) -> Iterator[tuple[int, int]]:
    """First and last line of each `raise Malformed…` of a module."""
    path = importlib.import_module(f"audit.{module}").__file__
    for node in ast.walk(ast.parse(Path(str(path)).read_text("utf-8"))):
        if (
            isinstance(node, ast.Raise)
            and isinstance(node.exc, ast.Call)
            and isinstance(node.exc.func, ast.Name)
            and node.exc.func.id.startswith("Malformed")
        ):
            yield node.lineno, node.end_lineno or node.lineno
