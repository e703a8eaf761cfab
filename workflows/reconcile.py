"""What makes the canvas a hint: open joins are held against the database and against Redis, and set right.

A join whose parents have all ended is released; one whose counters are gone is armed anew as the next generation,
with the members that remain. `Rescues` counts both: near 0 in health.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from django.db import transaction
from django.db.models import F, Q

from jobs.models import Chunk
from prominence import metrics
from workflows import canvas, ranges
from workflows.advance import release_join
from workflows.expand import expand_workflow
from workflows.models import Join, JoinParent, Workflow

logger = logging.getLogger(__name__)

# How long a join may be ready before it is released here: longer than its chord takes.
GRACE_S = 5.0


@dataclass(slots=True)
class Rescues:
    """Work that a chord should have done, since the start of this process."""

    released: int = 0
    armed: int = 0


@dataclass(slots=True)
class JoinCheck:
    """Looks at open joins; remembers since when each has been ready."""

    grace_s: float = GRACE_S
    rescues: Rescues = field(default_factory=Rescues)
    _ready_since: dict[int, float] = field(default_factory=dict)

    def run(self) -> None:
        """One look at everything. Raises redis.RedisError."""
        now = time.monotonic()
        begun = Q(armed=True) | Q(generation__gt=1)
        ready: dict[int, float] = {}
        for join in Join.objects.filter(begun, closed_at__isnull=True).order_by("pk"):
            missing = list(_missing(join))
            if not missing:
                ready[join.pk] = self._ready_since.get(join.pk, now)
            elif not join.armed or not canvas.is_armed(
                join.pk, join.generation, {index // canvas.PART for index in missing}
            ):
                self._arm_anew(join)
        self._ready_since = ready
        for join_id in [pk for pk, since in ready.items() if now - since >= self.grace_s]:
            if release_join(join_id):
                self.rescues.released += 1
                metrics.count("rescues", 1, "join")
                expand_workflow(Join.objects.values_list("workflow_id", flat=True).get(pk=join_id))

    def _arm_anew(self, join: Join) -> None:
        """The next generation, with the members whose chunks have not been counted by now."""
        with transaction.atomic():
            Workflow.objects.select_for_update().get(
                pk=join.workflow_id
            )  # no chunk is counted meanwhile
            fresh = Join.objects.filter(
                pk=join.pk, generation=join.generation, closed_at__isnull=True
            )
            if not fresh.update(generation=F("generation") + 1, armed=False):
                return
            missing = list(_missing(join))
        logger.info("join %s: armed anew for %s members", join.pk, len(missing))
        canvas.arm(join.pk, join.generation + 1, missing)
        Join.objects.filter(pk=join.pk, generation=join.generation + 1).update(armed=True)
        self.rescues.armed += 1
        metrics.count("rescues", 1, "chord")


def _missing(join: Join) -> Iterator[int]:
    """Members of a join whose chunks have not been counted."""
    parents = list(JoinParent.objects.filter(join=join).select_related("stage"))
    counted: dict[int, set[int]] = {parent.stage_id: set() for parent in parents}
    rows = Chunk.objects.filter(stage__in=counted, counted=True)
    for stage, number in rows.values_list("stage", "number"):
        counted[stage].add(number)
    for parent in parents:
        numbers = ranges.numbers(parent.stage.to_run)
        for position, number in enumerate(numbers):
            if number not in counted[parent.stage_id]:
                yield parent.first + position
