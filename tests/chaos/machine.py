"""A node as a machine: all its processes, found by what the kernel says of them, frozen, thawed or killed together.

Independent of `worker/`: reads the block file, /proc and nothing else.
"""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

SLOTS = Path("/run/prominence/slots")
FIRST_UID, BLOCK_UIDS = 61184, 128


def block_of(data: Path) -> int | None:
    """The block of user ids that belongs to this data directory."""
    for file in SLOTS.glob("[0-9]*"):
        with suppress(OSError):
            if file.read_text() == str(data):
                return int(file.name)
    return None


def processes(data: Path) -> dict[int, str]:
    """pid: name, of everything of this node but its worker: spawner, shims, jobs and their helpers."""
    block = block_of(data)
    if block is None:
        return {}
    first = FIRST_UID + block * BLOCK_UIDS
    uids = range(first, first + BLOCK_UIDS)
    ours = {f"prom-shim-{block}", f"prom-spwn-{block}"}
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                name = (entry / "comm").read_text().strip()
                if (name in ours or entry.stat().st_uid in uids) and not _is_zombie(entry):
                    found[int(entry.name)] = name
    return found


def shims(data: Path) -> list[int]:
    return sorted(p for p, name in processes(data).items() if name.startswith("prom-shim-"))


def spawners(data: Path) -> list[int]:
    return sorted(p for p, name in processes(data).items() if name.startswith("prom-spwn-"))


def signal_all(data: Path, number: signal.Signals, *, newest_first: bool = False) -> int:
    """Signal everything but the worker until nothing new turns up; returns how many."""
    done: set[int] = set()
    while fresh := set(processes(data)) - done:
        for pid in sorted(fresh, reverse=newest_first):
            send(pid, number)
        done |= fresh
    return len(done)


def mount_disk(data: Path, *, size_mb: int) -> bool:
    """A small disk of its own for the node; False where that may not be done."""
    data.mkdir(mode=0o711)
    options = f"size={size_mb}m,mode=711"
    words = ["mount", "-t", "tmpfs", "-o", options, "prominence-chaos", str(data)]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def unmount_disk(data: Path) -> None:
    if data.is_mount():
        subprocess.run(["umount", "--lazy", str(data)], check=False)


def fill_disk(data: Path) -> Path:
    """A file that takes what is free; delete it to have room again."""
    filler = data / "filler"
    status = os.statvfs(data)
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, max(1, status.f_bavail * status.f_frsize - 4096))
    finally:
        os.close(descriptor)
    return filler


def send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def uptime() -> float:
    """What jobs read as the first word of /proc/uptime."""
    return float(Path("/proc/uptime").read_text().split()[0])


def _is_zombie(entry: Path) -> bool:
    return (entry / "stat").read_text().rpartition(")")[2].split()[0] in {"Z", "X"}
