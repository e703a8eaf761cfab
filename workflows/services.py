"""What users do with workflows: submit, delete, rerun, clone, remove. Each is one transaction; hints go out after it.

Status changes happen in `workflows.advance` alone.
"""

from collections.abc import Iterable
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction

from prominence.bus import announce_workflows
from prominence.errors import BadRequest
from workflows import advance
from workflows.build import remaining_chunks, write_again, write_document
from workflows.models import Stage, Workflow
from workflows.spec import WorkflowDocument
from workflows.states import TERMINAL

MISSING = "Workflow does not exist"


class UnknownWorkflow(BadRequest):
    """No such workflow, or not the caller's: the two look alike (D2, D3)."""

    code = "unknownWorkflow"

    def __init__(self, message: str = MISSING) -> None:
        super().__init__(message)


def submit_workflow(*, owner: User, document: WorkflowDocument) -> Workflow:
    """Store a workflow and release what waits for nothing."""
    with transaction.atomic():
        return _begin(write_document(owner.pk, document))


def rerun_workflow(*, owner: User, workflow_id: int) -> Workflow:
    """A new workflow that adopts what ended well and runs the rest (S140, S141).

    Raises:
        UnknownWorkflow: there is none, or it is somebody else's.
        BadRequest: it has not ended.
    """
    with transaction.atomic():
        earlier = _find_ended(owner, workflow_id)
        return _begin(write_again(earlier, adopt=True))


def clone_workflow(*, owner: User, workflow_id: int) -> Workflow:
    """The same workflow again from the start (U38). Raises UnknownWorkflow."""
    with transaction.atomic():
        return _begin(write_again(_find(owner, workflow_id), adopt=False))


def delete_workflows(*, owner: User, workflow_ids: Iterable[int]) -> None:
    """Delete workflows with all their jobs; one that has ended stays as it is. Raises UnknownWorkflow."""
    wanted = set(workflow_ids)
    own = Workflow.objects.filter(owner=owner, pk__in=wanted)
    if set(own.values_list("pk", flat=True)) != wanted:
        raise UnknownWorkflow(MISSING if len(wanted) == 1 else "No such workflow(s)")
    for workflow_id in sorted(wanted):
        advance.stop(workflow_id)


def remove_workflow(*, owner: User, workflow_id: int) -> None:
    """Take an ended workflow from the queue in which `leaveInQueue` keeps it (U39).

    Raises:
        UnknownWorkflow, or BadRequest when it is not in the queue.
    """
    _find(owner, workflow_id)
    kept = Workflow.objects.filter(owner=owner, pk=workflow_id, leave_in_queue=True)
    if not kept.update(leave_in_queue=False):
        raise BadRequest("Workflow is no longer in the queue")


def plan_rerun(*, owner: User, workflow_id: int) -> list[dict[str, Any]]:
    """What a rerun would run and keep, and why, job by job. Changes nothing. Raises as `rerun_workflow`."""
    earlier = _find_ended(owner, workflow_id)
    stages = list(earlier.stages.order_by("position").defer("template", "columns"))
    return [_planned(stage) for stage in stages] if remaining_chunks(stages) else []


def _planned(stage: Stage) -> dict[str, Any]:
    kept = stage.adopted + stage.well
    never = stage.size - kept - stage.badly
    reasons = [
        text
        for count, text in (
            (stage.badly, f"{stage.badly} ended badly"),
            (never, f"{never} never attempted"),
            (kept, f"{kept} ended well and kept"),
        )
        if count
    ]
    return {
        "name": stage.name,
        "total": stage.size,
        "run": stage.size - kept,
        "keep": kept,
        "reason": ", ".join(reasons),
    }


def plan_submission(document: WorkflowDocument) -> list[dict[str, Any]]:
    """What a submission would run, job by job. Changes nothing."""
    parents: dict[str, list[str]] = {}
    for parent, children in document.dependencies.items():
        for child in children:
            parents.setdefault(child, []).append(parent)
    return [
        {
            "name": job.name,
            "total": document.size_of(job),
            "run": document.size_of(job),
            "keep": 0,
            "reason": f"after {', '.join(parents[job.name])}" if job.name in parents else "at once",
        }
        for job in document.jobs
    ]


def _begin(workflow: Workflow) -> Workflow:
    advance.begin(workflow.pk)
    transaction.on_commit(announce_workflows)
    return workflow


def _find(owner: User, workflow_id: int) -> Workflow:
    workflow = Workflow.objects.filter(owner=owner, pk=workflow_id).first()
    if workflow is None:
        raise UnknownWorkflow
    return workflow


def _find_ended(owner: User, workflow_id: int) -> Workflow:
    workflow = _find(owner, workflow_id)
    if workflow.status not in TERMINAL:
        raise BadRequest("Workflow has not finished")
    return workflow
