"""The parent of shims: a small process that only forks, so that a job costs no interpreter.

Started by the worker as a program of its own, before any secret is known there, and given nothing but a
socket; each message brings a socket for one shim (`worker.shim`), and is answered with the shim's pidfd.
It ends when the worker's end of the socket closes. Shims go on without it.
"""

import gc
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from worker import shim, tree

logger = logging.getLogger(__name__)

READY = b"ready"
ENVIRONMENT = ("PATH", "LANG", "TZ", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH")
"""What of the worker's environment goes on: what Python itself needs, and nothing secret."""


def spawner_name(node: str) -> str:
    """How the spawner of a node shows in /proc/PID/comm."""
    return f"prom-spwn-{node}"


def serve(channel: socket.socket) -> None:
    """Fork a shim for each socket that arrives, until the other side is gone."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
    gc.collect()
    gc.freeze()
    channel.send(READY)
    while True:
        data, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
        if not data:
            return
        os.set_inheritable(descriptors[0], False)
        with socket.socket(fileno=descriptors[0]) as orders:
            descriptor = _spawn(orders, channel)
        try:
            socket.send_fds(channel, [b"+"], [descriptor])
        finally:
            os.close(descriptor)


def _spawn(orders: socket.socket, channel: socket.socket) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            channel.close()
            os.setsid()
            gc.disable()
            os.chdir("/")
            shim.main(orders)
        except Exception:
            logger.exception("a shim failed")
        finally:
            os._exit(0)
    descriptor = os.pidfd_open(pid)
    _reap_ended()
    return descriptor


def _reap_ended() -> None:
    """Shims that ended before this one; the last few stay zombies until the next, which harms nobody."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return


class SpawnerFailed(Exception):
    """The program that forks shims does not run: the node could start nothing."""


class Spawner:
    """The worker's end. Safe for many threads."""

    def __init__(self, node: str, keep: Sequence[int]) -> None:
        """`keep`: descriptors (the locks of our uids) that all shims shall inherit.

        Blocks until it is ready. Raises SpawnerFailed.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        inherited = [theirs.fileno(), *keep]
        argv = [sys.executable, "-m", __name__, node, *map(str, inherited)]
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            pass_fds=inherited,
            start_new_session=True,
            env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
            cwd=Path(__file__).parents[1],
        )
        theirs.close()
        if ours.recv(len(READY)) != READY:
            raise SpawnerFailed("the spawner did not start: its message is above")
        self._channel = ours
        self._lock = threading.Lock()

    @property
    def pid(self) -> int:
        return self._process.pid

    def spawn(self) -> tuple[socket.socket, int]:
        """Fork a shim; returns the socket by which it takes orders, and its pidfd. Raises OSError."""
        ours, theirs = socket.socketpair()
        try:
            with theirs, self._lock:
                socket.send_fds(self._channel, [b"+"], [theirs.fileno()])
                data, descriptors, _, _ = socket.recv_fds(self._channel, 1, 1)
            if not data or not descriptors:
                raise BrokenPipeError("the spawner has ended")
        except OSError:
            ours.close()
            raise
        return ours, descriptors[0]

    def is_alive(self) -> bool:
        return self._process.poll() is None


def main(argv: Sequence[str]) -> None:
    """`python -m worker.spawner NODE SOCKET LOCK...`, the latter numbers of descriptors."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    tree.name_process(spawner_name(argv[0]))
    os.umask(0o022)  # images are for all slots; what is private says so
    for number in argv[1:]:
        os.set_inheritable(int(number), False)  # for shims, which fork; never for what they execute
    serve(socket.socket(fileno=int(argv[1])))


if __name__ == "__main__":
    main(sys.argv[1:])
