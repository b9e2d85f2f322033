"""Compose files, read as Docker Compose reads them, as far as ours go.

https://github.com/compose-spec/compose-spec: interpolation (12), services (05), volumes (07),
secrets (09). YAML merges are YAML's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
FEDERATION: Final = ROOT / "docker-compose.yml"
SITE: Final = ROOT / "deploy" / "site" / "docker-compose.yml"

SITE_SETTINGS: Final = {"FIDUCIARY_KIT": "east.kit", "FIDUCIARY_FINGERPRINT": "3fa2"}
"""What deploy/site/docker-compose.yml cannot do without."""

_VARIABLE: Final = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\})")


class MissingSetting(Exception):
    """A setting that the file demands is not set."""


def interpolate(value: Any, settings: Mapping[str, str]) -> Any:
    """A document with `${NAME}`, `${NAME:-default}` and `${NAME:?reason}` replaced."""
    if isinstance(value, dict):
        return {key: interpolate(member, settings) for key, member in value.items()}
    if isinstance(value, list):
        return [interpolate(member, settings) for member in value]
    if not isinstance(value, str):
        return value

    def found(match: re.Match[str]) -> str:
        name, kind, rest = match["name"], match["kind"], match["rest"]
        if name is None:
            return "$"
        if settings.get(name):
            return settings[name]
        if kind == "?":
            raise MissingSetting(f"{name}: {rest}")
        return rest or ""

    return _VARIABLE.sub(found, value)


def read_compose(path: Path, settings: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A compose file, interpolated."""
    document = interpolate(yaml.safe_load(path.read_text("utf-8")), settings or {})
    assert isinstance(document, dict)
    return document


@dataclass(frozen=True)
class Mount:
    """A named volume in a service."""

    volume: str
    target: str
    read_only: bool


def mounts(service: Mapping[str, Any]) -> list[Mount]:
    """The named volumes of a service, written `NAME:TARGET` or `NAME:TARGET:ro`."""
    found = []
    for text in service.get("volumes", ()):
        name, target, *options = text.split(":")
        assert options in ([], ["ro"]), text
        found.append(Mount(name, target, bool(options)))
    return found


def dependencies(service: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a service waits for, and for what of it."""
    return dict(service.get("depends_on", {}))


def networks(service: Mapping[str, Any]) -> set[str]:
    """The networks of a service."""
    return set(service.get("networks", ()))


def seconds(duration: str) -> float:
    """A duration as compose writes it.

    >>> seconds("1m30s")
    90.0
    """
    assert re.fullmatch(r"(\d+(ms|s|m|h))+", duration), duration
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    return sum(
        int(number) * units[unit] for number, unit in re.findall(r"(\d+)(ms|s|m|h)", duration)
    )
