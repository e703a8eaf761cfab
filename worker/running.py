"""A shim as its worker sees it: telling it to end, excluding it, finding it again, clearing up after it."""

import logging
import os
import select
import signal
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from worker import tree
from worker.cgroup import Group
from worker.files import boottime, create_exclusive, write_atomic
from worker.handover import OVER, Maker, Orders, RunMark, Stop, read_file, send_orders
from worker.layout import JobDir
from worker.protocol import AttemptKey
from worker.spawner import Spawner

logger = logging.getLogger(__name__)


class SlotShim:
    """The shim that runs the jobs of one message, one after another. For one thread.

    Forked when it is first needed, and anew when it has died.
    """

    def __init__(self, spawner: Spawner) -> None:
        self._spawner = spawner
        self._channel: socket.socket | None = None
        self._poll = select.poll()
        self.pidfd = -1
        self.gone = False

    def give(self, orders: Orders) -> None:
        """Have it begin a job. Raises OSError; then it has not begun."""
        if self.gone:
            self.close()
        if self._channel is None:
            self._channel, self.pidfd = self._spawner.spawn()
            self._poll = select.poll()
            self._poll.register(self._channel, select.POLLIN)
        try:
            send_orders(self._channel, orders)
        except OSError:
            self.gone = True
            raise

    def wait(self, timeout_s: float) -> bool:
        """Until its job is over or it is gone itself (True), it has news, or some time has passed."""
        if self._channel is None or self.gone:
            return True
        if not self._poll.poll(int(timeout_s * 1000)):
            return False
        try:
            said = self._channel.recv(64)
        except ConnectionError:
            said = b""
        self.gone = not said
        return self.gone or OVER in said

    def close(self) -> None:
        """No more jobs: it ends after the one that it has, and is not to be signalled any more. Idempotent."""
        if self._channel is not None:
            self._channel.close()
            os.close(self.pidfd)
        self._channel, self.pidfd, self.gone = None, -1, False


@dataclass(slots=True, eq=False)
class Running:
    """An attempt that a shim has, or is about to get."""

    key: AttemptKey
    dir: JobDir
    uid: int
    pidfd: int = -1  # of the shim, while it has this job
    stop: Stop | None = None
    stop_at: float = 0.0
    started: bool = False
    tasks_told: int = 0
    watched: bool = False  # its output is followed
    lock: threading.Lock = field(default_factory=threading.Lock)

    def attach(self, pidfd: int) -> None:
        """Its shim is there; pass on a stop that came before it."""
        with self.lock:
            self.pidfd = pidfd
            if self.stop is not None:
                self._signal(signal.SIGTERM)

    def detach(self) -> int:
        """Its shim has nothing to do with it any more, and must not be signalled for it; returns its pidfd."""
        with self.lock:
            pidfd, self.pidfd = self.pidfd, -1
            return pidfd

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

    def kill_shim(self) -> None:
        with self.lock:
            self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self.pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)


def exclude(job_dir: JobDir) -> RunMark | None:
    """Make the file `run` so that no shim ever begins; returns what is in it, by whomever.

    None when there is no directory, and so nothing that could begin. Neither side makes the file durable: who loses
    it loses the machine's memory, and so the incarnation, too.
    """
    try:
        mark = msgspec.json.encode(RunMark(maker=Maker.WORKER))
        create_exclusive(job_dir.run, mark, durable=False)
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
