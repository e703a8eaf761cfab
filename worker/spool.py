"""The two output streams of a job, from pipes into files, up to a cap.

Pipes, not the files themselves: a program may truncate or overfill what it can open.
"""

import errno
import os
from pathlib import Path

from worker.masking import Mask

CHUNK = 1 << 16
ROUND = 16
"""Chunks per turn, so that a loud job cannot keep the shim from its clock and its signals."""


class Spool:
    """One stream. `write_end` is what the job's processes get; the shim keeps it open between tasks.

    The file is made with the first byte: most short programs say nothing.
    """

    def __init__(self, path: Path, *, cap_bytes: int, mask: Mask | None = None) -> None:
        self.read_end, self.write_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.read_end, False)
        self._path = path
        self._file = -1
        self._left = cap_bytes
        self._mask = mask
        self.dropped = False

    def close(self) -> None:
        """Give everything back; nothing is moved any more."""
        for descriptor in (self.read_end, self.write_end, self._file):
            if descriptor >= 0:
                os.close(descriptor)

    def pump(self) -> bool:
        """Move what is in the pipe now; True when there may be more."""
        for _ in range(ROUND):
            try:
                data = os.read(self.read_end, CHUNK)
            except BlockingIOError:
                return False
            self._keep(data if self._mask is None else self._mask.feed(data))
        return True

    def drain(self) -> None:
        """Move all that is in the pipe: complete once every writer is dead."""
        while self.pump():
            pass
        if self._mask is not None:
            self._keep(self._mask.finish())

    def _keep(self, data: bytes) -> None:
        if len(data) > self._left:
            data = data[: self._left]
            self.dropped = True
        self._left -= len(data)
        while data:
            try:
                data = data[os.write(self._open(), data) :]
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
                    raise
                # What follows a hole would stand at the wrong place: nothing more is kept.
                self._left = 0
                self.dropped = True
                return

    def _open(self) -> int:
        if self._file < 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._file = os.open(self._path, flags, 0o600)
        return self._file
