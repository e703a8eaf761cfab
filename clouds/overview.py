"""Nodes and sites in numbers for operators: the present incarnation of each, what it runs, what is used.

Reads only; a constant number of queries. Dead incarnations count for a node only when it has no later one.
"""

from dataclasses import dataclass
from typing import Any

from django.db.models import (
    Count,
    Exists,
    IntegerField,
    OuterRef,
    Prefetch,
    QuerySet,
    Subquery,
    Sum,
)
from django.db.models.functions import Coalesce

from clouds.models import Incarnation, Node, Site
from clouds.states import ALIVE, IncarnationStatus
from jobs.models import Placement
from jobs.states import AttemptStatus
from prominence.admin_format import Colour, Share

STATUS_COLOURS = {
    IncarnationStatus.READY: Colour.GREEN,
    IncarnationStatus.DRAINING: Colour.BLUE,
    IncarnationStatus.FENCED: Colour.ORANGE,
    IncarnationStatus.DEAD: Colour.RED,
}
_RESOURCES = ("cpus", "memory_mb", "disk_mb")


def nodes_with_present(nodes: QuerySet[Node]) -> QuerySet[Node]:
    """Nodes with `status` ("" if never enrolled) as a column, and `present`: a list with their latest incarnation."""
    latest = Incarnation.objects.filter(node=OuterRef("pk")).order_by("-pk")
    return nodes.annotate(status=Subquery(latest.values("status")[:1])).prefetch_related(
        Prefetch("incarnations", queryset=_latest().annotate(**_live_counts()), to_attr="present")
    )


def _latest() -> QuerySet[Incarnation]:
    later = Incarnation.objects.filter(node=OuterRef("node"), pk__gt=OuterRef("pk"))
    return Incarnation.objects.filter(~Exists(later))


def _live_counts() -> dict[str, Any]:
    """Columns `running` and `assigned`: live attempts placed on an incarnation."""
    live = Placement.objects.filter(incarnation=OuterRef("pk"), live=True).order_by()
    running = live.filter(attempt__status=AttemptStatus.RUNNING)
    return {
        "running": _count(running),
        "assigned": _count(live.exclude(attempt__status=AttemptStatus.RUNNING)),
    }


def _count(rows: QuerySet[Placement]) -> Coalesce:
    counted = rows.values("incarnation").annotate(n=Count("pk")).values("n")
    return Coalesce(Subquery(counted, output_field=IntegerField()), 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """CPUs, memory and disk that placements hold."""

    cpus: Share
    memory: Share
    disk: Share


def usage_of(incarnation: Incarnation) -> Usage:
    return _usage({name: getattr(incarnation, name) for name in _columns()})


def usage_of_site(site: Any) -> Usage:
    """What the living incarnations of a site have; needs `sites_with_usage`."""
    return _usage({name: getattr(site, f"sum_{name}") for name in _columns()})


def usage_of_all() -> Usage:
    """What all living incarnations have."""
    alive = Incarnation.objects.filter(status__in=ALIVE)
    sums = alive.aggregate(**{f"sum_{name}": Sum(name) for name in _columns()})
    return _usage({name: sums[f"sum_{name}"] or 0 for name in _columns()})


def nodes_by_status() -> dict[str, int]:
    """How many nodes are in each status; "" stands for those that never enrolled. In a fixed order."""
    latest = Incarnation.objects.filter(node=OuterRef("pk")).order_by("-pk")
    nodes = Node.objects.annotate(status=Subquery(latest.values("status")[:1])).order_by()
    counts = dict(nodes.values("status").annotate(n=Count("pk")).values_list("status", "n"))
    known = {status.value: counts.get(status.value, 0) for status in IncarnationStatus}
    return {**known, "": counts.get(None, 0)}


def sites_with_usage(sites: QuerySet[Site]) -> QuerySet[Site]:
    """Sites with `node_count` and the sums that `usage_of_site` reads."""
    alive = Incarnation.objects.filter(node__site=OuterRef("pk"), status__in=ALIVE)
    alive_of_site = alive.order_by().values("node__site")
    sums = {
        f"sum_{name}": Coalesce(Subquery(alive_of_site.annotate(sum=Sum(name)).values("sum")), 0)
        for name in _columns()
    }
    return sites.annotate(node_count=Count("nodes"), **sums)


def _columns() -> list[str]:
    return [*_RESOURCES, *(f"{name}_free" for name in _RESOURCES)]


def _usage(values: dict[str, int]) -> Usage:
    def share(name: str) -> Share:
        total = values[name]
        return Share(used=total - values[f"{name}_free"], total=total, is_mb=name.endswith("_mb"))

    return Usage(cpus=share("cpus"), memory=share("memory_mb"), disk=share("disk_mb"))
