"""Files that are either entirely there after a crash or not there at all.

`write_durably` writes beside the target, syncs the file, renames it over the target and syncs the
directory: the sequence that POSIX needs for a rename to survive a power failure (see LWN
articles/457667). Files are private (0600) unless the caller says otherwise.
"""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path


def write_durably(path: Path, data: bytes, *, mode: int = 0o600, replace: bool = True) -> None:
    """Write `data` to `path` atomically and durably.

    Args:
        path: Target file; its directory must exist.
        data: The whole content.
        mode: Permission bits; the file never exists with wider ones.
        replace: False refuses to overwrite, atomically.

    Raises:
        FileExistsError: When `replace` is False and the file exists.
        OSError: When the file cannot be written, or the target is a device or a pipe; the target is
            then as it was.
    """
    descriptor, temporary = _beside(path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
            sync_directory(path.parent)
        else:
            publish_durably(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None
        raise


def _beside(path: Path) -> tuple[int, Path]:
    """A new file in the same folder. Errors name the file that was asked for, not this one.

    Raises:
        OSError: When it cannot be made, or when the target is a device or a pipe: a rename would
            put a file in its place, on the whole machine where it is `/dev/null`.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "It is no regular file; name one, or none", str(path))
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise
    return descriptor, Path(name)


def publish_durably(temporary: Path, path: Path) -> None:
    """Give a finished, synced file its final name in the same directory, if that is free.

    Raises:
        FileExistsError: When `path` exists; `temporary` is then still there.
    """
    # link() fails where the name exists; rename() would overwrite it.
    path.hardlink_to(temporary)
    temporary.unlink()
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make creations, renames and removals in `directory` survive a power failure."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def create_private_file(path: Path) -> None:
    """Create an empty file with mode 0600, durably.

    Raises:
        FileExistsError: When there is one.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_directory(path.parent)


def private_temporary(path: Path) -> Path:
    """A new, empty file with mode 0600 beside `path`, to be finished and then published."""
    descriptor, temporary = _beside(path)
    os.close(descriptor)
    return temporary


def remove_durably(path: Path) -> None:
    """Overwrite a small secret file, remove it, and make the removal durable.

    Overwriting in place is the best that a file system offers; flash translation layers, journals
    and backups may keep old blocks. Guarantees about shredding must not rest on it alone.
    """
    with path.open("r+b") as file:
        length = os.fstat(file.fileno()).st_size
        file.write(os.urandom(length))
        file.flush()
        os.fsync(file.fileno())
    path.unlink()
    sync_directory(path.parent)
