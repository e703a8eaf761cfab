"""Which jobs a list shows: the query parameters as a value, and the rows for it (C27a-C27j).

Owns filters and their order. Reads only.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from django.http import QueryDict

from jobs.models import Job, JobQuerySet
from jobs.states import TERMINAL, JobStatus
from prominence.errors import BadRequest

MAXIMUM_ID = 2**63 - 1
UNLIMITED = -1
MAXIMUM_CONSTRAINTS = 20
_STATUS_WORDS = {"running": JobStatus.RUNNING, "idle": JobStatus.PENDING}
_NO = frozenset({"false", "0", "no"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """What to list. `ids` or `everything` mean any state; `newest`: finished ones, that many (-1: all).

    `workflow`: its jobs, whatever their state (C27e, D8).
    """

    ids: tuple[int, ...] | None = None
    workflow: int | None = None
    everything: bool = False
    newest: int | None = None
    status: JobStatus | None = None
    name: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    detail: bool = False


def parse_list_query(params: QueryDict) -> ListQuery:
    """The list asked for by the parameters of GET /jobs.

    Raises:
        BadRequest: a parameter has a value that cannot be used.
    """
    if any("\0" in text for _, texts in params.lists() for text in map(str, texts)):
        raise BadRequest("a parameter holds a NUL character")
    if len(params.getlist("constraint")) > MAXIMUM_CONSTRAINTS:
        raise BadRequest(f"at most {MAXIMUM_CONSTRAINTS} constraints are allowed")
    number = integer_of(params, "num", default=1, low=UNLIMITED)
    workflow = _workflow_of(params)
    return ListQuery(
        ids=parse_ids(str(params["id"])) if "id" in params and workflow is None else None,
        workflow=workflow,
        everything=is_set(params, "all"),
        newest=number if is_set(params, "completed") else None,
        status=_status_of(params),
        name=params.get("name"),
        labels=tuple(_constraint_of(text) for text in params.getlist("constraint")),
        detail=is_set(params, "detail"),
    )


def select_jobs(owner_id: int, query: ListQuery) -> JobQuerySet:
    """The rows of a list: finished ones newest first, all others oldest first."""
    jobs = Job.objects.of(owner_id)
    for key, value in query.labels:
        jobs = jobs.with_labels({key: value})
    if query.name is not None:
        jobs = jobs.filter(name=query.name)
    if query.ids is not None:
        return jobs.filter(pk__in=query.ids).order_by("pk")
    if query.workflow is not None:
        return _jobs_of_workflow(jobs.filter(workflow=query.workflow), query)
    jobs = jobs.alone()
    if query.everything:
        return jobs.order_by("pk")
    if query.newest is not None:
        finished = jobs.filter(status__in=TERMINAL, ended_at__isnull=False)
        finished = finished.order_by("-ended_at", "-pk")
        return finished if query.newest == UNLIMITED else finished[: query.newest]
    jobs = jobs.in_queue() if query.status is None else jobs.filter(status=query.status)
    return jobs.order_by("pk")


def _jobs_of_workflow(jobs: JobQuerySet, query: ListQuery) -> JobQuerySet:
    """Every state, unless only finished ones or one status are asked for (C27d, C27e)."""
    if query.newest is not None:
        jobs = jobs.filter(status__in=TERMINAL)
    elif query.status is not None:
        jobs = jobs.filter(status=query.status)
    return jobs.order_by("pk")


def find_job(owner_id: int, job_id: int) -> Job | None:
    """The caller's own job, or None: foreign ones do not exist for the caller (D3)."""
    return Job.objects.of(owner_id).filter(pk=job_id).first()


def own_ids(owner_id: int, job_ids: Iterable[int]) -> set[int]:
    """Those of `job_ids` that exist and are the caller's."""
    return set(Job.objects.of(owner_id).filter(pk__in=list(job_ids)).values_list("pk", flat=True))


def is_alive(owner_id: int, job_id: int) -> bool:
    """Has this job of this owner not ended? Its token lives as long (S116)."""
    return Job.objects.of(owner_id).active().filter(pk=job_id).exists()


def parse_ids(text: str) -> tuple[int, ...]:
    """`1,2,3` as numbers. Raises BadRequest."""
    return tuple(dict.fromkeys(parse_id(part) for part in text.split(",")))


def parse_id(text: str) -> int:
    """A job id as written in a path or parameter. Raises BadRequest."""
    if not (text.isascii() and text.isdigit()) or len(text) > 30:
        raise BadRequest("a job id must be an integer")
    return min(int(text), MAXIMUM_ID)


def is_set(params: QueryDict, name: str) -> bool:
    """A parameter that is there counts as true, whatever its value (C27c), unless it says no."""
    return name in params and str(params[name]).lower() not in _NO


def integer_of(params: QueryDict, name: str, *, default: int, low: int) -> int:
    """An integer parameter (C27j). Raises BadRequest."""
    text = params.get(name, "").strip() or str(default)
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or not low <= _bounded(text) <= MAXIMUM_ID:
        raise BadRequest(f"{name} must be an integer, {low} or more")
    return _bounded(text)


def _workflow_of(params: QueryDict) -> int | None:
    """`id=5&workflow=true`: 5."""
    if not is_set(params, "workflow"):
        return None
    if "id" not in params:
        raise BadRequest("a workflow id must be provided")
    return parse_id(str(params["id"]))


def _bounded(text: str) -> int:
    return int(text) if len(text) <= 30 else MAXIMUM_ID + 1


def _status_of(params: QueryDict) -> JobStatus | None:
    if "status" not in params:
        return None
    status = _STATUS_WORDS.get(str(params["status"]))
    if status is None:
        raise BadRequest("invalid status specified")
    return status


def _constraint_of(text: str) -> tuple[str, str]:
    """`key=value` (C13, C27h)."""
    key, equals, value = text.partition("=")
    if not equals or not key or "=" in value:
        raise BadRequest("Invalid constraint")
    return key, value
