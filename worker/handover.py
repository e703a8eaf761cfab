"""What worker and shim tell each other, through files in the directory of an attempt.

Written whole and renamed into place, so a reader sees all or nothing. Both sides may die at any time.
"""

from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import msgspec

from worker.files import read_or_none
from worker.protocol import AttemptKey, EndReason, RunSpec, TaskResult, TaskSecrets

STREAMS = ("stdout", "stderr")


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """All a shim knows. Holds the job's own secrets, none of the node's."""

    key: AttemptKey
    spec: RunSpec
    secret_env: dict[str, str]
    secrets: tuple[TaskSecrets, ...] = ()
    uid: int
    gid: int
    puller: int
    slot: int
    lease: str
    images: str
    cgroup: str
    mirrors: dict[str, str]
    allow_process: bool
    allow_shared_uid: bool
    log_cap_bytes: int

    @property
    def hidden(self) -> list[str]:
        """What is masked in output."""
        return [value for task in self.secrets for value in task.env.values()]


class Maker(StrEnum):
    """Who made the file `run`."""

    SHIM = "shim"
    WORKER = "worker"


class RunMark(msgspec.Struct, frozen=True, kw_only=True):
    """The file `run`: by a shim, that it begins; by a worker, that no shim ever may."""

    maker: Maker
    pid: int = 0
    start: int = 0  # clock ticks since boot: tells a process from a later one with its pid
    uid: int = 0
    slot: int = -1
    cpus: int = 0
    memory_mb: int = 0
    disk_mb: int = 0


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """The file `stop`."""

    reason: EndReason
    grace_s: float


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How far the tasks have got. `started_at` is CLOCK_BOOTTIME."""

    started_at: float | None = None
    tasks: tuple[TaskResult, ...] = ()


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The file `result`: written when no process of the job is left. Times are CLOCK_BOOTTIME.

    `dropped` names the streams that lost bytes.
    """

    reason: EndReason
    detail: str = ""
    tasks: tuple[TaskResult, ...] = ()
    started_at: float | None = None
    ended_at: float
    wall_s: float | None = None
    max_memory_kb: int | None = None
    dropped: tuple[str, ...] = ()


Kind = TypeVar("Kind", bound=msgspec.Struct)


def read_file(path: Path, kind: type[Kind]) -> Kind | None:
    """None when the file is not there or, which only a broken disk can do, unreadable."""
    data = read_or_none(path)
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError:
        return None
