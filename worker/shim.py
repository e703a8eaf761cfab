"""The supervisor of jobs: a forked process that runs the jobs of one slot, one after another, as long as its worker
sends orders, and that outlives the worker until the job that it has is over.

It begins each job exactly once (the file `run`); what follows is in `worker.supervisor`. It is single threaded,
knows no credential of the node, and never has more than one job.
"""

import logging
import os
import socket
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec

from worker import tree
from worker.files import create_exclusive
from worker.handover import OVER, Maker, Orders, RunMark, receive_orders
from worker.layout import JobDir
from worker.lease import LeaseFile
from worker.supervisor import Supervisor

logger = logging.getLogger(__name__)


def shim_name(node: str) -> str:
    """How shims of a node show in /proc/PID/comm."""
    return f"prom-shim-{node}"


def main(channel: socket.socket) -> None:
    """Supervise the jobs whose orders come through this socket, one after another; returns when no more come."""
    tree.become_subreaper()
    tree.forbid_new_privileges()
    log = _Complaints()
    signals = tree.termination_descriptor()
    lease = LeaseFile()
    start = tree.process_start(os.getpid()) or 0
    while (orders := receive_orders(channel)) is not None:
        job_dir = JobDir(Path(orders.dir))
        log.path = job_dir.complaints
        tree.name_process(shim_name(orders.cgroup))
        with suppress(BlockingIOError):
            os.read(signals, tree.SIGINFO_BYTES)  # meant for the job before
        mark = msgspec.json.encode(_mark(orders, start))
        if not create_exclusive(job_dir.run, mark, durable=False):
            return
        supervisor = Supervisor(
            orders, job_dir, signals=signals, lease=lease, tell=partial(_tell, channel)
        )
        try:
            supervisor.run()
        finally:
            supervisor.close()
        _tell(channel, OVER)


def _tell(channel: socket.socket, word: bytes) -> None:
    with suppress(OSError):  # the worker is gone; the next one reads the files
        channel.send(word)


class _Complaints(logging.Handler):
    """What is logged goes to a file of the present job, made when there is something to say."""

    path = Path(os.devnull)

    def __init__(self) -> None:
        super().__init__()
        root = logging.getLogger()
        if root.handlers:
            self.setFormatter(root.handlers[0].formatter)
        root.handlers = [self]

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError), self.path.open("a") as file:
            file.write(f"{self.format(record)}\n")


def _mark(orders: Orders, start: int) -> RunMark:
    spec = orders.spec
    return RunMark(
        maker=Maker.SHIM,
        pid=os.getpid(),
        start=start,
        uid=orders.uid,
        slot=orders.slot,
        cpus=spec.cpus,
        memory_mb=spec.memory_mb,
        disk_mb=spec.disk_mb,
    )
