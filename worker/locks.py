"""Locks between processes as files: flock(2), which the kernel releases with its last holder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def lock_file(path: Path, operation: int, *, make: bool = False) -> int:
    """Open and flock a file; returns the descriptor, -1 when it is held and the operation does not wait.

    Raises FileNotFoundError when it is not there and not to be made.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if make else 0)
    descriptor = os.open(path, flags, 0o600)
    try:
        fcntl.flock(descriptor, operation)
    except BlockingIOError:
        os.close(descriptor)
        return -1
    return descriptor


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock alone; waits for it."""
    descriptor = lock_file(path, fcntl.LOCK_EX, make=True)
    try:
        yield
    finally:
        os.close(descriptor)
