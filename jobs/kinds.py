"""How long the last runs of each kind of job took, so that short ones can travel together.

A kind is the same owner, images and commands; jobs of one kind may still differ (by environment, by inputs). So a kind
counts as short only while all but one of its last runs were, and one that held up a message so long that the node gave
the rest back has to prove itself anew.
"""

from collections.abc import Iterable, Sequence

from jobs.models import Job, Kind, Placement
from jobs.reports import EndReport, Report
from jobs.states import AttemptStatus, Reason

# A job that has not ended yet but has already held up others.
HELD_UP_S = 2.0


def note_runs(reports: Sequence[Report]) -> None:
    """Add the wall times of finished runs to their kinds: a few queries. In the transaction that applied them."""
    ends = [report for report in reports if isinstance(report, EndReport)]
    walls = {
        report.job_id: sum(float(task.get("wall_s") or 0.0) for task in report.tasks)
        for report in ends
        if report.reason in {Reason.FINISHED, Reason.EXIT_CODE}
    }
    by_kind: dict[str, list[float]] = {}
    for job_id, key in Job.objects.filter(pk__in=walls).values_list("pk", "kind") if walls else ():
        by_kind.setdefault(key, []).append(round(walls[job_id], 3))
    for key in _kinds_in_the_way(r.job_id for r in ends if r.reason is Reason.GIVEN_BACK):
        by_kind.setdefault(key, []).extend([HELD_UP_S] * Kind.RECENT)
    if by_kind:
        _save(by_kind)


def _kinds_in_the_way(given_back: Iterable[int]) -> set[str]:
    """The kinds of jobs that run where these were to follow, in the same message."""
    jobs = set(given_back)
    if not jobs:
        return set()
    batches = Placement.objects.filter(attempt__job__in=jobs).exclude(batch="")
    running = Placement.objects.filter(
        batch__in=set(batches.values_list("batch", flat=True)),
        live=True,
        attempt__status=AttemptStatus.RUNNING,
    )
    return set(running.values_list("attempt__job__kind", flat=True))


def _save(by_kind: dict[str, list[float]]) -> None:
    known = Kind.objects.in_bulk(list(by_kind))
    changed = [
        _noted(known.get(key) or Kind(pk=key), recent) for key, recent in sorted(by_kind.items())
    ]
    Kind.objects.bulk_create(
        changed,
        update_conflicts=True,
        unique_fields=["key"],
        update_fields=["recent_s", "short"],
    )


def _noted(kind: Kind, recent: Sequence[float]) -> Kind:
    kind.recent_s = [*kind.recent_s, *recent][-Kind.RECENT :]
    long = sum(wall_s >= Kind.SHORT_S for wall_s in kind.recent_s)
    kind.short = long <= len(kind.recent_s) // Kind.RECENT
    return kind
