"""The parent of shims: a small process that only forks, so that a job costs no interpreter.

Started by the worker as a program of its own, before any secret is known there, and given nothing but a
socket, whose messages are paths of job directories; it answers each with the shim's pidfd. It ends when
the worker's end of the socket closes. Shims go on without it.
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

MAX_PATH = 4096
READY = b"ready"
ENVIRONMENT = ("PATH", "LANG", "TZ", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH")
"""What of the worker's environment goes on: what Python itself needs, and nothing secret."""

SHIM_LOG = "shim.log"


def spawner_name(node: str) -> str:
    """How the spawner of a node shows in /proc/PID/comm."""
    return f"prom-spwn-{node}"


def serve(channel: socket.socket) -> None:
    """Fork a shim for each path that arrives, until the other side is gone."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
    gc.collect()
    gc.freeze()
    channel.send(READY)
    while data := channel.recv(MAX_PATH):
        descriptor = _spawn(Path(os.fsdecode(data)), channel)
        try:
            socket.send_fds(channel, [b"+"], [descriptor])
        finally:
            os.close(descriptor)


def _spawn(path: Path, channel: socket.socket) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            channel.close()
            _become_shim(path)
        except Exception:
            logger.exception("shim in %s", path.name)
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


def _become_shim(path: Path) -> None:
    os.setsid()
    gc.disable()
    os.chdir("/")
    log = os.open(path / SHIM_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    shim.main(path)


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

    def spawn(self, path: Path) -> int:
        """Fork a shim for this job directory; returns its pidfd. Raises OSError."""
        with self._lock:
            self._channel.send(os.fsencode(path))
            data, descriptors, _, _ = socket.recv_fds(self._channel, 1, 1)
        if not data or not descriptors:
            raise BrokenPipeError("the spawner has ended")
        return descriptors[0]

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
