"""The machines that are known: what each has and has left, and what a shape asks of them.

Owns the reading of nodes for `clouds.impossible` and `clouds.why`, and of stored shapes for the scheduler. Reads only.
"""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Now

from clouds.capacity import Amount
from clouds.models import Incarnation
from clouds.placement import Need, Places
from clouds.states import ALIVE, IncarnationStatus
from jobs.models import PlacementPolicy
from jobs.shapes import parse_shape

# A machine that went away is expected back for so long; after that nothing counts on it.
MISSED_H = 24
# A node that missed this many heartbeats gets nothing new, long before its lease is over.
SILENT_HEARTBEATS = 3


class Condition(StrEnum):
    """Whether a machine takes jobs now, and if not, why."""

    READY = "ready"
    SILENT = "silent"
    SHUNNED = "shunned"
    DRAINING = "draining"
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A node in its latest life."""

    name: str
    site: str
    region: str
    total: Amount
    free: Amount
    runtimes: frozenset[str]
    condition: Condition

    def admits(self, need: Need) -> bool:
        return need.required.admit(self.site, self.region)

    def could_run(self, need: Need) -> bool:
        """If it were idle and ready."""
        return (
            self.admits(need)
            and need.runtime in self.runtimes
            and need.amount.slots_in(self.total) > 0
        )

    def can_run(self, need: Need) -> bool:
        """Now."""
        return (
            self.condition is Condition.READY
            and self.could_run(need)
            and need.amount.slots_in(self.free) > 0
        )


def known_machines() -> list[Machine]:
    """All that are there or may be expected back: one query."""
    silent = Now() - timedelta(seconds=SILENT_HEARTBEATS * settings.CONFIG.heartbeat_s)
    later = Incarnation.objects.filter(node=OuterRef("node"), pk__gt=OuterRef("pk"))
    rows = (
        Incarnation.objects.filter(
            Q(status__in=ALIVE) | Q(heard_at__gte=Now() - timedelta(hours=MISSED_H)),
            ~Exists(later),
            node__revoked_at__isnull=True,
        )
        .select_related("node__site")
        .annotate(
            is_silent=Q(heard_at__lt=silent),
            is_shunned=Q(shunned_until__isnull=False, shunned_until__gte=Now()),
        )
        .order_by("node__site__name", "node__name")
    )
    return [_machine(row) for row in rows]


def _machine(row: Any) -> Machine:
    return Machine(
        name=row.node.name,
        site=row.node.site.name,
        region=row.node.site.region,
        total=Amount(cpus=row.cpus, memory_mb=row.memory_mb, disk_mb=row.disk_mb),
        free=Amount(cpus=row.cpus_free, memory_mb=row.memory_mb_free, disk_mb=row.disk_mb_free),
        runtimes=frozenset(row.runtimes),
        condition=_condition(row),
    )


def _condition(row: Any) -> Condition:
    if row.status == IncarnationStatus.DRAINING:
        return Condition.DRAINING
    if row.status != IncarnationStatus.READY:
        return Condition.GONE
    if row.is_silent:
        return Condition.SILENT
    return Condition.SHUNNED if row.is_shunned else Condition.READY


@lru_cache(maxsize=10_000)
def need_of(shape: str) -> Need:
    """What a stored shape asks of a node; one query for a placement policy that this process has not met yet.

    Raises:
        PlacementPolicy.DoesNotExist: never for the shape of a stored job: policies are stored with it, for ever.
    """
    parsed = parse_shape(shape)
    policy = PlacementPolicy.objects.get(pk=parsed.policy).document if parsed.policy else {}
    return Need(
        amount=Amount(cpus=parsed.cpus, memory_mb=parsed.memory_mb, disk_mb=parsed.disk_mb),
        runtime=parsed.runtime,
        required=_places(policy.get("requirements", {})),
        preferred=_places(policy.get("preferences", {})),
    )


def _places(document: dict[str, list[str]]) -> Places:
    return Places(
        sites=tuple(document.get("sites", ())), regions=tuple(document.get("regions", ()))
    )
