"""Columns whose values are encrypted before they reach the database, and decrypted after.

```python
class RequesterRow(SealedColumns, Base):
    __tablename__ = "requesters"

    request_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    email: Mapped[str | None] = mapped_column(SealedText("requesters.email"))

    def sealing_key(self, place: str) -> str:  # optional: what to destroy so that it is forgotten
        return f"request:{self.request_id}"
```

* Attributes are plain `str`. In the table is what `audit.envelope` made of them, with a data key of
  the service's keyring: without the keyring the database's files and backups say nothing.
* A cell is bound to its table and column (associated data) and to its row's primary key (inside):
  moved to another place or another row it is not accepted.
* Destroying the data key (`Keyring.destroy`) forgets the value in every copy of the database at
  once: it reads as None.
* The ORM writes such a column, or whoever made the cell by `seal_cell`. A value that did not pass
  `SealedColumns` is refused, never stored in clear; a condition on the column is refused too. To
  find rows by a value, keep a keyed hash (`Keyring.secret`) in a column beside it.
* Opening a cell asks the keyring: lists that do not show it want `deferred=True`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, Final, Self
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Dialect, Engine, LargeBinary, TypeDecorator, event, inspect
from sqlalchemy.orm import Mapper

from audit.canonical import canonical_bytes, parse_canonical_object
from audit.envelope import NONCE_BYTES, Envelope, seal, unseal
from audit.errors import MalformedInput, VerificationFailed
from audit.key_manager import DataKeys, KeyDestroyed

FORMAT: Final = "fiduciary.sealed-column/1"

_FIRST_BYTE: Final = b"\x01"
_MAX_KEY_NAME: Final = 255

_keys: WeakKeyDictionary[Dialect, DataKeys] = WeakKeyDictionary()


def use_keys(engine: Engine, keys: DataKeys) -> None:
    """Let the sealed columns of this engine's database use these keys. Safe to repeat."""
    _keys[engine.dialect] = keys


def keys_of(connection: Connection) -> DataKeys:
    """The keys that sealed columns of a database use, for a revision that moves cells."""
    return _keys[connection.dialect]


def seal_cell(
    connection: Connection, place: str, key_name: str, row: list[Any], value: str
) -> bytes:
    """A cell as the ORM would write it: for a revision, which imports no model, or a fixed insert.

    Args:
        connection: Of the database that the cell is for.
        place: `<table>.<column>`.
        key_name: The data key that seals it.
        row: The row's primary key.
        value: What to seal.
    """
    return _seal(place, key_name, row, value, keys_of(connection))


def open_cell(connection: Connection, place: str, cell: bytes) -> str | None:
    """What a cell holds; None when its key was destroyed.

    Raises:
        VerificationFailed: When the cell was changed, or belongs to another column.
    """
    return _open(place, cell, keys_of(connection))


class _Opened(str):
    """A value with the cell that it is in, and the row that the cell belongs to."""

    __slots__ = ("cell", "row")
    cell: bytes
    row: list[Any]

    @classmethod
    def of(cls, value: str, cell: bytes, row: list[Any]) -> Self:
        """Keep a value's cell with it."""
        opened = cls(value)
        opened.cell, opened.row = cell, row
        return opened


class SealedText(TypeDecorator[str]):
    """The type of a sealed column; migrations say `LargeBinary`.

    Args:
        place: `<table>.<column>` that it is the type of.
    """

    impl = LargeBinary
    cache_ok = True

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place

    def process_bind_param(self, value: str | None, dialect: Dialect) -> bytes | None:  # noqa: ARG002
        """The cell.

        Raises:
            TypeError: When the value is not sealed.
        """
        if value is None:
            return None
        if not isinstance(value, _Opened):
            raise TypeError(f"{self.place} is sealed: write it through a class with SealedColumns")
        return value.cell

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> str | None:
        """The value; None when its key was destroyed.

        Raises:
            VerificationFailed: When the cell was changed, or belongs to another column.
        """
        return None if value is None else _open(self.place, value, _keys[dialect])

    def compare_values(self, x: Any, y: Any) -> bool:
        """Whether a row holds `y` already, where it holds `x`."""
        if isinstance(x, _Opened) and isinstance(y, _Opened):
            return x.cell == y.cell
        return bool(x == y)


class SealedColumns:
    """Seals and checks the `SealedText` columns of a mapped class. Comes before `Base`."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        event.listen(cls, "before_insert", _seal_row)
        event.listen(cls, "before_update", _seal_row)
        event.listen(cls, "load", lambda row, _: _check_row(row, None))
        event.listen(cls, "refresh", lambda row, _, names: _check_row(row, names))

    def sealing_key(self, place: str) -> str:
        """Name of the data key that seals this row's cell of a column."""
        return f"column:{place}"


@cache
def sealed_attributes(mapper: Mapper[Any]) -> dict[str, str]:
    """The attributes of a mapped class that are sealed, with their places."""
    return {
        attribute.key: attribute.columns[0].type.place
        for attribute in mapper.column_attrs
        if isinstance(attribute.columns[0].type, SealedText)
    }


def _seal_row(mapper: Mapper[Any], connection: Connection, row: Any) -> None:
    identity = list(mapper.primary_key_from_instance(row))
    for name, place in sealed_attributes(mapper).items():
        value = row.__dict__.get(name)
        if value is None or (isinstance(value, _Opened) and value.row == identity):
            continue
        key_name = row.sealing_key(place)
        cell = _seal(place, key_name, identity, str(value), _keys[connection.dialect])
        setattr(row, name, _Opened.of(value, cell, identity))


def _check_row(row: Any, names: Iterable[str] | None) -> None:
    mapper = inspect(row).mapper
    identity = list(mapper.primary_key_from_instance(row))
    for name, place in sealed_attributes(mapper).items():
        value = row.__dict__.get(name) if names is None or name in names else None
        if isinstance(value, _Opened) and value.row != identity:
            del row.__dict__[name]
            raise VerificationFailed(
                f"a cell of {place} belongs to another row",
                fix="restore the database from a backup: somebody changed it",
            )


def _seal(place: str, key_name: str, row: list[Any], value: str, keys: DataKeys) -> bytes:
    name = key_name.encode("ascii")
    if len(name) > _MAX_KEY_NAME:
        raise MalformedInput(f"the name of a sealing key of {place} is too long")
    plaintext = canonical_bytes({"row": row, "value": value})
    envelope = seal(keys.generate_data_key(key_name), plaintext, _context(place, key_name))
    return _FIRST_BYTE + bytes([len(name)]) + name + envelope.nonce + envelope.ciphertext


def _open(place: str, cell: bytes, keys: DataKeys) -> str | None:
    end = 2 + int.from_bytes(cell[1:2])
    name, rest = cell[2:end], cell[end:]
    if cell[:1] != _FIRST_BYTE or not name or len(rest) < NONCE_BYTES:
        raise _changed(place)
    key_name = name.decode("ascii", "replace")
    try:
        plaintext = unseal(
            keys.data_key(key_name),
            Envelope(rest[:NONCE_BYTES], rest[NONCE_BYTES:]),
            _context(place, key_name),
        )
    except KeyDestroyed:
        return None
    except (VerificationFailed, MalformedInput) as error:
        raise _changed(place) from error
    document: dict[str, Any] = parse_canonical_object(plaintext)
    return _Opened.of(str(document["value"]), cell, document["row"])


def _context(place: str, key_name: str) -> bytes:
    return canonical_bytes({"format": FORMAT, "place": place, "key": key_name})


def _changed(place: str) -> VerificationFailed:
    return VerificationFailed(
        f"a cell of {place} was changed, or belongs to another column",
        fix="restore the database from a backup: somebody changed it",
    )
