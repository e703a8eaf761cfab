"""The control plane's Celery tasks: signals, releases, deletions of chunks. Each may run any number of times."""

from typing import Any

from jobs import outbox
from jobs.models import Chunk, Job
from jobs.states import ACTIVE
from jobs.transition import delete_jobs
from prominence.celery import app
from workflows import canvas
from workflows.advance import DELETE_CHUNK, release_join
from workflows.expand import expand_workflow
from workflows.models import Join, Workflow


@app.task(name=canvas.CHUNK_ENDED)  # type: ignore[untyped-decorator]
def chunk_ended(member: str, **_: Any) -> None:
    """A header of a join's chord: that it runs is the signal."""


@app.task(name=canvas.RELEASE)  # type: ignore[untyped-decorator]
def release(join_id: int, **_: Any) -> None:
    """The body of a join's chord."""
    if release_join(join_id):
        expand_workflow(Join.objects.values_list("workflow_id", flat=True).get(pk=join_id))


@app.task(name=canvas.DELETE_CHUNK)  # type: ignore[untyped-decorator]
def delete_chunk(chunk_id: int, **_: Any) -> None:
    """Have the jobs of a chunk of a deleted workflow deleted."""
    chunk = Chunk.objects.get(pk=chunk_id)
    owner = Workflow.objects.values_list("owner__username", flat=True).get(pk=chunk.workflow)
    jobs = Job.objects.filter(stage=chunk.stage, chunk=chunk, status__in=ACTIVE)
    delete_jobs(jobs.values_list("pk", flat=True), actor=owner)
    outbox.settle(DELETE_CHUNK, [str(chunk_id)])
