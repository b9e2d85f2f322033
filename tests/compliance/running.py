"""A real compliance service on loopback TLS, in a thread, with a clock and faults under control."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError

from audit.merkle import Node
from audit.storage import Append, LogStorage, StoredCosignature
from compliance.api import ComplianceClient
from compliance.service.folder import Folder, NewService, create_folder, open_registry
from compliance.service.in_use import share_database
from compliance.service.listener import Listener, open_socket
from compliance.service.log_storage import session_log
from compliance.service.registry import Registry
from compliance.service.tables import SiteRow
from compliance.trust import Trust

START = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
TICK_SECONDS = 0.01
NEW = NewService("127.0.0.1", 8443, "127.0.0.1", "fiduciary.test/log")


class Clock:
    """A clock that moves when told to."""

    def __init__(self, now: datetime = START) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **duration: float) -> None:
        self.now += timedelta(**duration)


class InjectedFault(OperationalError):
    """What a database reports when its disk is gone."""

    def __init__(self) -> None:
        super().__init__("injected", None, OSError("injected"))


@dataclasses.dataclass
class Faults:
    """What fails, until it is set back."""

    append: bool = False
    """The log entry cannot be written."""
    commit: bool = False
    """The commit fails and nothing is stored."""
    after_commit: bool = False
    """The commit is stored, but its answer is lost."""


class FaultyStorage:
    """`LogStorage` that fails when `Faults.append` says so; otherwise the real one."""

    def __init__(self, storage: LogStorage, faults: Faults) -> None:
        self._storage = storage
        self._faults = faults

    def lock(self) -> None:
        self._storage.lock()

    def size(self) -> int:
        return self._storage.size()

    def read_leaf(self, position: int) -> bytes | None:
        return self._storage.read_leaf(position)

    def read_leaves(self, positions: Sequence[int]) -> list[bytes | None]:
        return self._storage.read_leaves(positions)

    def write_leaves(self, first: int, leaves: Sequence[bytes]) -> None:
        self._storage.write_leaves(first, leaves)

    def read_hashes(self, nodes: Sequence[tuple[int, int]]) -> list[bytes | None]:
        return self._storage.read_hashes(nodes)

    def write_hashes(self, nodes: Sequence[Node]) -> None:
        self._storage.write_hashes(nodes)

    def write_append(self, append: Append) -> None:
        self._storage.write_append(append)
        if self._faults.append:  # the leaf is in the transaction already
            raise InjectedFault

    def read_proof(
        self, position: int, nodes: Sequence[tuple[int, int]]
    ) -> tuple[bytes | None, list[bytes | None]]:
        return self._storage.read_proof(position, nodes)

    def head(self) -> tuple[str | None, int]:
        return self._storage.head()

    def write_checkpoint(self, size: int, note: str) -> None:
        self._storage.write_checkpoint(size, note)

    def delete_checkpoint(self, size: int) -> None:
        self._storage.delete_checkpoint(size)

    def cosignatures(self) -> list[StoredCosignature]:
        return self._storage.cosignatures()

    def write_cosignature(self, witness: str, size: int, note: str) -> None:
        self._storage.write_cosignature(witness, size, note)

    def delete_cosignature(self, witness: str, size: int) -> None:
        self._storage.delete_cosignature(witness, size)

    def read_meta(self, name: str) -> str | None:
        return self._storage.read_meta(name)

    def write_meta(self, name: str, value: str) -> None:
        self._storage.write_meta(name, value)


class PromptListener(Listener):
    """Notices at once that it is to end; the web server looks ten times a second."""

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # noqa: ASYNC110  the web server asks so, too
            await asyncio.sleep(TICK_SECONDS)


class RunningService:
    """A service that answers at `trust.url` until `stop`."""

    def __init__(self, folder: Folder, clock: Clock) -> None:
        self.folder = folder
        self.clock = clock
        self.faults = Faults()
        opened = open_registry(folder, clock)
        listener = open_socket("127.0.0.1", 0)
        self.trust: Trust = dataclasses.replace(
            opened.trust, url=f"https://127.0.0.1:{listener.getsockname()[1]}"
        )
        self.registry: Registry = dataclasses.replace(
            opened,
            trust=self.trust,
            storage=lambda session: FaultyStorage(session_log(session), self.faults),
        )
        self._inject_commit_faults()
        self._clients: list[ComplianceClient | httpx.Client] = []
        self._node_keys: dict[str | None, tuple[str, Path]] = {}
        self._server = PromptListener(self.registry, folder)
        self._thread = threading.Thread(target=self._serve, args=(listener,), daemon=True)
        self._thread.start()

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Let go of the tables, as a stopped service does: inside, a test may move them."""
        database = self.registry.database
        if database.engine.dialect.name != "sqlite":
            event.remove(database.engine, "connect", share_database)
        database.close()
        yield
        database.serve()

    def _serve(self, listener: socket.socket) -> None:
        self._server.run(sockets=[listener])

    @property
    def app(self) -> FastAPI:
        app = self._server.config.app
        assert isinstance(app, FastAPI)
        return app

    def token(self, name: str) -> str:
        return self.folder.token(name).read_text("ascii").strip()

    def client(self, token: str | None = None) -> ComplianceClient:
        """A client; a site's shows its certificate once there is one."""
        client = ComplianceClient(self.trust, token, certificate=self._certificate_of(token))
        self._clients.append(client)
        return client

    def as_(self, name: str) -> ComplianceClient:
        """A client of one of the first principals."""
        return self.client(self.token(name))

    def http(self, token: str | None = None) -> httpx.Client:
        """Plain HTTP, for what the typed client would not send."""
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        context = self.trust.ssl_context()
        certificate = self._certificate_of(token)
        if certificate is not None:
            context.load_cert_chain(*certificate)
        client = httpx.Client(
            base_url=self.trust.url,
            headers=headers,
            verify=context,
            trust_env=False,
            timeout=30,
        )
        self._clients.append(client)
        return client

    def keep_node_key(self, site: str, token: str, key: bytes) -> None:
        """What a site has on disk, so that whoever has its token can show its certificate, too."""
        path = self.folder.path.parent / f"{site}-node.pem"
        path.write_bytes(key)
        self._node_keys[token] = (site, path)

    def certificate_of(self, site: str) -> str | None:
        """The certificate that a site was admitted with, PEM."""
        with self.registry.reading() as session:
            row = session.get(SiteRow, site)
            return None if row is None else row.certificate

    def _certificate_of(self, token: str | None) -> tuple[Path, Path] | None:
        if token not in self._node_keys:
            return None
        site, key = self._node_keys[token]
        certificate = self.certificate_of(site)
        if certificate is None:
            return None
        path = key.with_suffix(".certificate")
        path.write_text(certificate)
        return path, key

    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        """Everything in the database, log included; not the answers kept for calls with a key."""
        with self.registry.database.reading() as session:
            names = session.scalars(
                text(
                    "SELECT name FROM sqlite_master WHERE type = 'table'"
                    " AND name != 'given_answers' ORDER BY name"
                )
            ).all()
            return {
                name: sorted(tuple(row) for row in session.execute(text(f"SELECT * FROM {name}")))  # noqa: S608
                for name in names
            }

    def entries(self) -> list[tuple[str, str, str, dict[str, Any]]]:
        """Actor, action, object and payload of every log entry, read from the leaves."""
        with self.registry.reading() as session:
            storage = self.registry.storage(session)
            return [self._entry(storage, position) for position in range(storage.size())]

    def last_entry(self) -> tuple[str, str, str, dict[str, Any]]:
        with self.registry.reading() as session:
            storage = self.registry.storage(session)
            return self._entry(storage, storage.size() - 1)

    def _entry(self, storage: LogStorage, position: int) -> tuple[str, str, str, dict[str, Any]]:
        leaf, payload = self.registry.log.read(storage, position)
        return leaf.actor, leaf.action, leaf.object, payload

    def _inject_commit_faults(self) -> None:
        dialect = self.registry.database.engine.dialect
        commit = dialect.do_commit

        def faulty_commit(connection: Any) -> None:
            if self.faults.commit:
                raise InjectedFault
            commit(connection)
            if self.faults.after_commit:
                raise InjectedFault

        dialect.do_commit = faulty_commit  # type: ignore[assignment, method-assign]

    def stop(self) -> None:
        for client in self._clients:
            client.close()
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()
        self.registry.close()


@contextmanager
def running(folder: Path, clock: Clock) -> Iterator[RunningService]:
    """A service over a folder, which is made when it is not there."""
    if not folder.exists():
        create_folder(folder, NEW, clock)
    service = RunningService(Folder(folder), clock)
    try:
        yield service
    finally:
        service.stop()


def wait_for(condition: Any, seconds: float = 20) -> None:
    """Wait until `condition()` holds; fail when it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
