"""The data directory of an embedded stack: who holds it, what is where, which ports it used last.

Owns DATA/run and DATA/log. `prominence.config` reads `run/redis-url` and `run/url` in the other processes.
"""

import fcntl
import hashlib
import os
import random
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prominence.embedded.valkey import write_private

# Below the range from which the kernel takes local ports of outgoing connections.
FREE_PORTS = range(20_000, 32_000)
CLOSED_HOMES_NODES = Path("/var/lib/prominence/nodes")


class DataDirBusyError(Exception):
    """Another stack runs on the same directory; the text says which process."""


class PortBusyError(Exception):
    """Something else listens on the port that was asked for."""


@dataclass(frozen=True, slots=True)
class DataDir:
    """Paths below one data directory."""

    root: Path

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def logs(self) -> Path:
        return self.root / "log"

    @property
    def valkey(self) -> Path:
        return self.root / "valkey"

    @property
    def registry(self) -> Path:
        return self.root / "registry"

    def node(self, name: str) -> Path:
        """Data of a local node. Outside when its jobs' users could not get here: root's home is closed to others."""
        if os.getuid() == 0 and not _is_open_to_others(self.root.parent):
            own = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]
            return CLOSED_HOMES_NODES / own / name
        return self.root / "nodes" / name

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Make the directory, private to its owner, and hold it; the kernel lets go when this process ends.

        Raises DataDirBusyError.
        """
        for directory in (self.root, self.run, self.logs):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.getuid() == 0:
            # Jobs on a local node run as other users, and have to reach their own directories through this one.
            self.root.chmod(0o711)
        descriptor = os.open(self.run / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DataDirBusyError(
                    f"{self.root} is in use by another 'up', process {lock.read().strip()}"
                ) from error
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            yield

    def port(self, name: str, *, host: str, wanted: int = 0) -> int:
        """The port for `name`: `wanted`, or when that is 0 the one of the last run if it is free, or a free one.

        Kept in run/, so that addresses that nodes have stored stay valid.

        Raises PortBusyError when `wanted` is taken.
        """
        file = self.run / f"{name}-port"
        last = int(file.read_text()) if file.exists() else 0
        if wanted and not _is_free(host, wanted):
            raise PortBusyError(f"port {wanted} on {host} is in use: choose another with --port")
        port = wanted or (last if last and _is_free(host, last) else free_port(host))
        file.write_text(f"{port}\n")
        return port

    def publish(self, *, url: str, redis_url: str) -> None:
        """Let processes that know only the directory find the running stack."""
        write_private(self.run / "url", url)
        write_private(self.run / "redis-url", redis_url)


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nothing listens on now, and that no outgoing connection will take."""
    candidates = list(FREE_PORTS)
    random.SystemRandom().shuffle(candidates)  # tests seed the ordinary one, several at once
    return next(port for port in candidates if _is_free(host, port))


def _is_open_to_others(directory: Path) -> bool:
    """May every user pass through this directory?"""
    places = (directory, *directory.parents)
    return all(place.stat().st_mode & stat.S_IXOTH for place in places)


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As servers do: a port in TIME_WAIT can be listened on.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
