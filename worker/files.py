"""Small things about files and clocks that more than one process of a node must do in the same way."""

import os
import shutil
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any


def boottime() -> float:
    """Seconds since the machine started, suspended time included; the only clock that leases know."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def write_atomic(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace `path` whole, mode 0600. Raises OSError; then the old file is still there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns():x}")
    try:
        _write_new(temporary, data, durable=durable)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(path.parent)


def create_exclusive(path: Path, data: bytes, *, durable: bool = True) -> bool:
    """Make `path` with its whole content; False when somebody else made it first.

    A link instead of O_EXCL and write: who finds the file also finds what is in it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns():x}")
    try:
        _write_new(temporary, data, durable=durable)
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        sync_directory(path.parent)
    return True


def _write_new(path: Path, data: bytes, *, durable: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_or_none(path: Path) -> bytes | None:
    """The content, or None when there is no such file."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def wipe(path: Path) -> None:
    """Remove a tree that a job may have written, without following links. Idempotent."""
    with suppress(OSError):
        _remove_flat(path)  # most have some files and empty directories
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, onerror=_open_up_and_retry)
    else:
        with suppress(FileNotFoundError):
            path.unlink()


def _remove_flat(path: Path) -> None:
    """Raises OSError when it is more than that, or nothing."""
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                Path(entry).rmdir()
            else:
                Path(entry).unlink()
    path.rmdir()


def _open_up_and_retry(
    function: Callable[..., Any],
    name: str,
    error: tuple[type[BaseException], BaseException, TracebackType],
) -> None:
    """Without root, a directory that its owner made unwritable has to be opened first."""
    if isinstance(error[1], FileNotFoundError):
        return
    parent = Path(name).parent
    for place in (parent, Path(name)):
        with suppress(OSError):
            if stat.S_ISDIR(place.lstat().st_mode):
                place.chmod(0o700)
    with suppress(OSError):
        if Path(name).is_dir() and not Path(name).is_symlink():
            shutil.rmtree(name, ignore_errors=True)
        else:
            Path(name).unlink()
