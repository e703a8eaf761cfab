"""The lease: until when this node may run anything. A file, because shims obey it without the worker.

The deadline is CLOCK_BOOTTIME and only ever moves on by the server's answer to a heartbeat, counted
from when that heartbeat was sent.
"""

import threading
from pathlib import Path

from worker.files import boottime, read_or_none, write_atomic


def read_deadline(path: Path) -> float:
    """0 (long over) when there is no lease."""
    data = read_or_none(path)
    try:
        return float(data) if data else 0.0
    except ValueError:
        return 0.0


class Lease:
    """The worker's side: the only writer of the file."""

    def __init__(self, path: Path, *, lease_s: float) -> None:
        self._path = path
        self._lease_s = lease_s
        self._lock = threading.Lock()
        self._deadline = read_deadline(path)

    @property
    def lease_s(self) -> float:
        return self._lease_s

    @property
    def left_s(self) -> float:
        """Seconds, negative when it is over."""
        return self._deadline - boottime()

    def renew(self, *, sent_at: float) -> None:
        """Extend to one lease after `sent_at`; an older answer changes nothing."""
        with self._lock:
            deadline = sent_at + self._lease_s
            if deadline > self._deadline:
                self._deadline = deadline
                # A reboot is a new incarnation: nothing of this has to survive one.
                write_atomic(self._path, repr(deadline).encode(), durable=False)
