"""What worker and shim tell each other. Both sides may die at any time.

Orders go through a socket, so that a job's secrets are on no disk; the shim answers with single bytes that there is
news, or that the job is over. What has to outlive the worker is in files in the directory of the attempt, written
whole and renamed into place, so that a reader sees all or nothing.
"""

import socket
import struct
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import msgspec

from worker.files import read_or_none
from worker.protocol import AttemptKey, EndReason, RunSpec, TaskResult, TaskSecrets
from worker.staging.outputs import Output

STREAMS = ("stdout", "stderr")

NEWS, OVER = b"n", b"o"
"""From the shim: look at the job's files; its result is there and no process of it is left."""

_LENGTH = struct.Struct(">I")


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """All a shim knows of a job. Holds the job's own secrets, none of the node's."""

    key: AttemptKey
    dir: str
    spec: RunSpec
    secret_env: dict[str, str]
    secrets: tuple[TaskSecrets, ...] = ()
    submitted_at: float = 0.0
    uid: int
    gid: int
    puller: int
    slot: int
    lease: str
    images: str
    image_cache_bytes: int
    image_pulls: int
    cgroup: str
    mirrors: dict[str, str]
    allow_process: bool
    allow_shared_uid: bool
    log_cap_bytes: int
    output_file_bytes: int = 5 << 30

    @property
    def hidden(self) -> list[str]:
        """What is masked in output."""
        return [value for task in self.secrets for value in task.env.values()]


def send_orders(channel: socket.socket, orders: Orders) -> None:
    """Raises OSError when the shim is gone."""
    data = msgspec.json.encode(orders)
    channel.sendall(_LENGTH.pack(len(data)) + data)


def receive_orders(channel: socket.socket) -> Orders | None:
    """The next job's, whenever it comes; None when the worker wants no more of this shim or is gone."""
    head = _receive(channel, _LENGTH.size)
    data = _receive(channel, _LENGTH.unpack(head)[0]) if head else b""
    return msgspec.json.decode(data, type=Orders) if data else None


def _receive(channel: socket.socket, size: int) -> bytes:
    """Exactly so many bytes, or none at the end of the stream."""
    data = b""
    while len(data) < size:
        try:
            more = channel.recv(size - len(data))
        except ConnectionError:
            return b""
        if not more:
            return b""
        data += more
    return data


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

    `dropped` names the streams that lost bytes; `outputs` are still to be uploaded.
    """

    reason: EndReason
    detail: str = ""
    tasks: tuple[TaskResult, ...] = ()
    started_at: float | None = None
    ended_at: float
    wall_s: float | None = None
    max_memory_kb: int | None = None
    dropped: tuple[str, ...] = ()
    stage_in_s: float | None = None
    stage_out_s: float | None = None
    outputs: tuple[Output, ...] = ()


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
