"""inotify(7): be told when files in a directory grow or arrive."""

import ctypes
import os
import select
import struct
from collections.abc import Iterator
from pathlib import Path

IN_MODIFY, IN_MOVED_TO = 0x2, 0x80
_HEADER = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


class Inotify:
    """One instance watches any number of directories. `read` in one thread only."""

    def __init__(self) -> None:
        self._descriptor = _check(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)
        self._poll.register(self._bell, select.POLLIN)

    def add(self, directory: Path) -> int:
        """Watch for files written to or renamed into place; returns the watch's number."""
        mask = ctypes.c_uint32(IN_MODIFY | IN_MOVED_TO)
        return _check(_libc.inotify_add_watch(self._descriptor, os.fsencode(directory), mask))

    def remove(self, watch: int) -> None:
        """Idempotent."""
        _libc.inotify_rm_watch(self._descriptor, watch)

    def ring(self) -> None:
        """Have `read` return at once. Any thread may."""
        os.eventfd_write(self._bell, 1)

    def read(self, timeout_s: float | None) -> list[tuple[int, str]]:
        """(watch, file name) of what happened, each once; empty at the time-out."""
        ready = self._poll.poll(None if timeout_s is None else max(0, int(timeout_s * 1000) + 1))
        if any(descriptor == self._bell for descriptor, _ in ready):
            os.eventfd_read(self._bell)
        try:
            data = os.read(self._descriptor, 1 << 16)
        except BlockingIOError:
            return []
        return list(dict.fromkeys(_entries(data)))


def _entries(data: bytes) -> Iterator[tuple[int, str]]:
    position = 0
    while position < len(data):
        watch, _, _, length = _HEADER.unpack_from(data, position)
        position += _HEADER.size
        name = data[position : position + length].rstrip(b"\0")
        position += length
        yield watch, os.fsdecode(name)


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
