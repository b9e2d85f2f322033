"""A real MariaDB server for tests: started by them, stopped by them, on a loopback port alone.

It does not run as root: root starts it as another user.
"""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.postgresql import unprivileged_user

MISSING: Final = (
    "MariaDB's server programs and PyMySQL are not both installed"
    " (Debian: apt-get install mariadb-server; pip install pymysql)"
)

PASSWORD: Final = "hunter2-geheim"
"""Of a server that lives for one test."""

_START_SECONDS: Final = 60


def is_installed() -> bool:
    """Whether server and driver are there."""
    programs = ("mariadbd", "mariadb-install-db")
    return importlib.util.find_spec("pymysql") is not None and all(map(shutil.which, programs))


class MariaServer:
    """A running server.

    Attributes:
        port: Where it listens on 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        self.port = port

    @property
    def url(self) -> str:
        """SQLAlchemy's, of the database `ehr` for its `reader`, without the password."""
        return f"mysql+pymysql://reader@127.0.0.1:{self.port}/ehr"

    def run(self, *statements: str) -> list[Any]:
        """What the last of an administrator's statements answers."""
        import pymysql

        with pymysql.connect(host="127.0.0.1", port=self.port, user="root") as connection:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
                answer = list(cursor.fetchall())
            connection.commit()
            return answer


@contextmanager
def running_mariadb() -> Iterator[MariaServer]:
    """A server with an empty database `ehr` for the length of a block."""
    import pymysql

    with tempfile.TemporaryDirectory(prefix="fiduciary-mariadb-") as name:
        folder = Path(name)
        user = unprivileged_user(folder)
        common = ("--no-defaults", f"--datadir={folder / 'data'}", f"--tmpdir={folder}")
        subprocess.run(
            ["mariadb-install-db", *common, "--auth-root-authentication-method=normal",
             "--skip-test-db"],
            user=user, check=True, capture_output=True,
        )  # fmt: skip
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            server = MariaServer(probe.getsockname()[1])
        process = subprocess.Popen(
            ["mariadbd", *common, "--bind-address=127.0.0.1", f"--port={server.port}",
             f"--socket={folder / 'socket'}", f"--pid-file={folder / 'pid'}"],
            user=user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + _START_SECONDS
            while True:
                try:
                    server.run("SELECT 1")
                    break
                except pymysql.err.OperationalError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.1)
            server.run(
                "CREATE DATABASE ehr CHARACTER SET utf8mb4",
                f"CREATE USER reader@127.0.0.1 IDENTIFIED BY '{PASSWORD}'",
                "GRANT ALL ON ehr.* TO reader@127.0.0.1",
            )
            yield server
        finally:
            process.terminate()
            process.wait(timeout=_START_SECONDS)
