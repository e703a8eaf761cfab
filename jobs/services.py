"""What users do with jobs: submit and delete. Each is one transaction; hints go out after its commit.

Status changes happen in `jobs.transition` alone; a job is born here, pending.
"""

from collections.abc import Iterable
from functools import partial

from django.contrib.auth.models import User
from django.db import transaction

from jobs.births import columns_of, queued_form, store_inputs, store_labels
from jobs.models import Event, Job
from jobs.queries import own_ids
from jobs.spec import JobDocument, stored_form
from jobs.states import JobStatus, Reason
from jobs.transition import delete_jobs as end_jobs
from prominence.bus import announce_queued
from prominence.errors import UnknownJob


def submit_job(*, owner: User, document: JobDocument) -> Job:
    """Queue a job: row, labels, input files and first event in one transaction; then wake the scheduler."""
    with transaction.atomic():
        job = Job.objects.create(
            owner=owner,
            name=document.name,
            spec=stored_form(document),
            **columns_of(owner.pk, document),
        )
        store_labels([job])
        store_inputs(owner.pk, document)
        Event.objects.create(
            job=job, after=JobStatus.PENDING, reason=Reason.SUBMITTED, actor=owner.username
        )
        transaction.on_commit(partial(announce_queued, [queued_form(job)]))
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
