"""Control groups of jobs: a name under which all processes of a job are found, and their memory's peak.

Uses a version 2 hierarchy (the hybrid mount's too) for finding and killing, and a memory controller of
either version for measuring. Sets no limits. Where there is no writable hierarchy everything here does
nothing, and other means must do.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

V2_ROOTS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
V1_MEMORY = Path("/sys/fs/cgroup/memory")
NAME = "prominence"


def find_root() -> Path | None:
    """The version 2 hierarchy that we may write, if any."""
    for root in V2_ROOTS:
        if (root / "cgroup.controllers").exists() and os.access(root, os.W_OK):
            return root
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The groups of one job, or of one node (`node` only)."""

    node: str
    job: str = ""

    def _path(self, root: Path) -> Path:
        return root / NAME / self.node / self.job

    def _paths(self) -> Iterator[Path]:
        root = find_root()
        if root is not None:
            yield self._path(root)
        if V1_MEMORY.is_dir() and os.access(V1_MEMORY, os.W_OK):
            yield self._path(V1_MEMORY)

    def create(self) -> tuple[Path, ...]:
        """Make the groups; returns the files that take a new member. Idempotent, never raises."""
        made = []
        for path in self._paths():
            with suppress(OSError):
                if not path.parent.is_dir():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    _enable_memory(path.parent)
                with suppress(FileExistsError):
                    path.mkdir()
                made.append(path / "cgroup.procs")
        return tuple(made)

    def remove(self) -> None:
        """Remove the empty groups. Idempotent, never raises."""
        for path in self._paths():
            with suppress(OSError):
                path.rmdir()

    def kill(self) -> None:
        """SIGKILL to every process in it and below, in one stroke. Never raises."""
        root = find_root()
        if root is not None:
            with suppress(OSError):
                (self._path(root) / "cgroup.kill").write_text("1")

    def pids(self) -> list[int]:
        """The processes in it and below it."""
        root = find_root()
        if root is None:
            return []
        found: list[int] = []
        for file in self._path(root).rglob("cgroup.procs"):
            with suppress(OSError):
                found += [int(line) for line in file.read_text().split()]
        return found

    def peak_memory_kb(self) -> int | None:
        """The most memory the group ever used; None where nobody counts."""
        for path in self._paths():
            for name in ("memory.peak", "memory.max_usage_in_bytes"):
                with suppress(OSError, ValueError):
                    return int((path / name).read_text()) // 1024
        return None


def _enable_memory(parent: Path) -> None:
    """In a version 2 hierarchy a group counts memory only if each group above hands it down."""
    for path in (parent.parent.parent, parent.parent, parent):
        with suppress(OSError):
            (path / "cgroup.subtree_control").write_text("+memory")
