"""States of workflows and stages, and what a workflow's status and progress follow from: pure tables and functions.

Owns the words (D14: the set of jobs), the ordered rule list for the status and the meaning of a failure tolerance.
No ORM, no clock.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from django.db.models import TextChoices


class WorkflowStatus(TextChoices):
    """The contract's words (D14); `killed` is kept for the set's sake and never reached."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    DELETED = "deleted"
    KILLED = "killed"
    FAILED = "failed"


ACTIVE = frozenset({WorkflowStatus.PENDING, WorkflowStatus.RUNNING})
TERMINAL = frozenset(WorkflowStatus) - ACTIVE
FAILED_TEXT = "One or more jobs failed"
DELETED_TEXT = "Workflow deleted by user"


class StageStatus(TextChoices):
    """waiting: for its parents.  released: its instances may run.  ended: all of them have.  skipped: never will."""

    WAITING = "waiting"
    RELEASED = "released"
    ENDED = "ended"
    SKIPPED = "skipped"


OPEN_STAGES = frozenset({StageStatus.WAITING, StageStatus.RELEASED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """done: ended well.  failed: ended badly.  queued: released and not ended.  waiting: the rest. Sum: total."""

    total: int
    done: int
    failed: int
    queued: int

    @property
    def waiting(self) -> int:
        return self.total - self.done - self.failed - self.queued


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a workflow's status depends on.

    alive: jobs that exist and have not ended.  unfinished: stages waiting or released.  broken: stages that were
    skipped or had more failures than they tolerate.
    """

    deleting: bool
    started: bool
    alive: bool
    unfinished: bool
    broken: bool


RULES: tuple[tuple[Callable[[Facts], bool], WorkflowStatus], ...] = (
    (lambda facts: facts.deleting and not facts.alive, WorkflowStatus.DELETED),
    (
        lambda facts: not facts.deleting and not facts.unfinished and facts.broken,
        WorkflowStatus.FAILED,
    ),
    (lambda facts: not facts.deleting and not facts.unfinished, WorkflowStatus.COMPLETED),
    (lambda facts: facts.started, WorkflowStatus.RUNNING),
    (lambda facts: True, WorkflowStatus.PENDING),
)


def derive(facts: Facts) -> WorkflowStatus:
    """The first rule that holds decides."""
    return next(status for holds, status in RULES if holds(facts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How many instances of a stage may end badly and its children still run: a count, or a percentage of it."""

    count: int = 0
    percent: Decimal | None = None

    def allowed(self, size: int) -> int:
        """Failures a stage of `size` instances may have; a percentage is rounded down."""
        if self.percent is None:
            return self.count
        return int(size * self.percent / 100)
