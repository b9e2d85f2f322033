"""Addresses of databases that do not hold the password, but say in which file it is.

`postgresql://anna@host/database?password_file=/run/secrets/database_password`

* Such an address is no secret: it may stand in a settings file, in an environment and in a process
  list, where a password must not.
* The file is read for each new connection, so that a password is changed without a restart.
* It may be readable by others: container engines hand secrets over as files with mode 0444, in a
  container of their own. Whoever keeps it on a host protects its folder.
* libpq's own `passfile` does neither: it wants mode 0600, and a format of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from audit.errors import MalformedInput, NotFound

PARAMETER: Final = "password_file"

MAX_PASSWORD_BYTES: Final = 4096
"""A password is a line; more is another file."""


def split_password_file(address: str) -> tuple[str, Path | None]:
    """An address as drivers read it, and where its password is.

    Args:
        address: Of a database, with or without the parameter `password_file`.

    Raises:
        MalformedInput: When it names several files, or a password as well.

    >>> split_password_file("postgresql://anna@host/database?password_file=/run/secrets/password")
    ('postgresql://anna@host/database', PosixPath('/run/secrets/password'))
    >>> split_password_file("sqlite:///compliance.sqlite")
    ('sqlite:///compliance.sqlite', None)
    """
    place, separator, query = address.partition("?")
    if not separator or PARAMETER not in query:
        return address, None
    parameters = parse_qsl(query, keep_blank_values=True)
    files = [value for name, value in parameters if name == PARAMETER]
    if not files:
        return address, None
    others = [(name, value) for name, value in parameters if name != PARAMETER]
    if len(files) > 1 or not files[0]:
        raise MalformedInput(
            f"malformed database address: it needs one {PARAMETER}, not {len(files)}",
            fix=f"write …?{PARAMETER}=/path/to/the/file",
        )
    if urlsplit(place).password is not None or "password" in dict(others):
        raise MalformedInput(
            f"malformed database address: it has a password and a {PARAMETER}",
            fix="leave the password out of the address",
        )
    return place + (f"?{urlencode(others)}" if others else ""), Path(files[0])


def read_password(path: Path) -> str:
    """The password in a file: its first line, which is also its last.

    Raises:
        NotFound: When there is no file.
        MalformedInput: When it is empty, or holds more than a line.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_PASSWORD_BYTES + 1)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise NotFound(
            f"there is no database password at {path}",
            fix=f"write it there, or correct {PARAMETER} in the database's address",
        ) from error
    try:
        password = data.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise MalformedInput(f"malformed database password {path}: not UTF-8") from error
    if not password or len(data) > MAX_PASSWORD_BYTES or not password.isprintable():
        raise MalformedInput(
            f"malformed database password {path}: it is not one line of text",
            fix="write the password there, and nothing else",
        )
    return password
