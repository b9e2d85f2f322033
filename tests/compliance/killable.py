"""A real compliance service that kills itself where a test says, and comes back at once.

`python -m tests.compliance.killable FOLDER FAULT` prints its port and serves until SIGTERM. The
file FAULT names the moment to die at, and which of them that come, once: `keep` (content has come,
and has no name yet), `before` or `after` a commit. Everything is imported once; each life is a fork
of that, over one listening socket, so that a call made between two lives waits for the second.

What time does to subjects' requests is done when the file CHASE beside FAULT is there, which is
removed when it was: a life that dies meanwhile leaves it to the next.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from compliance.api import ComplianceClient
from compliance.service.content import ContentFolder
from compliance.service.folder import Folder, open_registry
from compliance.service.listener import Listener, open_socket
from compliance.service.registry import Registry
from compliance.service.subject_chasing import chase
from compliance.trust import Trust
from tests.compliance.running import wait_for

CHASE = "chase"

Moment = Literal["keep", "before", "after"]


def now() -> datetime:
    """The clock of both sides."""
    return datetime.now(UTC)


class KillableService:
    """The side of the test: what `tests.compliance.federation` needs of a service."""

    def __init__(self, folder: Folder, fault: Path, port: int) -> None:
        self.folder = folder
        self.clock = now
        self._fault = fault
        self.trust: Trust = replace(Trust.load(folder.trust), url=f"https://127.0.0.1:{port}")
        self._clients: list[ComplianceClient] = []
        self._node_keys: dict[str | None, tuple[str, Path]] = {}

    def token(self, name: str) -> str:
        return self.folder.token(name).read_text("ascii").strip()

    def client(self, token: str | None = None) -> ComplianceClient:
        """A client; a site's shows its certificate once there is one."""
        client = ComplianceClient(self.trust, token, certificate=self._certificate_of(token))
        self._clients.append(client)
        return client

    def keep_node_key(self, site: str, token: str, key: bytes) -> None:
        """What a site has on disk, so that whoever has its token can show its certificate, too."""
        path = self.folder.path.parent / f"{site}-node.pem"
        path.write_bytes(key)
        self._node_keys[token] = (site, path)

    def _certificate_of(self, token: str | None) -> tuple[Path, Path] | None:
        if token not in self._node_keys:
            return None
        site, key = self._node_keys[token]
        certificate = self.as_("officer").site(site).certificate
        if certificate is None:
            return None
        path = key.with_suffix(".certificate")
        path.write_text(certificate)
        return path, key

    def as_(self, name: str) -> ComplianceClient:
        return self.client(self.token(name))

    def die_at(self, moment: Moment, number: int = 1) -> None:
        """Let the service die at the next such moment, or at a later one."""
        self._fault.write_text(f"{moment} {number}")

    def has_died(self) -> bool:
        """Whether it has, since it was told to."""
        return not self._fault.exists()

    def chase(self) -> None:
        """Let it do what is due, in one life or two."""
        file = self._fault.with_name(CHASE)
        file.touch()
        wait_for(lambda: not file.exists(), 60)

    def close(self) -> None:
        for client in self._clients:
            client.close()


@contextmanager
def killable(folder: Folder) -> Iterator[KillableService]:
    """The service, running."""
    fault = folder.path.with_name("fault")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.compliance.killable", str(folder.path), str(fault)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    try:
        service = KillableService(folder, fault, int(process.stdout.readline()))
        try:
            yield service
        finally:
            service.close()
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


def _main(folder: Folder, fault: Path) -> None:
    listener = open_socket("127.0.0.1", 0)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    child = 0

    def end(_number: int, _frame: object) -> None:
        if child:
            os.kill(child, signal.SIGKILL)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    while True:
        child = os.fork()
        if not child:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            _serve(folder, fault, listener)
            os._exit(1)
        os.waitpid(child, 0)


def _serve(folder: Folder, fault: Path, listener: Any) -> None:
    registry = open_registry(folder, now)

    def perhaps_die(moment: Moment) -> None:
        if not fault.exists() or fault.read_text().split()[0] != moment:
            return
        number = int(fault.read_text().split()[1])
        if number > 1:
            fault.write_text(f"{moment} {number - 1}")
            return
        fault.unlink()
        os.kill(os.getpid(), signal.SIGKILL)

    dialect = registry.database.engine.dialect
    keep = ContentFolder.keep

    def dying_keep(self: ContentFolder, *arguments: Any) -> None:
        perhaps_die("keep")
        keep(self, *arguments)

    setattr(dialect, "do_commit", _around(dialect.do_commit, perhaps_die))  # noqa: B010
    setattr(ContentFolder, "keep", dying_keep)  # noqa: B010
    threading.Thread(
        target=_chase_when_told, args=(registry, fault.with_name(CHASE)), daemon=True
    ).start()
    Listener(registry, folder).run(sockets=[listener])


def _chase_when_told(registry: Registry, file: Path) -> None:
    while True:
        if file.exists():
            chase(registry)
            file.unlink()
        time.sleep(0.02)


def _around(
    commit: Callable[[Any], None], perhaps_die: Callable[[Moment], None]
) -> Callable[[Any], None]:
    def dying_commit(connection: Any) -> None:
        perhaps_die("before")
        commit(connection)
        perhaps_die("after")

    return dying_commit


if __name__ == "__main__":
    _main(Folder(Path(sys.argv[1])), Path(sys.argv[2]))
