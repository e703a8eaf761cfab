"""A shim as its worker sees it: telling it to end, excluding it, finding it again, clearing up after it."""

import logging
import os
import signal
import threading
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from worker import tree
from worker.cgroup import Group
from worker.files import boottime, create_exclusive, write_atomic
from worker.handover import Maker, RunMark, Stop, read_file
from worker.layout import JobDir
from worker.protocol import AttemptKey

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Running:
    """An attempt that a shim has, or is about to get. `wake` is an eventfd."""

    key: AttemptKey
    dir: JobDir
    uid: int
    pidfd: int = -1
    stop: Stop | None = None
    stop_at: float = 0.0
    started: bool = False
    tasks_told: int = 0
    wake: int = field(default_factory=lambda: os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def nudge(self) -> None:
        """Something happened that its thread should look at."""
        with self.lock, suppress(BlockingIOError):
            if self.wake >= 0:
                os.eventfd_write(self.wake, 1)

    def attach(self, pidfd: int) -> None:
        """Its shim is there; pass on a stop that came before it."""
        with self.lock:
            self.pidfd = pidfd
            if self.stop is not None:
                self._signal(signal.SIGTERM)

    def ask_to_end(self, stop: Stop) -> None:
        """Tell the shim why and how; the first reason stays."""
        with self.lock:
            if self.stop is not None:
                return
            try:
                write_atomic(self.dir.stop, msgspec.json.encode(stop), durable=False)
            except OSError as error:  # without the file the shim still ends its job
                logger.error("why %s stops cannot be told: %s", self.key, error)
            self.stop, self.stop_at = stop, boottime()
            self._signal(signal.SIGTERM)
        self.nudge()

    def kill_shim(self) -> None:
        with self.lock:
            self._signal(signal.SIGKILL)

    def close(self) -> None:
        with self.lock:
            for descriptor in (self.pidfd, self.wake):
                if descriptor >= 0:
                    os.close(descriptor)
            self.pidfd = self.wake = -1

    def _signal(self, number: signal.Signals) -> None:
        if self.pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)


def exclude(job_dir: JobDir) -> RunMark | None:
    """Make the file `run` so that no shim ever begins; returns what is in it, by whomever.

    None when there is no directory, and so nothing that could begin.
    """
    try:
        create_exclusive(job_dir.run, msgspec.json.encode(RunMark(maker=Maker.WORKER)))
    except FileNotFoundError:
        return None
    return read_file(job_dir.run, RunMark)


def open_shim(mark: RunMark) -> int:
    """A pidfd of the shim that made this mark; -1 when it has ended."""
    try:
        descriptor = os.pidfd_open(mark.pid)
    except ProcessLookupError:
        return -1
    if tree.process_start(mark.pid) != mark.start:
        os.close(descriptor)
        return -1
    return descriptor


def kill_job(node: str, key: AttemptKey, uid: int) -> None:
    """Kill all processes of a job that has no shim any more, and wait until they are gone, however long that takes:
    an end that was reported while one of them lived could let the job run twice at once.
    """
    group = Group(node=node, job=str(key))
    group.kill()
    while not _killed(group, f"{node}/{key}", uid):
        logger.error("processes of %s do not die", key)
    group.remove()


def _killed(group: Group, mark: str, uid: int) -> bool:
    """Kill for ten seconds; are all gone?"""
    if os.getuid() == 0:
        tree.sweep_uids([uid])
        return tree.kill_until_gone(lambda: tree.processes_of_uids({uid}))
    return tree.kill_until_gone(lambda: [*group.pids(), *tree.processes_marked(mark)])
