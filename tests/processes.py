"""Finding what a test left running, by the test's own directory."""

import os
import signal
from pathlib import Path

from prominence.embedded.processes import parent_of


def processes_of(directory: Path) -> dict[int, str]:
    """Live processes (pid: command line) whose command line, environment or working directory names `directory`."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid() and _mentions(entry, directory):
            pid = int(entry.name)
            if parent_of(pid):
                found[pid] = _read(entry / "cmdline").replace(b"\0", b" ").decode(errors="replace")
    return found


def kill_processes_of(directory: Path) -> None:
    """Kill whatever is left of a test, repeatedly, as processes may fork meanwhile."""
    while left := processes_of(directory):
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def _mentions(entry: Path, directory: Path) -> bool:
    needle = os.fsencode(directory)
    if needle in _read(entry / "cmdline") or needle in _read(entry / "environ"):
        return True
    try:
        return (entry / "cwd").readlink().is_relative_to(directory)
    except OSError:
        return False


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def commands_containing(words: str) -> dict[int, str]:
    """Live processes whose command line contains these words, arguments separated by spaces."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            line = _read(entry / "cmdline").replace(b"\0", b" ").decode(errors="replace")
            if words in line and parent_of(int(entry.name)):
                found[int(entry.name)] = line
    return found
