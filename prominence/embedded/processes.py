"""Child processes that die with their parent: how one is started, waited for and ended.

Owns the operating system's side (sessions, process groups, death signals, /proc); knows nothing of what runs. Linux
only where it says so. Must be used from the main thread: the death signal follows the thread that forked.
"""

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to execute. `env` is the whole environment; secrets belong there or in files, never in `argv`.

    death_signal: sent to the child when this process ends, however it ends.
    umask: which permissions its files do not get.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    death_signal: signal.Signals = signal.SIGTERM
    umask: int = 0o077


def spawn(command: Command, log: Path) -> subprocess.Popen[bytes]:
    """Start the command in a session of its own, its output appended to `log`; returns at once.

    Raises OSError when there is no such program.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            command.argv,
            env=dict(command.env),
            cwd=command.cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=command.umask,
            preexec_fn=_tie_to_parent(os.getpid(), command.death_signal),
        )


def adopt_orphans() -> None:
    """From now on, what children of children leave behind becomes a child of this process."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap() -> Iterator[tuple[int, int]]:
    """Collect every child that has ended, adopted ones included: (pid, exit code or minus the signal)."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, os.waitstatus_to_exitcode(status)


def signal_group(pid: int, number: signal.Signals) -> None:
    """Signal the process group that `pid` leads; nothing happens when there is none left."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def descendants(of: int) -> set[int]:
    """All processes below `of`, read from /proc. A snapshot: a process that forks may have children not in it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (parent := parent_of(int(entry.name))):
            children.setdefault(parent, []).append(int(entry.name))
    found: set[int] = set()
    todo = [of]
    while todo:
        below = children.get(todo.pop(), [])
        found.update(below)
        todo.extend(below)
    return found


def parent_of(pid: int) -> int:
    """The parent of a process, or 0 when there is no such process or it has ended (a zombie)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    # The name, in parentheses, may contain anything: what follows its last one is state and parent.
    state, parent = stat.rpartition(")")[2].split()[:2]
    return 0 if state in {"Z", "X"} else int(parent)


def _tie_to_parent(parent: int, death_signal: signal.Signals) -> Callable[[], None]:
    def prepare() -> None:
        # Blocked signals survive an exec: the supervisor blocks those it waits for.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        _libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # it ended before the line above
            os._exit(1)

    return prepare
