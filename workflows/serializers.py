"""Workflows as clients see them (C32, C33, C33a): plain functions over rows.

Progress comes from the columns of stages, which count whole chunks, and from the chunks under way, in one statement:
two moments could miss what passes from one to the other.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from django.db.models import F, OuterRef, QuerySet, Subquery, Sum, Value
from django.db.models.functions import Coalesce

from jobs.models import Chunk, Job
from jobs.serializers import full_entries
from jobs.states import JobStatus
from workflows.models import Stage, Workflow
from workflows.states import (
    DELETED_TEXT,
    FAILED_TEXT,
    Progress,
    StageStatus,
    WorkflowStatus,
)

_NOT_OF_A_TEMPLATE = frozenset({"id", "status", "events", "execution"})


def brief_workflows(workflows: "Iterable[Workflow]") -> list[dict[str, Any]]:
    """Entries of a list (C32): two queries, however many."""
    rows = list(workflows)
    progress = progress_of(rows)
    return [_common(row, progress[row.pk]) for row in rows]


def full_workflow(workflow: Workflow) -> dict[str, Any]:
    """The submitted document with what has become of it (C33, C33a)."""
    head = dict(workflow.head)
    factories = [*([head["factory"]] if head.get("factory") else []), *head.get("factories", [])]
    entry = head | _common(workflow, progress_of([workflow])[workflow.pk])
    entry["jobs"] = templates(workflow)
    if factories:
        entry |= {"factory": factories[0], "factories": factories}
    if workflow.origin_id is not None:
        entry["origin"] = workflow.origin_id
    return entry


def templates(workflow: Workflow) -> list[dict[str, Any]]:
    """The jobs of a workflow as they were submitted, secrets hidden as they are in jobs."""
    stages = list(workflow.stages.order_by("position"))
    jobs = [
        Job(
            owner_id=workflow.owner_id,
            name=stage.name,
            spec=stage.template,
            status=JobStatus.PENDING,
            labels=stage.columns.get("labels", {}),
            created_at=workflow.created_at,
        )
        for stage in stages
    ]
    return [
        {key: value for key, value in entry.items() if key not in _NOT_OF_A_TEMPLATE}
        for entry in full_entries(jobs)
    ]


def progress_of(workflows: Sequence[Workflow]) -> dict[int, Progress]:
    """Progress by workflow, exact at one moment: one query."""
    sums = {workflow.pk: [0, 0, 0] for workflow in workflows}
    for pk, _, progress in _rows(workflows):
        for index, count in enumerate((progress.done, progress.failed, progress.queued)):
            sums[pk][index] += count
    return {
        workflow.pk: Progress(total=workflow.size, done=done, failed=failed, queued=queued)
        for workflow in workflows
        for done, failed, queued in [sums[workflow.pk]]
    }


def stage_progress(workflows: Sequence[Workflow]) -> dict[int, Progress]:
    """The same by stage."""
    return {stage: progress for _, stage, progress in _rows(workflows)}


def _rows(workflows: Sequence[Workflow]) -> Iterator[tuple[int, int, Progress]]:
    """Workflow, stage and progress of each stage."""
    under_way = Chunk.objects.filter(
        workflow=OuterRef("workflow_id"), stage=OuterRef("pk"), counted=False
    ).order_by()
    stages = Stage.objects.filter(workflow__in=workflows).annotate(
        well_now=_sum(under_way, "well"),
        badly_now=_sum(under_way, "badly"),
        size_now=_sum(under_way, "size"),
    )
    columns = stages.values_list(
        *("workflow_id", "pk", "status", "size", "adopted", "well", "badly"),
        *("well_now", "badly_now", "size_now"),
    )
    deleting = {w.pk for w in workflows if w.delete_requested_at is not None}
    for pk, stage, status, size, adopted, well, badly, well_now, badly_now, size_now in columns:
        done, failed = adopted + well + well_now, badly + badly_now
        queued = size_now - well_now - badly_now if pk in deleting else size - done - failed
        released = status == StageStatus.RELEASED
        yield (
            pk,
            stage,
            Progress(total=size, done=done, failed=failed, queued=queued if released else 0),
        )


def _sum(chunks: "QuerySet[Chunk]", column: str) -> Coalesce:
    total = chunks.values("stage").annotate(total=Sum(F(column))).values("total")
    return Coalesce(Subquery(total), Value(0))


def _common(workflow: Workflow, progress: Progress) -> dict[str, Any]:
    times = {
        "createTime": workflow.created_at,
        "startTime": workflow.started_at,
        "endTime": workflow.ended_at,
    }
    entry: dict[str, Any] = {
        "id": workflow.pk,
        "name": workflow.name,
        "status": workflow.status,
        "events": {key: int(time.timestamp()) for key, time in times.items() if time is not None},
        "progress": {
            "total": progress.total,
            "done": progress.done,
            "failed": progress.failed,
            "queued": progress.queued,
            "waiting": progress.waiting,
        },
    }
    if workflow.status == WorkflowStatus.FAILED:
        entry["statusReason"] = FAILED_TEXT
    if workflow.status == WorkflowStatus.DELETED:
        entry["statusReason"] = DELETED_TEXT
    if workflow.labels:
        entry["labels"] = workflow.labels
    return entry
