"""A log in plain files, without a database.

```
journal/
├── head             what counts (`audit.file_head`); replacing it commits
├── entries          leaves, one after the other
├── offsets          where each ends: 8 bytes, big-endian
├── hashes           node hashes, 32 bytes each, in the order of `audit.node_order`
├── checkpoints.N    older checkpoints that were kept
├── cosignatures.N   what witnesses signed
└── lock             held by whoever appends
```

* The large files are only ever appended to. A transaction appends to them, syncs them, and then
  replaces the head atomically. A crash before that leaves tails that no head covers: readers do not
  see them, and the next appender removes them.
* Readers take no lock: they read the head, and then only what it covers, which never changes.
* A head is believed only when it is durable. One that somebody else put in place could be lost in a
  power failure, after a witness was told: whoever sees it first syncs the folder.
* Entries and hashes are found by arithmetic. Nothing is read or rebuilt at start but the head.
* Appenders of all threads and processes take turns at the lock.

Decision record: docs/adr/0015-file-backed-log.md.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from audit.durable import create_private_file, sync_directory, write_durably
from audit.errors import Conflict, MalformedInput, NotFound
from audit.file_change import FileChange
from audit.file_head import Head
from audit.file_view import ENTRIES, HASHES, HEAD, OFFSETS, FileView, OpenFiles
from audit.storage import LogReader, LogStorage, LogTampered, LogUnavailable

_LOCK: Final = "lock"

_TAKEN: Final = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


class FileStore:
    """`audit.storage.LogStore` in a folder (0700, files 0600). Safe under threads and processes.

    It holds no file open between transactions, so that it can be carried into a forked process.
    """

    def __init__(self, folder: Path) -> None:
        """Use `create` or `open`."""
        self._folder = folder
        self._mutex = threading.RLock()
        self._appending = False
        self._closed = False
        self._durable = b""

    @classmethod
    @contextmanager
    def create(cls, folder: Path) -> Iterator[Self]:
        """A new store, which gets its name when the block is left normally.

        Raises:
            Conflict: When there is something already.
            LogUnavailable: When it cannot be made there.
        """
        if folder.exists():
            raise Conflict(f"{folder} exists already", fix="choose another folder")
        with _translated():
            staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            try:
                for name in (ENTRIES, OFFSETS, HASHES, _LOCK):
                    create_private_file(staging / name)
                write_durably(staging / HEAD, Head().encoded())
                store = cls(staging)
                yield store
                store.close()
                try:
                    staging.rename(folder)
                except OSError as error:
                    if error.errno in _TAKEN:
                        raise Conflict(f"{folder} exists already") from error
                    raise
                sync_directory(folder.parent)
            except BaseException:
                shutil.rmtree(staging, ignore_errors=True)
                raise

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a store.

        Raises:
            NotFound: When there is no such folder.
            MalformedInput: When it holds no log.
            LogUnavailable: When it cannot be read.
        """
        if not folder.is_dir():
            raise NotFound(f"no journal at {folder}")
        store = cls(folder)
        with _translated():
            try:
                OpenFiles.open(folder, os.O_RDONLY).close()
            except FileNotFoundError as error:
                raise MalformedInput(
                    f"{folder} is no journal: it has no file {Path(error.filename).name}"
                ) from error
        return store

    @contextmanager
    def reading(self) -> Iterator[LogReader]:
        """One moment's view."""
        with _translated():
            files = self._open(os.O_RDONLY)
            try:
                yield FileView(files)
            finally:
                files.close()

    @contextmanager
    def writing(self) -> Iterator[LogStorage]:
        """A transaction that begins with the appenders' lock."""
        with _translated(), self._turn():
            files = self._open(os.O_RDWR)
            try:
                change = FileChange(files)
                yield change
                head = change.append()
                if head is not None:
                    data = head.encoded()
                    write_durably(self._folder / HEAD, data)
                    self._durable = data
            finally:
                files.close()

    def close(self) -> None:
        """Let nobody use the store any more; whoever reads may finish."""
        self._closed = True

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Keep out other threads, and then other processes."""
        with self._mutex:
            if self._appending:
                raise LogUnavailable("this thread is in a transaction of the journal already")
            # A descriptor of its own: one that a forked process shares would share the lock too.
            descriptor = os.open(self._folder / _LOCK, os.O_RDWR)
            self._appending = True
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
                # Closing would not do when a process that was forked meanwhile has it open too.
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            finally:
                self._appending = False
                os.close(descriptor)

    def _open(self, flags: int) -> OpenFiles:
        if self._closed:
            raise LogUnavailable("the journal is closed")
        try:
            files = OpenFiles.open(self._folder, flags, self._durable)
        except FileNotFoundError as error:
            raise LogTampered(
                f"the journal lacks its file {Path(error.filename).name}", fix="run: audit verify"
            ) from error
        except MalformedInput as error:
            raise LogTampered(str(error), fix="run: audit verify") from error
        self._durable = files.head_data
        return files


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LogUnavailable(
            f"the journal cannot be used: {error.strerror or error}",
            fix="check the disk's free space and the files' permissions, then try again",
        ) from error
