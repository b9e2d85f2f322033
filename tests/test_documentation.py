"""README, exit codes and help texts say what the code does."""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
import typer

from audit.errors import ExitCode

ROOT = Path(__file__).parent.parent
COMMANDS = ("audit", "client", "compliance", "server")
FOLDERS = (*COMMANDS, "bench", "demo", "docs", "tests")


@cache
def command_tree(name: str) -> click.Command:
    return typer.main.get_command(importlib.import_module(f"{name}.cli").app)


def documented_commands() -> list[str]:
    """Every product command in a console block of README and docs, once."""
    found: dict[str, None] = {}
    for page in pages():
        for block in re.findall(
            r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL
        ):
            for line in block.splitlines():
                command = line.removeprefix("$ ").split("  #")[0].strip()
                if line.startswith("$ ") and command.split()[0] in COMMANDS:
                    found[command] = None
    return list(found)


def pages() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def walk(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from walk(child, f"{path} {name}")


ALL_COMMANDS = [pair for name in COMMANDS for pair in walk(command_tree(name), name)]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    named = set(re.findall(r"`([\w/.-]+\.(?:py|md|toml|sql))`", page.read_text(encoding="utf-8")))
    ours = {name for name in named if name.startswith("test_") or name.split("/")[0] in FOLDERS}
    missing = {
        name for name in ours if not any(ROOT.glob(f"tests/**/{name}")) and not any(ROOT.glob(name))
    }
    assert not missing


def test_readme_shows_each_of_the_four_commands() -> None:
    assert {line.split()[0] for line in documented_commands()} == set(COMMANDS)


@pytest.mark.parametrize("line", documented_commands())
def test_documented_command_parses(line: str) -> None:
    name, *arguments = shlex.split(line)
    command = command_tree(name)
    path = name
    while isinstance(command, click.Group) and not _acts_itself(command, arguments):
        assert arguments, f"{path} needs a subcommand"
        path = f"{path} {arguments[0]}"
        assert arguments[0] in command.commands, f"there is no `{path}`"
        command = command.commands[arguments.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts}
    used = {word.split("=")[0] for word in arguments if word.startswith("-")}
    assert used <= known, f"`{path}` has no {used - known}"
    required = {p.opts[0] for p in command.params if isinstance(p, click.Option) and p.required}
    assert required <= used, f"`{path}` also needs {required - used}"


def mentioned_commands() -> Iterator[tuple[Path, str]]:
    """Commands in running text, in containers, and in what the programs tell people to type."""
    texts = [page for page in pages() if page.name != "CHANGELOG.md"]  # which names removed ones
    sources = [path for name in COMMANDS for path in sorted((ROOT / name).rglob("*.py"))]
    for path in [*texts, *(path for path in sources if path.parent.name != "versions")]:
        text = path.read_text(encoding="utf-8")
        for command in re.findall(rf"`((?:{'|'.join(COMMANDS)}) [^`\n{{]*)`", text):
            yield path, command
        for service, command in re.findall(
            r"^\$ docker compose .*? (\w+) (\w+ .*)", text, re.MULTILINE
        ):
            if service != "exec" and command.split()[0] in COMMANDS:
                yield path, command


def test_every_mentioned_command_and_option_is_there() -> None:
    wrong = {
        f"{path.relative_to(ROOT)}: {command}"
        for path, command in mentioned_commands()
        if not _is_there(command)
    }
    assert not wrong


def _is_there(line: str) -> bool:
    name, *arguments = re.sub(r"[\"']", "", line).split()
    command = command_tree(name)
    while isinstance(command, click.Group) and arguments and not _acts_itself(command, arguments):
        word = arguments.pop(0)
        if word in ("…", "|") or word.startswith("-"):
            return True
        if word not in command.commands:
            return False
        command = command.commands[word]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    used = {word.split("=")[0] for word in arguments if word.startswith("--") and word != "--"}
    return used <= known


def _acts_itself(group: click.Group, arguments: list[str]) -> bool:
    """Whether a group is called without a subcommand, and does something then."""
    named = bool(arguments) and not arguments[0].startswith("-")
    return group.invoke_without_command and not named


@pytest.mark.parametrize(("path", "command"), ALL_COMMANDS, ids=[path for path, _ in ALL_COMMANDS])
def test_every_command_and_option_is_explained(path: str, command: click.Command) -> None:
    assert command.help, f"`{path}` has no help"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"`{path}` does not explain {parameter.opts[0]}"


@pytest.mark.parametrize(("path", "command"), ALL_COMMANDS, ids=[path for path, _ in ALL_COMMANDS])
def test_what_a_help_page_shows_to_copy_is_not_broken_by_a_narrow_terminal(
    path: str, command: click.Command
) -> None:
    help_text = inspect.cleandoc(command.help or "")
    for block in re.findall(r"```\w*\n(.*?)```", help_text, re.DOTALL):
        wide = [line for line in block.splitlines() if len(line) > 76]
        assert not wide, f"`{path}` is folded at 80 columns"


def test_readme_lists_every_exit_code() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = {
        int(number)
        for cell in re.findall(r"^\| ([\d-]+) \|", readme, re.MULTILINE)
        for number in _expanded(cell)
    }
    assert listed == {int(code) for code in ExitCode}


def _expanded(cell: str) -> range:
    first, _, last = cell.partition("-")
    return range(int(first), int(last or first) + 1)


def test_console_scripts_are_the_documented_four() -> None:
    import tomllib

    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {name: f"{name}.__main__:main" for name in COMMANDS}
