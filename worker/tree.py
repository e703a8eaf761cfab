"""Killing a process tree whole: what forked twice, left its session, or lost its supervisor.

Three nets: the job's control group; the slot's uid, with kill(-1), which nothing that only forks can
outrun; and, in a shim, the children that the kernel hands to it as their subreaper.
"""

import ctypes
import os
import signal
import struct
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path

from worker.blocks import is_slot_uid

PR_SET_NAME, PR_GET_SECUREBITS, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 15, 27, 36, 38
SETTLE_S = 0.005
"""Between two looks at processes that were just killed."""

MARK = "PROMINENCE_ATTEMPT"
"""Variable by which an unprivileged node finds processes of its jobs again."""

SIGINFO_BYTES = 128
"""sizeof(struct signalfd_siginfo), signalfd(2)."""

_libc = ctypes.CDLL(None, use_errno=True)


def name_process(name: str) -> None:
    """What /proc/PID/comm says: 15 bytes at most."""
    _libc.prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def forbid_new_privileges() -> None:
    """From now on no program that is executed gains anything by its setuid bit. Inherited for good."""
    _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def become_subreaper() -> None:
    """Orphans among our descendants become our children."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def termination_descriptor() -> int:
    """SIGTERM as something to poll for and read: blocked, so it is never lost nor deadly."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    mask = struct.pack("@Q", 1 << (signal.SIGTERM - 1)) + bytes(120)
    descriptor = _libc.signalfd(-1, mask, os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "signalfd")
    return int(descriptor)


# ---- looking


def children() -> list[int]:
    """Pids of our own children."""
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def process_start(pid: int) -> int | None:
    """Clock ticks between boot and the process's start; None when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def processes() -> Iterator[int]:
    """All pids of this machine."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            yield int(entry.name)


def processes_of_uids(uids: Collection[int]) -> dict[int, int]:
    """Living processes whose real uid is one of these: pid -> uid."""
    found = {}
    for pid in processes():
        uid = _real_uid(pid)
        if uid in uids and process_start(pid) is not None:
            found[pid] = uid
    return found


def processes_named(names: Collection[str]) -> list[int]:
    """Our own (or root's) living processes of these names."""
    return [
        pid
        for pid in processes()
        if _comm(pid) in names and _real_uid(pid) == os.getuid() and process_start(pid) is not None
    ]


def processes_marked(mark: str) -> list[int]:
    """Living processes that were started with this mark in their environment."""
    entry = f"{MARK}={mark}".encode()
    found = []
    for pid in processes():
        with suppress(OSError):
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            if any(e.startswith(entry) for e in environment.split(b"\0")) and pid != os.getpid():
                found.append(pid)
    return found


def _real_uid(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return -1
    return int(status.partition("\nUid:")[2].split(None, 1)[0])


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().rstrip("\n")
    except OSError:
        return ""


# ---- killing


def kill_pids(pids: Collection[int]) -> None:
    """SIGKILL; who is gone already does not matter."""
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def fork_sweeper(uid: int) -> int:
    """Fork a child that becomes `uid` and kills all that this uid may kill; returns its pid.

    One kill(-1) is enough: a process that forks while it is hit leaves no child (the kernel checks for
    pending signals under the lock that the sweep holds). Only for slot uids of a node run by root.
    """
    if os.getuid() != 0 or not is_slot_uid(uid):
        raise ValueError(f"uid {uid} is not a slot's")
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            code = _sweep(uid)
        finally:
            os._exit(code)
    return pid


def _sweep(uid: int) -> int:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    # As root, or with a capability left, the next line would end the machine.
    if os.getresuid() != (uid, uid, uid) or "\nCapEff:\t0000000000000000\n" not in Path(
        "/proc/self/status"
    ).read_text(encoding="ascii", errors="replace"):
        return 71
    with suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    return 0


def sweep_in_place(uid: int) -> None:
    """The same from a single-threaded process of root that has no descendants left, without a fork.

    It takes the slot's uid on for one system call. A process of that uid that is not its descendant
    could kill it just then, and its job would count as lost; that is the worst that could happen.
    """
    if os.getresuid() != (0, 0, 0) or not is_slot_uid(uid):
        raise ValueError(f"uid {uid} is not a slot's")
    if _libc.prctl(PR_GET_SECUREBITS, 0, 0, 0, 0) != 0:  # then a change of uid keeps capabilities
        sweep_uids([uid])
        return
    os.setresuid(uid, uid, 0)
    try:
        if os.getresuid() == (uid, uid, 0):
            with suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
    finally:
        os.setresuid(0, 0, 0)


def sweep_uids(uids: Collection[int]) -> None:
    """From outside the job's shim: SIGKILL all processes of these uids."""
    for uid in uids:
        os.waitpid(fork_sweeper(uid), 0)


def kill_until_gone(find: Callable[[], Collection[int]], *, timeout_s: float = 10.0) -> bool:
    """SIGKILL what `find` returns until it finds nothing; False at the time-out."""
    deadline = time.monotonic() + timeout_s
    while pids := find():
        if time.monotonic() > deadline:
            return False
        kill_pids(pids)
        time.sleep(SETTLE_S)
    return True
