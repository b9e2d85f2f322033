"""A real PostgreSQL server for tests and benchmarks: started by them, stopped by them.

It listens on a free loopback port and on nothing else, keeps its data in a temporary folder, and is
ended by its own process id. PostgreSQL does not run as root: root starts it as another user.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Final

import psycopg
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

MISSING: Final = (
    "PostgreSQL's server programs are not installed (Debian: apt-get install postgresql-15)"
)

_START_SECONDS: Final = 60


def find_programs() -> Path | None:
    """The folder of `initdb` and `postgres`, if they are installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: path.parts[4])
    if found:
        return found[-1].parent
    program = shutil.which("initdb")
    return Path(program).parent if program and shutil.which("postgres") else None


class PostgresServer:
    """A running server.

    Attributes:
        port: Where it listens on 127.0.0.1.
    """

    def __init__(self, programs: Path, folder: Path, *, durable: bool) -> None:
        self._programs = programs
        self._data = folder / "data"
        self._folder = folder
        self._durable = durable
        self._numbers = count()
        self._process: subprocess.Popen[bytes] | None = None
        self._user = unprivileged_user(folder)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        options = ("-U", "fiduciary", "-A", "trust", "-E", "UTF8", "--no-sync")
        self._run("initdb", "-D", str(self._data), *options)

    def start(self) -> None:
        """Start it and wait until it answers."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "on" if self._durable else "off",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self._folder / "server.log").open("ab") as messages:
            self._process = subprocess.Popen(
                [str(self._programs / "postgres"), "-D", str(self._data), *options],
                user=self._user,
                stdout=subprocess.DEVNULL,
                stderr=messages,
                env=os.environ | {"LC_ALL": "C"},
            )
        self._wait()

    @retry(
        retry=retry_if_exception_type(psycopg.OperationalError),
        wait=wait_fixed(0.1),
        stop=stop_after_delay(_START_SECONDS),
        reraise=True,
    )
    def _wait(self) -> None:
        psycopg.connect(self.address("postgres"), connect_timeout=2).close()

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: fast shutdown, or as a crash with SIGQUIT (which PostgreSQL calls immediate)."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=_START_SECONDS)
            self._process = None

    def address(self, database: str) -> str:
        """The address of a database."""
        return f"postgresql://fiduciary@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The address of a new, empty database."""
        name = f"log_{next(self._numbers)}"
        with psycopg.connect(self.address("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.address(name)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._programs / program), *arguments],
            user=self._user,
            check=True,
            capture_output=True,
            env=os.environ | {"LC_ALL": "C"},
        )


@contextmanager
def running_server(*, durable: bool = False) -> Iterator[PostgresServer]:
    """A server for the length of a block.

    Args:
        durable: Syncs to disk; tests that only kill processes do not need it, benchmarks do.

    Raises:
        FileNotFoundError: When PostgreSQL is not installed.
    """
    programs = find_programs()
    if programs is None:
        raise FileNotFoundError(MISSING)
    with tempfile.TemporaryDirectory(prefix="fiduciary-postgresql-") as name:
        server = PostgresServer(programs, Path(name), durable=durable)
        try:
            server.start()
            yield server
        finally:
            server.stop()


def unprivileged_user(folder: Path) -> str | None:
    """Whom to run the server as: nobody special, and the owner of the folder."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        os.chown(folder, entry.pw_uid, entry.pw_gid)
        return name
    raise FileNotFoundError("PostgreSQL does not run as root, and there is no user nobody")
