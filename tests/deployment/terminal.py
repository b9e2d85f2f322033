"""A terminal in which docs/deployment.md is typed, with `docker compose` answered by `Engine`."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.deployment.compose import FEDERATION, ROOT, dependencies
from tests.deployment.engine import Engine, Stopped

PAGE: Final = ROOT / "docs" / "deployment.md"


def typed(heading: str) -> list[str]:
    """The lines that a section of the page asks a person to type."""
    text = PAGE.read_text("utf-8").split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [
        line.removeprefix("$ ")
        for block in blocks
        for line in block.splitlines()
        if line.startswith("$ ")
    ]


@dataclass
class Terminal:
    """Where a person types.

    Attributes:
        folder: Where files go.
        settings: What was exported.
        words: What stands for a word of the page, such as PLAN_ID.
        engines: The projects, by compose file.
        stopped: How services ended, by project and name.
    """

    folder: Path
    settings: dict[str, str]
    words: dict[str, str] = field(default_factory=dict)
    engines: dict[Path, Engine] = field(default_factory=dict)
    stopped: dict[str, Stopped] = field(default_factory=dict)

    def type(self, line: str) -> str:
        """Do what a line says, and give what it prints.

        Raises:
            AssertionError: When a command fails.
        """
        for word, meaning in self.words.items():
            line = line.replace(word, meaning)
        words = shlex.split(line)
        given = ""
        if "<" in words:
            given = (self.folder / words[words.index("<") + 1]).read_text("utf-8")
            words = words[: words.index("<")]
        target = None
        if ">" in words:
            target = self.folder / words[words.index(">") + 1]
            words = words[: words.index(">")]
        printed = self._do(words, given)
        if target is not None:
            target.write_text(printed, "utf-8")
        return printed

    def engine(self, file: Path = FEDERATION) -> Engine:
        """The project of a compose file."""
        if file not in self.engines:
            self.engines[file] = Engine(file, self.folder, self.settings)
        return self.engines[file]

    def close(self) -> None:
        """Leave nothing behind."""
        for engine in self.engines.values():
            engine.close()

    def _do(self, words: list[str], given: str) -> str:
        match words:
            case ["export", *assignments]:
                self.settings |= dict(each.split("=", 1) for each in assignments)
                return ""
            case ["sh", script]:
                environment = {"PATH": os.environ["PATH"], **self.settings}
                return subprocess.run(
                    ["sh", script],
                    cwd=ROOT,
                    env=environment,
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout
            case ["server", *_]:
                return self.engine().plain(words, self.folder)
            case ["docker", "compose", "-f", file, *rest]:
                return self._compose(self.engine(ROOT / file), rest, given)
            case ["docker", "compose", *rest]:
                return self._compose(self.engine(), rest, given)
            case _:
                raise AssertionError(f"nobody here knows how to do this: {words}")

    def _compose(self, engine: Engine, words: list[str], given: str) -> str:
        profiles = []
        while words[0] == "--profile":
            profiles.append(words[1])
            words = words[2:]
        match words:
            case ["up", "-d", *services]:
                engine.up(profiles, services)
                return ""
            case ["ps"]:
                for name in engine.running():
                    assert engine.is_well(name).returncode == 0, name
                return "\n".join(engine.running())
            case ["stop"]:
                self.stopped |= {
                    f"{engine.document['name']}/{name}": stopped
                    for name, stopped in engine.down().items()
                }
                return ""
            case ["run", "--rm", *rest]:
                return self._run(engine, rest)
            case ["exec", "-T", name, *command] | ["exec", name, *command]:
                done = engine.execute(name, command, given=given)
                assert done.returncode == 0, (
                    f"returncode {done.returncode}: {command}\n{done.stdout}{done.stderr}"
                )
                return done.stdout
            case _:
                raise AssertionError(f"nobody here knows how to do this: {words}")

    def _run(self, engine: Engine, words: list[str]) -> str:
        mounted, alone = {}, False
        while words[0].startswith("-"):
            if words[0] == "-v":
                place, target, *_ = words[1].split(":")
                mounted[target] = place
                words = words[2:]
            else:
                assert words[0] == "--no-deps", words
                alone, words = True, words[1:]
        name, *command = words
        if not alone:
            engine.up((), tuple(dependencies(engine.services[name])))
        done = engine.execute(name, command, mounted=mounted)
        assert done.returncode == 0, (
            f"returncode {done.returncode}: {command}\n{done.stdout}{done.stderr}"
        )
        return done.stdout
