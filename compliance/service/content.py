"""Release ciphertexts on disk.

* Octets arrive under a temporary name, are counted, hashed and synced, and get their final name by
  one atomic rename: a file under a final name is complete.
* A crash leaves at most a temporary file, which the next start removes.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import AsyncIterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.concurrency import run_in_threadpool

from audit.durable import sync_directory

_PARTIAL: Final = ".partial"


@dataclass(frozen=True)
class Received:
    """Octets under a temporary name, with what was measured while they came."""

    path: Path
    size_bytes: int
    digest: str


class ContentFolder:
    """The folder of all releases' ciphertexts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path_of(self, release_id: str) -> Path:
        """Where a release's content lies. Only for the id of a release that exists."""
        return self._folder / (release_id.removeprefix("sha256:") + ".sealed")

    async def receive(self, pieces: AsyncIterable[bytes]) -> Received:
        """Write what comes to a temporary file and sync it. The caller keeps or discards it."""
        handle, name = tempfile.mkstemp(dir=self._folder, suffix=_PARTIAL)
        path = Path(name)
        digest = hashlib.sha256()
        size_bytes = 0
        try:
            with os.fdopen(handle, "wb") as file:
                async for piece in pieces:
                    size_bytes += len(piece)
                    digest.update(piece)
                    await run_in_threadpool(file.write, piece)
                file.flush()
                await run_in_threadpool(os.fsync, file.fileno())
        except BaseException:
            await run_in_threadpool(path.unlink, missing_ok=True)
            raise
        return Received(path, size_bytes, f"sha256:{digest.hexdigest()}")

    def keep(self, received: Received, release_id: str) -> None:
        """Give received octets their final name, durably."""
        received.path.replace(self.path_of(release_id))
        sync_directory(self._folder)

    def discard(self, received: Received) -> None:
        """Remove received octets that were not kept."""
        received.path.unlink(missing_ok=True)

    def remove_partial(self) -> int:
        """Remove what an interrupted process left. Returns the number of files."""
        leftovers = list(self._folder.glob(f"*{_PARTIAL}"))
        for path in leftovers:
            path.unlink(missing_ok=True)
        return len(leftovers)
