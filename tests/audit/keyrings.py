"""Keyrings with keys in them, and what is stored in their file."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from audit.keyring import Keyring


def filled_keyring(folder: Path, count: int = 5) -> dict[str, bytes]:
    """A keyring of some data keys, a secret and a destroyed key; the keys by kind and name."""
    with Keyring.create(folder) as keyring:
        for number in range(count):
            keyring.generate_data_key(f"key-{number}")
        keyring.secret("pseudonyms")
        keyring.generate_data_key("destroyed")
        keyring.destroy("destroyed")
        return read_all(keyring)


def read_all(keyring: Keyring) -> dict[str, bytes]:
    """Every key, by kind and name."""
    keys = {f"data {name}": keyring.data_key(name) for name in keyring.names()}
    return keys | {"secret pseudonyms": keyring.secret("pseudonyms")}


def stored(folder: Path) -> dict[str, tuple[str, bytes]]:
    """The version and the wrapped bytes of each key."""
    with closing(sqlite3.connect(folder / "keyring.sqlite")) as connection:
        rows = connection.execute(
            "SELECT kind || ' ' || name, wrapping_key, wrapped FROM keyring_keys"
            " WHERE wrapped IS NOT NULL"
        ).fetchall()
    return {name: (key_id, wrapped) for name, key_id, wrapped in rows}


def exchange(folder: Path, one: str, other: str) -> None:
    """Exchange two wrapped keys."""
    keys = stored(folder)
    with closing(sqlite3.connect(folder / "keyring.sqlite")) as connection, connection:
        for name, source in ((one, other), (other, one)):
            connection.execute(
                "UPDATE keyring_keys SET wrapping_key = ?, wrapped = ?"
                " WHERE kind = 'data' AND name = ?",
                (*keys[f"data {source}"], name),
            )
