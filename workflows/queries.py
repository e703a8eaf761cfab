"""Which workflows a list shows, and which job a path names (C27, C36-C38, D11). Reads only."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q, QuerySet

from jobs.models import Chunk, Job
from jobs.queries import UNLIMITED, ListQuery
from prominence.errors import BadRequest
from workflows import ranges
from workflows.expand import unfinished
from workflows.models import Stage, Workflow, WorkflowLabel
from workflows.states import ACTIVE, TERMINAL, StageStatus, WorkflowStatus

NO_JOB = "there is no job {} in this workflow"


def oldest_workflow(owner_id: int) -> datetime | None:
    """When the user's oldest workflow was submitted: its templates name input files. A probe for each status."""
    firsts = [
        Workflow.objects.filter(owner=owner_id, status=status)
        .order_by("pk")
        .values_list("created_at", flat=True)
        .first()
        for status in WorkflowStatus
    ]
    return min((at for at in firsts if at), default=None)


def select_workflows(owner_id: int, query: ListQuery) -> "QuerySet[Workflow]":
    """The rows of a list, by the rules of jobs: finished ones newest first, all others oldest first."""
    workflows = Workflow.objects.filter(owner=owner_id).defer("head")
    for key, value in query.labels:
        labelled = WorkflowLabel.objects.filter(key=key, value=value)
        workflows = workflows.filter(pk__in=labelled.values("workflow_id"))
    if query.name is not None:
        workflows = workflows.filter(name=query.name)
    if query.ids is not None:
        return workflows.filter(pk__in=query.ids).order_by("pk")
    if query.everything:
        return workflows.order_by("pk")
    if query.newest is not None:
        finished = workflows.filter(status__in=TERMINAL, ended_at__isnull=False)
        finished = finished.order_by("-ended_at", "-pk")
        return finished if query.newest == UNLIMITED else finished[: query.newest]
    if query.status is not None:
        return workflows.filter(status=query.status).order_by("pk")
    kept = Q(leave_in_queue=True) & ~Q(status__in=ACTIVE)
    return workflows.filter(Q(status__in=ACTIVE) | kept).order_by("pk")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a path below a workflow names: an instance of a job, and a node of it."""

    job: str
    instance: int | None
    rank: int


def parse_place(path: str, *, node: str, workflow_name: str) -> list[Place]:
    """Readings of `<job>` or `<job>/<n>` with `node`, the best first.

    A leading `<workflow name>/` is dropped (D11). A published client swaps job and node: when `node` is no number, it
    is the job, and the path is the node and perhaps the instance (C38).
    """
    if node and not _is_number(node):
        rank, _, instance = path.partition("/")
        if not _is_number(rank) or (instance and not _is_number(instance)):
            raise BadRequest("node must be an integer, 0 or more")
        return [Place(job=node, instance=int(instance) if instance else None, rank=int(rank))]
    rank_number = int(node or 0)
    paths = [path]
    if workflow_name and path.startswith(f"{workflow_name}/"):
        paths.append(path.removeprefix(f"{workflow_name}/"))
    places = []
    for text in paths:
        places.append(Place(job=text, instance=None, rank=rank_number))
        job, _, number = text.rpartition("/")
        if job and _is_number(number):
            places.append(Place(job=job, instance=int(number), rank=rank_number))
    return places


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def find_instance(workflow: Workflow, places: Sequence[Place]) -> tuple[Job, int]:
    """The job that the first fitting reading names, in this workflow or the one it adopted it from, and the rank.

    Raises:
        BadRequest: there is none, or not yet; the text says why.
    """
    names = {place.job for place in places}
    stages = {stage.name: stage for stage in workflow.stages.filter(name__in=names)}
    for place in places:
        stage = stages.get(place.job)
        if stage is not None and not (place.instance and not stage.is_array):
            return _instance_of(stage, place), place.rank
    raise BadRequest(NO_JOB.format(f'"{places[0].job}"'))


def _instance_of(stage: Stage, place: Place) -> Job:
    number = place.instance
    if number is None:
        if stage.is_array and stage.size > 1:
            raise BadRequest(
                f'job "{stage.name}" has instances 0 to {stage.size - 1}: name one of them,'
                f" as in {stage.name}/0"
            )
        number = 0
    if number >= stage.size:
        raise BadRequest(
            f'job "{stage.name}" has {stage.size} instances, numbered from 0: there is no {number}'
        )
    at: Stage | None = stage
    while at is not None:
        job = Job.objects.filter(stage=at.pk, instance=number).first()
        if job is not None:
            return job
        at = at.origin if _is_adopted(at, number) else None
    raise BadRequest(f"{stage.instance_name(number)} has not been created yet: {_why(stage)}")


def _is_adopted(stage: Stage, number: int) -> bool:
    """Did this instance, which has no row here, end well in the origin? If its chunk still has to run, who knows."""
    if stage.origin is None:
        return False
    chunk = number // ranges.CHUNK
    if Chunk.objects.filter(stage=stage.pk, number=chunk).exists():
        return True
    runs_later = any(first <= chunk <= last for first, last in stage.to_run)
    return not runs_later or number not in unfinished(stage.origin, chunk, stage.size)


def _why(stage: Stage) -> str:
    match stage.status:
        case StageStatus.WAITING:
            return f"{stage.name} waits for the jobs it depends on"
        case StageStatus.SKIPPED:
            return f"{stage.name} is not attempted, as a job it depends on failed or was deleted"
    return "it is made when those before it have begun"
