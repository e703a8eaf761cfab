"""How long the last runs of each kind of job took, so that short ones can travel together."""

from collections.abc import Sequence
from statistics import median

from jobs.models import Job, Kind
from jobs.reports import EndReport, Report
from jobs.states import Reason


def note_runs(reports: Sequence[Report]) -> None:
    """Add the wall times of finished runs to their kinds: two queries and one update for all. In a transaction."""
    walls = {
        report.job_id: sum(float(task.get("wall_s") or 0.0) for task in report.tasks)
        for report in reports
        if isinstance(report, EndReport) and report.reason in {Reason.FINISHED, Reason.EXIT_CODE}
    }
    if not walls:
        return
    by_kind: dict[str, list[float]] = {}
    for job_id, key in Job.objects.filter(pk__in=walls).values_list("pk", "kind"):
        by_kind.setdefault(key, []).append(round(walls[job_id], 3))
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
    kind.short = median(kind.recent_s) < Kind.SHORT_S
    return kind
