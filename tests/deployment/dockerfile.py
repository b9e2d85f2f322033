"""Dockerfiles, read as far as ours go: stages, their instructions, and what they inherit."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.deployment.compose import ROOT

DOCKERFILE: Final = ROOT / "deploy" / "Dockerfile"

_KNOWN: Final = frozenset(
    {
        "ARG",
        "CMD",
        "COPY",
        "ENV",
        "FROM",
        "HEALTHCHECK",
        "LABEL",
        "RUN",
        "STOPSIGNAL",
        "USER",
        "WORKDIR",
    }
)
_STAGE: Final = re.compile(r"(?P<base>\S+)(?: AS (?P<name>[a-z][a-z-]*))?")


@dataclass
class Stage:
    """A stage of a build."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        """The arguments of every instruction of a kind."""
        return [text for name, text in self.instructions if name == instruction]


def read_instructions(text: str) -> list[tuple[str, str]]:
    """Instructions and their arguments, with continued lines joined and comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = []
    for line in joined.splitlines():
        if line.strip():
            name, _, rest = line.partition(" ")
            assert name in _KNOWN, line
            found.append((name, rest.strip()))
    return found


def read_stages(path: Path = DOCKERFILE) -> dict[str, Stage]:
    """The stages of a Dockerfile by name, in order."""
    stages: dict[str, Stage] = {}
    arguments: dict[str, str] = {}
    for name, text in read_instructions(path.read_text("utf-8")):
        if name == "FROM":
            match = _STAGE.fullmatch(text)
            assert match is not None, text
            assert match["name"], f"a stage without a name: {text}"
            base = re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], match["base"])
            current = stages[match["name"]] = Stage(match["name"], base)
        elif not stages:
            assert name == "ARG", name
            key, _, value = text.partition("=")
            arguments[key] = value
        else:
            current.instructions.append((name, text))
    return stages


def lineage(stages: dict[str, Stage], name: str) -> list[Stage]:
    """A stage and the stages that it is built upon, the oldest first."""
    stage = stages[name]
    return [*(lineage(stages, stage.base) if stage.base in stages else ()), stage]


def environment(stages: dict[str, Stage], name: str) -> dict[str, str]:
    """The environment of a container of this stage."""
    found: dict[str, str] = {}
    for stage in lineage(stages, name):
        for text in stage.all("ENV"):
            found |= dict(word.split("=", 1) for word in shlex.split(text))
    return found


def last(stages: dict[str, Stage], name: str, instruction: str) -> str | None:
    """What holds in a container of this stage: the last of a kind of instruction."""
    texts = [text for stage in lineage(stages, name) for text in stage.all(instruction)]
    return texts[-1] if texts else None
