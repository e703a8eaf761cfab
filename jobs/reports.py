"""What is said about attempts, as plain values: by nodes (reports) and by the scheduler (assignments).

No ORM, no I/O; `jobs.transition` says what follows from each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.states import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFacts:
    """How an output stream ended: bytes written, and whether all of them are or will be stored."""

    size: int
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimReport:
    """A node took the offer."""

    job_id: int
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StartReport:
    """The first task's process started `ago_s` seconds before now."""

    job_id: int
    attempt: int
    ago_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReport:
    """Task `index` ended; `result` has the fields of worker.protocol.TaskResult."""

    job_id: int
    attempt: int
    index: int
    result: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class EndReport:
    """No process of the attempt is left. `tasks` as in TaskReport; times in seconds, memory in KB."""

    job_id: int
    attempt: int
    reason: Reason
    detail: str = ""
    tasks: Sequence[Mapping[str, Any]] = ()
    max_memory_kb: int | None = None
    stage_in_s: float | None = None
    stage_out_s: float | None = None
    ago_s: float = 0.0
    stdout: LogFacts | None = None
    stderr: LogFacts | None = None


Report = ClaimReport | StartReport | TaskReport | EndReport


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementPlan:
    """Where an attempt goes and what it is given there."""

    incarnation: int
    node_name: str
    site: str
    cpus: int
    memory_mb: int
    disk_mb: int
    batch: str = ""
    charged: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    job_id: int
    plan: PlacementPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An attempt that now exists and has to be offered."""

    job_id: int
    attempt: int
    incarnation: int
    batch: str
