"""A real OpenBao server for tests, where its program `bao` is on the PATH.

OpenBao is the fork of Vault under the Mozilla Public License; its transit engine has the same API.
The server keeps everything in memory, listens on a free loopback port, and is ended by its own
process id.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import hvac
import requests
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

MISSING: Final = "OpenBao's program bao is not on the PATH"
ROOT_TOKEN: Final = "root-token-of-a-test"

_START_SECONDS: Final = 60


def find_program() -> str | None:
    """The program, if it is installed."""
    return shutil.which("bao")


@contextmanager
def running_openbao() -> Iterator[tuple[str, Any]]:
    """A server with a transit engine; its address, and a client with the root token."""
    program = find_program()
    if program is None:
        raise FileNotFoundError(MISSING)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as home, (Path(home) / "log").open("wb") as messages:
        server = subprocess.Popen(
            [
                program,
                "server",
                "-dev",
                "-dev-no-store-token",
                f"-dev-root-token-id={ROOT_TOKEN}",
                f"-dev-listen-address=127.0.0.1:{port}",
            ],
            stdout=messages,
            stderr=messages,
            env={"HOME": home, "PATH": os.environ["PATH"]},
        )
        client = hvac.Client(url=address, token=ROOT_TOKEN)
        try:
            _enable_transit(client)
            yield address, client
        finally:
            client.adapter.close()
            server.terminate()
            server.wait(30)


@retry(
    retry=retry_if_exception_type((requests.exceptions.ConnectionError, hvac.exceptions.VaultDown)),
    stop=stop_after_delay(_START_SECONDS),
    wait=wait_fixed(0.1),
    reraise=True,
)
def _enable_transit(client: Any) -> None:
    client.sys.enable_secrets_engine("transit")
