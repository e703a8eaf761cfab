"""What the admin shows of one workflow: its graph as data, and its jobs, failed ones first. Reads only."""

from collections.abc import Iterable
from typing import Any

from django.urls import reverse

from jobs.models import Job
from jobs.page import status_labels
from jobs.states import Outcome
from prominence.admin_format import Colour as C
from workflows.models import JoinParent, Workflow
from workflows.serializers import progress_of, stage_progress
from workflows.states import ACTIVE, Progress, StageStatus, WorkflowStatus

JOBS_SHOWN = 100
COLOURS = {
    WorkflowStatus.PENDING: C.GREY,
    WorkflowStatus.RUNNING: C.BLUE,
    WorkflowStatus.COMPLETED: C.GREEN,
    WorkflowStatus.FAILED: C.RED,
    WorkflowStatus.KILLED: C.RED,
    WorkflowStatus.DELETED: C.GREY,
}


def graph_of(workflow: Workflow) -> dict[str, Any]:
    """Stages with their counts, and joins as they were made: three queries."""
    progress = stage_progress([workflow])
    stages = list(workflow.stages.order_by("position").defer("template", "columns"))
    jobs = reverse("admin:jobs_job_changelist")
    return {
        "status": workflow.status,
        "active": workflow.status in ACTIVE,
        "progress": _counts(progress_of([workflow])[workflow.pk]),
        "stages": [
            {
                "id": stage.pk,
                "name": stage.name,
                "status": stage.status,
                "look": "broken"
                if stage.broken and stage.status != StageStatus.SKIPPED
                else stage.status,
                "jobs": f"{jobs}?stage={stage.pk}",
                **_counts(progress[stage.pk]),
            }
            for stage in stages
        ],
        "joins": _joins(workflow, ((stage.pk, stage.waits_for_id) for stage in stages)),
    }


def _joins(workflow: Workflow, children: Iterable[tuple[int, int | None]]) -> list[dict[str, Any]]:
    joins: dict[int, dict[str, Any]] = {}
    rows = JoinParent.objects.filter(join__workflow=workflow)
    for join_id, stage_id in rows.values_list("join_id", "stage_id"):
        join = joins.setdefault(join_id, {"id": join_id, "parents": [], "children": []})
        join["parents"].append(stage_id)
    for stage_id, waits_for in children:
        if waits_for is not None:
            joins[waits_for]["children"].append(stage_id)
    return list(joins.values())


def _counts(progress: Progress) -> dict[str, int]:
    return {
        "total": progress.total,
        "done": progress.done,
        "failed": progress.failed,
        "queued": progress.queued,
        "waiting": progress.waiting,
    }


def shown_jobs(workflow: Workflow) -> list[dict[str, Any]]:
    """The first jobs of the workflow: those that failed, then the newest."""
    stages = list(workflow.stages.values_list("pk", flat=True))
    mine = Job.objects.filter(stage__in=stages).defer("spec", "labels")
    badly = list(mine.filter(outcome=Outcome.BADLY).order_by("stage", "instance")[:JOBS_SHOWN])
    known = {job.pk for job in badly}
    others = mine.exclude(outcome=Outcome.BADLY).order_by("-pk")[: JOBS_SHOWN - len(badly)]
    rows = [*badly, *(job for job in others if job.pk not in known)]
    return [{"job": job, "status": status_labels(job)} for job in rows]
