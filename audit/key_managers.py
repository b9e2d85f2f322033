"""Which key managers a keyring uses: a small file in its folder says so.

`key-manager.toml` names the manager that wraps, and, while keys are being moved to it, those that
wrapped before. Without the file it is the file key manager.

```toml
format = "fiduciary.key-manager/1"

[manager]
kind = "vault"              # "file", "vault", or the name of an installed manager
id = "5d0c1a2b"             # random; marks the rows that this manager wrapped
cache_seconds = 300         # how long an unwrapped key may stay in memory
address = "https://vault.example:8200"
key = "fiduciary-st-elm"
token_file = "/run/vault/token"
```

* An installed manager is an entry point of the group `fiduciary.key_managers`: a function that
  takes the remaining fields and returns a `KeyManager`. The file names no code: whoever can write
  to the folder chooses among what was installed, and runs nothing else.
* The file holds no secret; credentials are named by file or environment variable.
* The file is replaced atomically and read again when it changed, so that running services follow.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

from audit.durable import write_durably
from audit.envelope import KEY_BYTES
from audit.errors import MalformedInput
from audit.file_key_manager import FILE_KEY_PREFIX, FileKeyManager
from audit.key_manager import KeyManager, KeyringUnavailable, WrappedKey
from audit.vault_transit import VaultTransit

SETTINGS_FILE: Final = "key-manager.toml"
SETTINGS_FORMAT: Final = "fiduciary.key-manager/1"
ENTRY_POINT_GROUP: Final = "fiduciary.key_managers"

DEFAULT_CACHE_SECONDS: Final = 300
"""Between a revoked token and the last key that is still read: short for an incident, long enough
that a busy log asks a service about each subject once in a while only."""

_FOREVER_SECONDS: Final = float("inf")
_MAX_SETTINGS_BYTES: Final = 64 * 1024
_MAX_CACHE_SECONDS: Final = 86_400
_IDENTIFIER: Final = re.compile(r"[0-9a-f]{8}", re.ASCII)
_KIND: Final = re.compile(r"[a-z][a-z0-9-]{0,39}", re.ASCII)
_FIELD: Final = re.compile(r"[a-z][a-z0-9_]{0,39}", re.ASCII)
_MAX_KEY_ID_LENGTH: Final = 200

Value = str | int | bool


@dataclass(frozen=True)
class ManagerSettings:
    """One manager of `key-manager.toml`.

    Attributes:
        kind: `file`, `vault`, or the name of an entry point.
        options: What the manager itself is told.
        cache_seconds: How long an unwrapped key may stay in memory; 0 to ask at each use. The file
            manager's are kept as long as there is room, because its key is beside them anyway.
        id: 8 hexadecimal digits, random; empty for the file manager, whose key_ids say it all.
    """

    kind: str
    options: Mapping[str, Value] = field(default_factory=dict)
    cache_seconds: int = DEFAULT_CACHE_SECONDS
    id: str = field(default_factory=lambda: secrets.token_hex(4))

    @property
    def lifetime_seconds(self) -> float:
        """How long an unwrapped key may stay in memory."""
        return _FOREVER_SECONDS if self.kind == "file" else float(self.cache_seconds)

    def table(self) -> dict[str, Value]:
        """As TOML."""
        if self.kind == "file":
            return {"kind": "file"}
        common: dict[str, Value] = {
            "kind": self.kind,
            "id": self.id,
            "cache_seconds": self.cache_seconds,
        }
        return common | dict(self.options)

    @classmethod
    def parse(cls, table: object, where: str) -> ManagerSettings:
        """Read one table; without `id` a new one is drawn.

        Raises:
            MalformedInput: When it is none.
        """
        if not isinstance(table, dict):
            raise MalformedInput(f"malformed {where}: expected a table")
        options: dict[str, Any] = dict(table)
        for name, value in options.items():
            if not _FIELD.fullmatch(name) or not isinstance(value, str | int):
                raise MalformedInput(f"malformed {where}: {name!r} is not text, number or boolean")
            if isinstance(value, str) and not value.isprintable():
                raise MalformedInput(f"malformed {where}: {name} has unprintable characters")
        kind = options.pop("kind", None)
        if not isinstance(kind, str) or not _KIND.fullmatch(kind):
            raise MalformedInput(f"malformed {where}: kind must be file, vault or an installed one")
        if kind == "file":
            if options:
                raise MalformedInput(f"malformed {where}: file takes no {', '.join(options)}")
            return FILE_SETTINGS
        cache_seconds = options.pop("cache_seconds", DEFAULT_CACHE_SECONDS)
        if type(cache_seconds) is not int or not 0 <= cache_seconds <= _MAX_CACHE_SECONDS:
            raise MalformedInput(
                f"malformed {where}: cache_seconds must be 0 to {_MAX_CACHE_SECONDS}"
            )
        identifier = options.pop("id", secrets.token_hex(4))
        if not isinstance(identifier, str) or not _IDENTIFIER.fullmatch(identifier):
            raise MalformedInput(f"malformed {where}: id must be 8 hexadecimal digits")
        return cls(kind, options, cache_seconds, identifier)


FILE_SETTINGS: Final = ManagerSettings("file", id="")


def open_manager(directory: Path, settings: ManagerSettings) -> KeyManager:
    """The manager that settings name; nothing is contacted yet.

    Raises:
        MalformedInput: When its options are wrong.
        KeyringUnavailable: When no such manager is installed.
    """
    if settings.kind == "file":
        return FileKeyManager(directory)
    if settings.kind == "vault":
        return VaultTransit.from_options(settings.options)
    found = entry_points(group=ENTRY_POINT_GROUP, name=settings.kind)
    if not found:
        raise KeyringUnavailable(
            f"no key manager {settings.kind} is installed",
            fix=f"install the package that offers it as an entry point of {ENTRY_POINT_GROUP}",
        )
    manager: KeyManager = next(iter(found)).load()(settings.options)
    return manager


class KeyManagers:
    """The managers that a keyring's folder names. Safe under threads.

    Rows say which manager wrapped them: `wrapping_key` is the file manager's `key_id`, or another
    manager's `id`, a colon and its `key_id`.
    """

    def __init__(self, directory: Path) -> None:
        """Read the folder's settings at first use.

        Args:
            directory: The keyring's folder.
        """
        self._directory = directory
        self._path = directory / SETTINGS_FILE
        self._lock = threading.RLock()
        self._seen: object = ()
        self._settings: tuple[ManagerSettings, ...] = ()
        self._managers: dict[str, KeyManager] = {}

    @property
    def settings(self) -> tuple[ManagerSettings, ...]:
        """The manager that wraps, then those that only unwrap what was not moved yet.

        Raises:
            MalformedInput: When the file is not what it should be.
        """
        with self._lock:
            seen = self._stat()
            if seen != self._seen:
                self._settings = self._parse() if seen else (FILE_SETTINGS,)
                self._seen = seen
                for identifier in set(self._managers) - {each.id for each in self._settings}:
                    self._managers.pop(identifier).close()
            return self._settings

    def generate_data_key(self, context: bytes) -> tuple[bytes, WrappedKey, float]:
        """A new data key, itself wrapped as a row keeps it, and how many seconds it may stay."""
        settings = self.settings[0]
        key, wrapped = self._manager(settings).generate_data_key(context)
        return key, _stored(settings, wrapped), settings.lifetime_seconds

    def unwrap(self, wrapped: WrappedKey, context: bytes) -> tuple[bytes, float]:
        """A key, and how many seconds it may stay in memory."""
        settings, manager, inner = self._find(wrapped)
        return manager.unwrap(inner, context), settings.lifetime_seconds

    def rewrap(self, wrapped: WrappedKey, context: bytes) -> WrappedKey:
        """The same key under the newest version of the manager that wraps."""
        newest = self.settings[0]
        settings, manager, inner = self._find(wrapped)
        if settings == newest:
            return _stored(newest, manager.rewrap(inner, context))
        key = manager.unwrap(inner, context)
        return _stored(newest, self._manager(newest).wrap(key, context))

    def rotate(self, settings: ManagerSettings | None = None) -> str:
        """Make a new version of the manager that wraps; its name as rows have it.

        Args:
            settings: Another manager, which wraps from then on, durably, once it was seen to work;
                the present ones still unwrap. It gets a new version too, because it may be the
                present one by another name: what the old name's versions wrapped will be destroyed.
        """
        with self._lock:
            present = self.settings
            if settings is None:
                settings = present[0]
            for each in present:  # the same one again keeps its id, so that its rows stay its own
                if each.kind == settings.kind and dict(each.options) == dict(settings.options):
                    settings = replace(settings, id=each.id)
            manager = self._manager(settings)
            key_id = manager.rotate()
            if settings != present[0]:
                _try(settings.kind, manager)
                self._write((settings, *(each for each in present if each.id != settings.id)))
        return _stored(settings, WrappedKey(key_id, b"")).key_id

    def destroy(self, stored: str) -> None:
        """Destroy a version by the name that rows had for it."""
        _, manager, inner = self._find(WrappedKey(stored, b""))
        manager.destroy(inner.key_id)

    def forget_unused(self, stored: Collection[str]) -> None:
        """Keep of the managers that only unwrap those that one of these versions needs."""
        with self._lock:
            newest, *others = self.settings
            needed = {_manager_id(each) for each in stored}
            kept = (newest, *(each for each in others if each.id in needed))
            if kept != self._settings:
                self._write(kept)

    def close(self) -> None:
        """Forget keys and close connections."""
        with self._lock:
            for manager in self._managers.values():
                manager.close()
            self._managers.clear()

    def _find(self, wrapped: WrappedKey) -> tuple[ManagerSettings, KeyManager, WrappedKey]:
        identifier = _manager_id(wrapped.key_id)
        for settings in self.settings:
            if settings.id == identifier:
                key_id = wrapped.key_id.partition(":")[2] if identifier else wrapped.key_id
                return settings, self._manager(settings), WrappedKey(key_id, wrapped.data)
        if not identifier:  # files that were left behind still open their rows
            return FILE_SETTINGS, self._manager(FILE_SETTINGS), wrapped
        raise KeyringUnavailable(
            f"{self._path} names no key manager with the id {identifier}",
            fix=f"restore {SETTINGS_FILE} from a backup of the keyring's folder",
        )

    def _manager(self, settings: ManagerSettings) -> KeyManager:
        with self._lock:
            if settings.id not in self._managers:
                self._managers[settings.id] = open_manager(self._directory, settings)
            return self._managers[settings.id]

    def _stat(self) -> object:
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size

    def _parse(self) -> tuple[ManagerSettings, ...]:
        where = str(self._path)
        document = read_toml(self._path)
        if document.get("format") != SETTINGS_FORMAT:
            raise MalformedInput(f"malformed {where}: expected format {SETTINGS_FORMAT}")
        previous = document.get("previous", [])
        if document.keys() - {"format", "manager", "previous"} or not isinstance(previous, list):
            raise MalformedInput(f"malformed {where}: expected format, manager and previous")
        tables = (document.get("manager"), *previous)
        if any(isinstance(t, dict) and t.get("kind") != "file" and "id" not in t for t in tables):
            raise MalformedInput(f"malformed {where}: a manager has no id")
        settings = tuple(ManagerSettings.parse(table, where) for table in tables)
        if len({each.id for each in settings}) != len(settings):
            raise MalformedInput(f"malformed {where}: two managers have the same id")
        return settings

    def _write(self, settings: tuple[ManagerSettings, ...]) -> None:
        newest, *previous = settings
        lines = [
            "# Which key manager this keyring uses: docs/key-management.md.",
            f'format = "{SETTINGS_FORMAT}"',
            *_toml("[manager]", newest),
        ]
        for each in previous:
            lines += _toml("[[previous]]", each)
        write_durably(self._path, ("\n".join(lines) + "\n").encode("utf-8"))
        self._seen = ()


def read_toml(path: Path) -> dict[str, Any]:
    """A small TOML file.

    Raises:
        MalformedInput: When it is too large or none.
    """
    with path.open("rb") as file:
        content = file.read(_MAX_SETTINGS_BYTES + 1)
    if len(content) > _MAX_SETTINGS_BYTES:
        raise MalformedInput(f"{path} is larger than {_MAX_SETTINGS_BYTES} bytes")
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise MalformedInput(f"malformed {path}: {error}") from error


def _try(kind: str, manager: KeyManager) -> None:
    """See that a manager wraps and unwraps, before anything depends on it."""
    context = secrets.token_bytes(KEY_BYTES)
    key, wrapped = manager.generate_data_key(context)
    if manager.unwrap(wrapped, context) != key:
        raise KeyringUnavailable(f"the key manager {kind} loses keys", fix="do not use it")


def _stored(settings: ManagerSettings, wrapped: WrappedKey) -> WrappedKey:
    if len(wrapped.key_id) > _MAX_KEY_ID_LENGTH:
        raise KeyringUnavailable(f"the key manager {settings.kind} made a key_id that is too long")
    return WrappedKey(
        f"{settings.id}:{wrapped.key_id}" if settings.id else wrapped.key_id, wrapped.data
    )


def _manager_id(stored: str) -> str:
    """Empty for the file manager."""
    return "" if stored.startswith(FILE_KEY_PREFIX) else stored.partition(":")[0]


def _toml(heading: str, settings: ManagerSettings) -> list[str]:
    # Printable text without control characters: a JSON string is then a TOML string too.
    fields = [
        f"{name} = {json.dumps(value, ensure_ascii=False)}"
        for name, value in settings.table().items()
    ]
    return ["", heading, *fields]
