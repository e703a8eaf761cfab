"""Jobs in numbers for operators. Reads only; no query looks at more than a bounded number of rows."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.models import User
from django.db.models import QuerySet

from jobs.models import Event, Job, Outbox, Placement
from jobs.states import AttemptStatus, JobStatus, Outcome

LIMIT = 20_000
OWNERS = 1000
DAY = timedelta(hours=24)
# The latest bad ends are looked for among this many of the latest events.
RECENT_EVENTS = 500
BAD_ENDS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """A count that stopped at LIMIT."""

    count: int

    def __str__(self) -> str:
        return f"{LIMIT:,}+" if self.count >= LIMIT else f"{self.count:,}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """Jobs that ended within the last 24 hours; shares are of those looked at, LIMIT at most."""

    total: Counted
    badly: int
    by_status: list[tuple[str, int]]


def active_jobs() -> dict[str, Counted]:
    """Jobs that wait for a node, are on their way to one, and run."""
    live = Placement.objects.filter(live=True, rank=0)
    running = live.filter(attempt__status=AttemptStatus.RUNNING)
    return {
        "queued": _count(Job.objects.filter(queued=True)),
        "assigned": _count(live.exclude(attempt__status=AttemptStatus.RUNNING)),
        "running": _count(running),
    }


def ended_lately(now: datetime) -> Ended:
    """What ended within a day, by status; through the index by owner."""
    owners = list(User.objects.values_list("pk", flat=True)[:OWNERS])
    jobs = Job.objects.filter(owner__in=owners, ended_at__gte=now - DAY)
    rows = list(jobs.order_by().values_list("status", "outcome")[:LIMIT])
    statuses = Counter(status for status, _ in rows)
    return Ended(
        total=Counted(count=len(rows)),
        badly=sum(
            outcome == Outcome.BADLY and status != JobStatus.DELETED for status, outcome in rows
        ),
        by_status=[(status.value, statuses[status]) for status in JobStatus if statuses[status]],
    )


def oldest_queued() -> Job | None:
    """The job that has waited longest for a node."""
    return Job.objects.filter(queued=True).order_by("queued_at").defer("spec").first()


def oldest_outbox() -> Outbox | None:
    """The oldest row whose effect has not come."""
    return Outbox.objects.order_by("pk").first()


def outbox_overdue(now: datetime) -> Counted:
    """Rows that are due."""
    return _count(Outbox.objects.filter(due_at__lte=now))


def latest_bad_ends() -> list[Event]:
    """The last events that ended a job as failed or killed, newest first."""
    recent = Event.objects.order_by("-pk").values_list("pk", "after")[:RECENT_EVENTS]
    bad = [pk for pk, after in recent if after in {JobStatus.FAILED, JobStatus.KILLED}]
    events = Event.objects.filter(pk__in=bad[:BAD_ENDS])
    return list(events.select_related("job__owner").defer("job__spec").order_by("-pk"))


def _count(rows: QuerySet[Any]) -> Counted:
    return Counted(count=rows.order_by()[:LIMIT].count())
