"""What users do with jobs: submit and delete. Each is one transaction; hints go out after its commit.

Status changes happen in `jobs.transition` alone; a job is born here, pending.
"""

from collections.abc import Iterable
from functools import partial

from django.contrib.auth.models import User
from django.db import transaction

from jobs.models import Event, InputFile, Job, Label
from jobs.queries import own_ids
from jobs.spec import JobDocument, kind_of, shape_of, stored_form
from jobs.states import JobStatus, Reason
from jobs.transition import delete_jobs as end_jobs
from prominence.bus import Queued, announce_queued
from prominence.errors import UnknownJob


def submit_job(*, owner: User, document: JobDocument) -> Job:
    """Queue a job: row, labels, input files and first event in one transaction; then wake the scheduler."""
    with transaction.atomic():
        job = Job.objects.create(
            owner=owner,
            name=document.name,
            spec=stored_form(document),
            labels=document.labels,
            shape=shape_of(document),
            kind=kind_of(owner.pk, document),
            image=document.tasks[0].image,
            command=document.tasks[0].cmd,
            maximum_retries=document.policies.maximum_retries,
        )
        _store_labels(job, document)
        _store_inputs(owner, document)
        Event.objects.create(
            job=job, after=JobStatus.PENDING, reason=Reason.SUBMITTED, actor=owner.username
        )
        transaction.on_commit(partial(announce_queued, [_queued(job)]))
    return job


def delete_job(*, owner: User, job_id: int, actor: str) -> None:
    """Delete one job; nothing changes if it has ended or is being deleted already.

    Raises:
        UnknownJob: there is none, or it belongs to somebody else (D2, D3).
    """
    if not own_ids(owner.pk, [job_id]):
        raise UnknownJob
    end_jobs([job_id], actor=actor)


def delete_jobs(*, owner: User, job_ids: Iterable[int], actor: str) -> None:
    """Delete several jobs (C26), or none at all when one of them is not the caller's.

    Raises:
        UnknownJob: there is no such job among the caller's.
    """
    wanted = set(job_ids)
    if own_ids(owner.pk, wanted) != wanted:
        raise UnknownJob("No such job(s)")
    end_jobs(wanted, actor=actor)


def _store_labels(job: Job, document: JobDocument) -> None:
    Label.objects.bulk_create(
        [Label(job=job, key=key, value=value) for key, value in document.labels.items()]
    )


def _store_inputs(owner: User, document: JobDocument) -> None:
    """Keep each content once per owner, whoever else is storing it right now; in digest order, against deadlocks."""
    contents = {file.sha256: file.content for file in document.inputs}
    InputFile.objects.bulk_create(
        [
            InputFile(owner=owner, sha256=digest, content=data)
            for digest, data in sorted(contents.items())
        ],
        ignore_conflicts=True,
    )


def _queued(job: Job) -> Queued:
    return Queued(
        owner=job.owner_id, shape=job.shape, priority=job.priority, job=job.pk, kind=job.kind
    )
