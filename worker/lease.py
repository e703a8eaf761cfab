"""The lease: until when this node may run anything. A file, because shims obey it without the worker.

The deadline is CLOCK_BOOTTIME and only ever moves on by the server's answer to a heartbeat, counted
from when that heartbeat was sent.

The file is made once, with its room, and written in place: on a full disk the lease still goes on. It has two records,
`DEADLINE CRC32`, written by turns: a reader takes the latest that is whole, so one that is torn costs a heartbeat.
"""

import os
import threading
import zlib
from contextlib import suppress
from pathlib import Path

from worker.files import boottime, read_or_none, write_atomic

SIZE = 4096
PLACES = (0, 512)
"""Of the two records. Apart, and within a page."""

_RECORD = 30


def read_deadline(path: Path) -> float:
    """0 (long over) when there is no lease."""
    data = read_or_none(path) or b""
    return max((_unpack(data[place : place + _RECORD]) for place in PLACES), default=0.0)


def _older(path: Path) -> int:
    """Which record to write over."""
    data = read_or_none(path) or b""
    deadlines = [_unpack(data[place : place + _RECORD]) for place in PLACES]
    return deadlines.index(min(deadlines))


def make_lease(path: Path) -> None:
    """Make the file with all the room that it will ever need. Raises OSError."""
    write_atomic(path, b"\n" * SIZE)


def _pack(deadline: float) -> bytes:
    text = f"{deadline:020.6f}".encode()
    return b"%s %08x\n" % (text, zlib.crc32(text))


def _unpack(record: bytes) -> float:
    text, _, checksum = record.partition(b" ")
    if record[-1:] != b"\n" or checksum.strip() != b"%08x" % zlib.crc32(text):
        return 0.0
    with suppress(ValueError):
        return float(text)
    return 0.0


class LeaseFile:
    """A shim's view: since the deadline never moves back, the file is read again only when it seems to be over."""

    def __init__(self) -> None:
        self._deadline = 0.0

    def deadline(self, path: Path) -> float:
        """CLOCK_BOOTTIME; in the past only if the file says so now."""
        if self._deadline <= boottime():
            self._deadline = read_deadline(path)
        return self._deadline


class Lease:
    """The worker's side: the only writer of the file, which is there already (`make_lease`)."""

    def __init__(self, path: Path, *, lease_s: float) -> None:
        self._path = path
        self._lease_s = lease_s
        self._lock = threading.Lock()
        self._deadline = read_deadline(path)
        self._turn = _older(path)

    @property
    def lease_s(self) -> float:
        return self._lease_s

    @property
    def left_s(self) -> float:
        """Seconds, negative when it is over."""
        return self._deadline - boottime()

    def renew(self, *, sent_at: float) -> None:
        """Extend to one lease after `sent_at`; an older answer changes nothing.

        Raises OSError; the lease is then as it was, for the shims as for the worker.
        """
        with self._lock:
            deadline = sent_at + self._lease_s
            if deadline > self._deadline:
                self._write(_pack(deadline))
                self._deadline = deadline

    def _write(self, record: bytes) -> None:
        """Over the older record. A reboot is a new incarnation: nothing of this has to survive one."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(descriptor, record, PLACES[self._turn])
        finally:
            os.close(descriptor)
        self._turn = 1 - self._turn
