"""An address of a database names the file of its password, and holds none."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

from audit import database_address
from audit.database_address import read_password, split_password_file
from audit.errors import MalformedInput, NotFound


def test_examples() -> None:
    assert doctest.testmod(database_address).failed == 0


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("postgresql://anna@host/log", ("postgresql://anna@host/log", None)),
        ("postgresql://host/log?sslmode=require", ("postgresql://host/log?sslmode=require", None)),
        ("postgresql://host/password_file", ("postgresql://host/password_file", None)),
        ("postgresql://h/d?application_name=password_file", None),
        ("postgresql://h/d?password_file=/p", ("postgresql://h/d", Path("/p"))),
        (
            "postgresql+psycopg://h:1/d?sslmode=require&password_file=/run/a%20b&x=1",
            ("postgresql+psycopg://h:1/d?sslmode=require&x=1", Path("/run/a b")),
        ),
    ],
)
def test_addresses(address: str, expected: tuple[str, Path | None] | None) -> None:
    assert split_password_file(address) == (expected or (address, None))


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("postgresql://h/d?password_file=/a&password_file=/b", "one password_file, not 2"),
        ("postgresql://h/d?password_file=", "needs one password_file"),
        ("postgresql://anna:secret@h/d?password_file=/a", "has a password and a password_file"),
        ("postgresql://h/d?password=secret&password_file=/a", "has a password and a password_file"),
    ],
)
def test_addresses_that_say_two_things(address: str, reason: str) -> None:
    with pytest.raises(MalformedInput, match=reason) as refused:
        split_password_file(address)
    assert "secret" not in str(refused.value) + refused.value.fix


@pytest.mark.parametrize(
    ("content", "password"),
    [
        (b"a b\n", "a b"),
        (b"s3cret", "s3cret"),
        (b"s3cret\r\n", "s3cret"),
        ("päss\n".encode(), "päss"),
    ],
)
def test_a_password_is_a_line(tmp_path: Path, content: bytes, password: str) -> None:
    (tmp_path / "password").write_bytes(content)
    assert read_password(tmp_path / "password") == password


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines\n", b"nul\x00", b"\xff", b"x" * 5000])
def test_what_is_no_password_is_refused_and_not_shown(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "password").write_bytes(content)
    with pytest.raises(MalformedInput) as refused:
        read_password(tmp_path / "password")
    assert "lines" not in str(refused.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(NotFound, match="no database password") as missing:
            read_password(path)
        assert "password_file" in missing.value.fix
