"""`GET /jobs/{id}/why`: why a job is not running. Reads the job, its place in the queue and the machines: four queries.

Owns the answer's form. What keeps it from each machine is said by `clouds.why`.
"""

from typing import Any

from django.db.models import Q

from clouds.machines import known_machines, need_of
from clouds.why import by_site, changes, obstacles
from jobs.fields import UDOCKER
from jobs.models import Attempt, Job
from jobs.spec import runtime_for
from jobs.states import JobStatus, Reason

SHOWN_NODES = 100
COUNTED = 10_000


def explain(job: Job) -> dict[str, Any]:
    """The answer for one job."""
    answer: dict[str, Any] = {"id": job.pk, "status": job.status}
    if job.status != JobStatus.PENDING:
        return answer | {"code": "notPending", "message": _ended(job)}
    if not job.queued:
        return answer | _assigned(job)
    return answer | _waiting(job)


def _ended(job: Job) -> str:
    text = Reason(job.reason).label if job.reason else ""
    return f"the job is {job.status}" + (f": {text}" if text else "")


def _assigned(job: Job) -> dict[str, Any]:
    """It has a node, which has not begun its first task yet."""
    attempt = Attempt.objects.filter(job=job, number=job.attempt).first()
    placement = attempt.placements.order_by("rank").first() if attempt else None
    if attempt is None or placement is None:
        return {"code": "starting", "message": "a node is about to get it"}
    return {
        "code": "starting",
        "message": "a node has it and makes it ready: input files and images come first",
        "site": placement.site,
        "node": placement.node_name,
        "attempt": {"number": attempt.number, "status": attempt.status},
    }


def _waiting(job: Job) -> dict[str, Any]:
    need, machines = need_of(job.shape), known_machines()
    fits = sum(machine.can_run(need) for machine in machines)
    answer: dict[str, Any] = {
        **_headline(fits, any(machine.could_run(need) for machine in machines), bool(machines)),
        "ahead": _ahead(job),
        "sites": by_site(need, machines),
        "nodes": _nodes(job, machines),
        "changes": [] if fits else changes(need, machines, runtime_is_free=_runtime_is_free(job)),
    }
    if job.reason:
        answer["lastAttempt"] = {"number": job.attempt, "reason": Reason(job.reason).label}
    if job.queue_deadline is not None:
        answer["failsAt"] = int(job.queue_deadline.timestamp())
    return answer


def _headline(fits: int, possible: bool, known: bool) -> dict[str, Any]:
    if fits:
        return {"code": "turn", "message": f"{fits} nodes have room: it waits for its turn"}
    if possible:
        return {"code": "busy", "message": "nodes that could run it are busy or away"}
    if known:
        return {"code": "noResources", "message": "no known node could run it, even if idle"}
    return {"code": "noNodes", "message": "no node is known yet"}


def _nodes(job: Job, machines: Any) -> list[dict[str, Any]]:
    need = need_of(job.shape)
    return [
        {
            "site": machine.site,
            "node": machine.name,
            "reasons": [obstacle.document for obstacle in obstacles(need, machine)],
        }
        for machine in machines[:SHOWN_NODES]
    ]


def _ahead(job: Job) -> int:
    """Jobs of the same owner and shape that go first; not counted beyond COUNTED."""
    before = Job.objects.filter(queued=True, owner_id=job.owner_id, shape=job.shape).filter(
        Q(priority__gt=job.priority) | Q(priority=job.priority, pk__lt=job.pk)
    )
    return before.order_by()[:COUNTED].count()


def _runtime_is_free(job: Job) -> bool:
    """Was udocker asked for although the images would run with singularity?"""
    return all(runtime_for(task["image"]) != UDOCKER for task in job.spec["tasks"])
