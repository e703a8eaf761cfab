"""Network namespaces: one of the harness, one of each node, and the cable (a veth pair) between them.

Nothing outside of these namespaces is touched, and nothing has to be cleaned up: they have no names, so the kernel
removes namespace and cable with the last process in them.
"""

import ctypes
import os
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from prominence.embedded.processes import Command, spawn
from tests.servers import run
from tests.wait import wait_until

CLONE_NEWNET = 0x40000000  # <linux/sched.h>
HERE = Path("/proc/self/ns/net")
_libc = ctypes.CDLL(None, use_errno=True)


def leave_network() -> bool:
    """Move this process into a network namespace of its own, with nothing but loopback. Before any thread is started.

    False, and nothing changed, where that may not be done.
    """
    if os.geteuid() != 0 or _libc.unshare(CLONE_NEWNET) != 0:
        return False
    run(["ip", "link", "set", "lo", "up"])
    return True


@dataclass
class Cable:
    """The network of one node. `ours` is our end of it: the only other machine that the node can see.

    All addresses have nine letters, as 127.0.0.1 has, so that one may take the place of the other in answers.
    """

    number: int
    room: Path
    ours: str = field(init=False)
    theirs: str = field(init=False)

    def __post_init__(self) -> None:
        net = f"10.{1 + self.number // 90}.{10 + self.number % 90}"
        self.ours, self.theirs = f"{net}.1", f"{net}.2"
        self._link = f"node{self.number}"
        argv = ("unshare", "--net", "sleep", "infinity")
        command = Command(argv=argv, env=os.environ, cwd=self.room, death_signal=signal.SIGKILL)
        self._holder = spawn(command, self.room / "cables.log")
        self._there = Path(f"/proc/{self._holder.pid}/ns/net")
        wait_until(lambda: self._there.readlink() != HERE.readlink(), 20)
        self._lay()

    def _lay(self) -> None:
        link, holder = self._link, str(self._holder.pid)
        ip = ["ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", holder]
        run(ip)
        run(["ip", "address", "add", f"{self.ours}/30", "dev", link])
        run(["ip", "link", "set", link, "up"])
        for words in (
            ("address", "add", f"{self.theirs}/30", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
        ):
            run(self.inside("ip", *words))

    def inside(self, *argv: str) -> tuple[str, ...]:
        """The command that runs `argv` in the node's namespace, as the same process."""
        return ("nsenter", f"--net={self._there}", *argv)

    def pull(self) -> None:
        """Nothing goes either way; nobody is told."""
        run(["ip", "link", "set", self._link, "down"])

    def plug(self) -> None:
        run(["ip", "link", "set", self._link, "up"])

    def block_answers(self) -> None:
        """What the node sends arrives, nothing comes back."""
        run(["ip", "route", "replace", "blackhole", f"{self.theirs}/32"])

    def allow_answers(self) -> None:
        subprocess.run(
            ["ip", "route", "delete", "blackhole", f"{self.theirs}/32"],
            capture_output=True,
            check=False,
        )

    def close(self) -> None:
        """The namespace goes with its last process."""
        self._holder.kill()
        self._holder.wait(20)
