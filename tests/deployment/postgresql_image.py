"""What the entry point of the image `postgres` does with its environment, as plain processes.

A new database is made by `initdb` with the password of POSTGRES_PASSWORD_FILE and the options of
POSTGRES_INITDB_ARGS, then the database POSTGRES_DB; then the server starts. It listens on
loopback, without a socket in the file system. PostgreSQL does not run as root: root starts it as
another user.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from tests.postgresql import MISSING, find_programs, unprivileged_user


class PostgresImage:
    """The image's processes.

    Args:
        folder: Of the volume. It must lie where another user can get at it.
    """

    def __init__(self, folder: Path) -> None:
        programs = find_programs()
        if programs is None:
            raise FileNotFoundError(MISSING)
        self.programs = programs
        self._folder = folder
        self._user = unprivileged_user(folder)

    def start(
        self, environment: Mapping[str, str], port: int, log: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """Make the database if it is not there, and start the server."""
        data = Path(environment["PGDATA"])
        if not data.exists():
            self._make(environment, data)
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": "",
            "fsync": "off",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return subprocess.Popen(
            [str(self.programs / "postgres"), "-D", str(data), *options],
            user=self._user,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        )

    def _make(self, environment: Mapping[str, str], data: Path) -> None:
        # The server's user cannot look into the folder of the secrets, which an engine mounts.
        password = self._folder / "password"
        password.write_text(Path(environment["POSTGRES_PASSWORD_FILE"]).read_text("utf-8"))
        password.chmod(0o644)
        self._run(
            "initdb",
            f"--pgdata={data}",
            f"--username={environment['POSTGRES_USER']}",
            f"--pwfile={password}",
            "--encoding=UTF8",
            "--no-sync",
            *shlex.split(environment["POSTGRES_INITDB_ARGS"]),
        )
        password.unlink()
        statement = f'CREATE DATABASE "{environment["POSTGRES_DB"]}";\n'
        self._run("postgres", "--single", "-D", str(data), "postgres", given=statement)

    def _run(self, program: str, *arguments: str, given: str = "") -> None:
        subprocess.run(
            [str(self.programs / program), *arguments],
            user=self._user,
            check=True,
            capture_output=True,
            input=given.encode(),
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        )
