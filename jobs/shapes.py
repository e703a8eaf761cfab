"""Shapes: what the scheduler needs to know of a job, as a short text. Jobs of one shape and owner are matched alike.

Owns the text's form. Pure.

    c1.m1024.d10240             1 core, 1024 MB of memory, 10240 MB of disk
    ….u  ….p                   a task needs udocker; is a plain process (benchmarks)
    ….w                         waits for resources that no node has (`maximumTimeInQueue` other than 0, S99-S101)
    ….@0123456789abcdef         key of its placement policy, a row of `jobs.PlacementPolicy`
"""

import math
import re
from dataclasses import dataclass, replace

MAXIMUM_MEMORY_MB = 32_768 * 1024

_SHAPE = re.compile(
    r"c([1-9]\d*)\.m([1-9]\d*)\.d([1-9]\d*)(\.u)?(\.p)?(\.w)?(?:\.@([0-9a-f]{16}))?", re.ASCII
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a slot must offer for a job."""

    cpus: int
    memory_mb: int
    disk_mb: int
    udocker: bool = False
    process: bool = False
    patient: bool = False
    policy: str = ""

    @property
    def runtime(self) -> str:
        """The runtime that the node must offer."""
        if self.process:
            return "process"
        return "udocker" if self.udocker else "singularity"

    def __str__(self) -> str:
        flags = {".u": self.udocker, ".p": self.process, ".w": self.patient}
        needs = "".join(flag for flag, is_set in flags.items() if is_set)
        policy = f".@{self.policy}" if self.policy else ""
        return f"c{self.cpus}.m{self.memory_mb}.d{self.disk_mb}{needs}{policy}"


def parse_shape(text: str) -> Shape:
    """The reverse of str(). Raises ValueError."""
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise ValueError(f"not a shape: {text!r}")
    return Shape(
        cpus=int(match[1]),
        memory_mb=int(match[2]),
        disk_mb=int(match[3]),
        udocker=match[4] is not None,
        process=match[5] is not None,
        patient=match[6] is not None,
        policy=match[7] or "",
    )


def shape_with(text: str, memory_mb: int) -> str:
    """The same shape with this much memory."""
    return str(replace(parse_shape(text), memory_mb=memory_mb))


def grown_shape(text: str, factor: float) -> str:
    """The same shape with `factor` times the memory, at most what a document may ask for."""
    memory_mb = math.ceil(parse_shape(text).memory_mb * factor)
    return shape_with(text, min(memory_mb, MAXIMUM_MEMORY_MB))
