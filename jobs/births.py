"""How jobs come into being: the columns that follow from a document, and many instances of one template at once.

Used by `jobs.services` for single jobs and by `workflows` for the instances of a stage: a column that follows from the
document belongs into `columns_of`, and both have it. Callers hold the transaction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from django.db import transaction
from django.db.models.functions import Now

from jobs.models import Chunk, Event, InputFile, Job, Label, PlacementPolicy
from jobs.shapes import parse_shape, shape_with
from jobs.spec import JobDocument, kind_of, memory_mb, shape_of
from jobs.states import JobStatus, Reason
from prominence.bus import Queued, announce_queued

BATCH = 500


def columns_of(owner_id: int, document: JobDocument) -> dict[str, Any]:
    """What `Job` has as columns of its own of a document, beside name and spec; JSON can hold all of it."""
    return {
        "labels": document.labels,
        "shape": shape_of(document),
        "kind": kind_of(owner_id, document),
        "image": document.tasks[0].image,
        "command": document.tasks[0].cmd,
        "maximum_retries": document.policies.maximum_retries,
        "retry_memory_factor": document.policies.retry_memory_factor,
        "priority": document.policies.priority,
        "exit_code_is_well": document.policies.report_job_success_on_task_failure,
        "kept": document.policies.leave_in_queue,
        "notifications": len(document.notifications),
        "queue_minutes": document.policies.maximum_time_in_queue,
    }


def row_of(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Columns as they are stored: the time in the queue counts from now (S101)."""
    row = dict(columns)
    minutes = row.pop("queue_minutes", 0)
    if minutes > 0:
        row["queue_deadline"] = Now() + timedelta(minutes=minutes)
    return row


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One job made from a template. `spec`: a stored form (`jobs.spec.stored_form`). `columns`: of `columns_of`."""

    chunk: Chunk
    columns: Mapping[str, Any]
    number: int
    name: str
    spec: Mapping[str, Any]


def create_instances(*, owner_id: int, instances: Sequence[Instance], actor: str) -> list[Job]:
    """Queue the jobs of some chunks: rows, labels, first events in the caller's transaction; hints after its commit."""
    jobs = Job.objects.bulk_create(
        [_instance(owner_id, instance) for instance in instances], batch_size=BATCH
    )
    store_labels(jobs)
    store_policies(jobs)
    Event.objects.bulk_create(
        [
            Event(job=job, after=JobStatus.PENDING, reason=Reason.SUBMITTED, actor=actor)
            for job in jobs
        ],
        batch_size=BATCH,
    )
    transaction.on_commit(partial(announce_queued, [queued_form(job) for job in jobs]))
    return jobs


def copy_columns(job: Job) -> dict[str, Any]:
    """The columns of `columns_of`, from a job instead of its document."""
    policies = job.spec.get("policies", {})
    copied = (
        *("labels", "kind", "image", "command", "priority", "exit_code_is_well"),
        *("maximum_retries", "retry_memory_factor"),
    )
    return {name: getattr(job, name) for name in copied} | {
        # A retry may have given this one more memory than its document asks for.
        "shape": shape_with(job.shape, memory_mb(job.spec["resources"]["memory"])),
        "kept": policies.get("leaveInQueue", False),
        "notifications": len(job.spec.get("notifications", ())),
        "queue_minutes": policies.get("maximumTimeInQueue", 0),
    }


def _instance(owner_id: int, instance: Instance) -> Job:
    own = {
        "command": instance.spec["tasks"][0].get("cmd", ""),
        "kept": False,
    }  # U32: the workflow may be kept
    return Job(
        **row_of({**instance.columns, **own}),
        owner_id=owner_id,
        name=instance.name,
        spec=instance.spec,
        workflow=instance.chunk.workflow,
        stage=instance.chunk.stage,
        chunk=instance.chunk,
        instance=instance.number,
    )


def store_labels(jobs: Sequence[Job]) -> None:
    """Labels as rows, for finding jobs by them."""
    Label.objects.bulk_create(
        [Label(job=job, key=key, value=value) for job in jobs for key, value in job.labels.items()]
    )


def store_policies(jobs: Sequence[Job]) -> None:
    """Placement policies as rows, for the scheduler; none for most jobs."""
    documents = {
        parse_shape(job.shape).policy: job.spec["policies"]["placement"]
        for job in jobs
        if ".@" in job.shape
    }
    if documents:
        PlacementPolicy.objects.bulk_create(
            [PlacementPolicy(key=key, document=document) for key, document in documents.items()],
            ignore_conflicts=True,
        )


def store_inputs(owner_id: int, document: JobDocument) -> None:
    """Keep each content once per owner, whoever else is storing or removing it right now; in digest order, against
    deadlocks. One that is there is marked as used now, so that retention does not take it away.
    """
    contents = {file.sha256: file.content for file in document.inputs}
    InputFile.objects.bulk_create(
        [
            InputFile(owner_id=owner_id, sha256=digest, content=data, used_at=Now())
            for digest, data in sorted(contents.items())
        ],
        update_conflicts=True,
        unique_fields=["owner", "sha256"],
        update_fields=["used_at"],
    )


def touch_inputs(owner_id: int, spec: Mapping[str, Any]) -> None:
    """Mark the inputs of a stored form as used now. In the transaction that makes a job of it."""
    digests = [file["sha256"] for file in spec.get("inputs", ())]
    if digests:
        InputFile.objects.filter(owner_id=owner_id, sha256__in=digests).update(used_at=Now())


def queued_form(job: Job) -> Queued:
    """The scheduler's key for a job that waits."""
    return Queued(
        owner=job.owner_id, shape=job.shape, priority=job.priority, job=job.pk, kind=job.kind
    )
