"""What users do with jobs: submit, clone, remove and delete. Each is one transaction; hints go out after its commit.

Status changes happen in `jobs.transition` alone; a job is born here, pending.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import DataError, IntegrityError, transaction

from jobs.births import (
    columns_of,
    copy_columns,
    queued_form,
    row_of,
    store_inputs,
    store_labels,
    store_policies,
    touch_inputs,
)
from jobs.models import Event, Job
from jobs.notifications import EMAIL, address_of
from jobs.queries import find_job, own_ids
from jobs.spec import JobDocument, stored_form
from jobs.states import JobStatus, Reason
from jobs.transition import delete_jobs as end_jobs
from prominence.bus import announce_queued
from prominence.combining import Combiner
from prominence.errors import BadRequest, InvalidDocument, Problem, UnknownJob

# More than an API process has threads by default.
TOGETHER = 32


def submit_job(*, owner: User, document: JobDocument) -> Job:
    """Queue a job: row, labels, input files and first event in one transaction; then wake the scheduler.

    Jobs that come at the same time share a transaction, unless the caller has one of its own.

    Raises:
        InvalidDocument: it asks for e-mail that cannot be sent.
    """
    _check_notifications(owner, document)
    birth = _Birth(
        owner=owner,
        name=document.name,
        spec=stored_form(document),
        columns=columns_of(owner.pk, document),
    )
    if document.inputs or transaction.get_connection().in_atomic_block:
        with transaction.atomic():
            store_inputs(owner.pk, document)
            return _create([birth])[0]
    return _create_together(birth)


def clone_job(*, owner: User, job_id: int) -> Job:
    """Queue a new job from the same document, whatever became of the first one (C24, U38).

    Raises:
        UnknownJob: there is none, or it belongs to somebody else.
    """
    with transaction.atomic():
        job = find_job(owner.pk, job_id)
        if job is None:
            raise UnknownJob
        touch_inputs(owner.pk, job.spec)
        birth = _Birth(owner=owner, name=job.name, spec=job.spec, columns=copy_columns(job))
        return _create([birth])[0]


def remove_job(*, owner: User, job_id: int) -> None:
    """Let a job go that `leaveInQueue` keeps in its user's list (C25, S102); one that is active, once it ends.

    Raises:
        UnknownJob: there is none, or it belongs to somebody else.
        BadRequest: nothing keeps it.
    """
    if not own_ids(owner.pk, [job_id]):
        raise UnknownJob
    if not Job.objects.filter(pk=job_id, kept=True).update(kept=False):
        raise BadRequest("Job is no longer in the queue")


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


def _check_notifications(owner: User, document: JobDocument) -> None:
    """Refuse e-mail that could never be sent (U20)."""
    problems: list[Problem] = []
    for index, item in enumerate(document.notifications):
        place = f"/notifications/{index}/type"
        if item.type == EMAIL and not settings.EMAIL_HOST:
            text = '"type": "email" is not available: this server sends no e-mail'
            problems.append({"pointer": place, "code": "notAvailable", "message": text})
        elif item.type == EMAIL and not address_of(owner.email, owner.username):
            text = "there is no e-mail address for this user"
            problems.append({"pointer": place, "code": "address", "message": text})
    if problems:
        raise InvalidDocument(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Birth:
    """What a new job is made of."""

    owner: User
    name: str
    spec: Mapping[str, Any]
    columns: Mapping[str, Any]


def _create(births: Sequence[_Birth]) -> list[Job]:
    """The rows of new jobs, all or none; hints after the commit."""
    with transaction.atomic():
        jobs = Job.objects.bulk_create(
            [
                Job(owner=birth.owner, name=birth.name, spec=birth.spec, **row_of(birth.columns))
                for birth in births
            ]
        )
        store_labels(jobs)
        store_policies(jobs)
        Event.objects.bulk_create(
            [
                Event(
                    job=job,
                    after=JobStatus.PENDING,
                    reason=Reason.SUBMITTED,
                    actor=job.owner.username,
                )
                for job in jobs
            ]
        )
        transaction.on_commit(partial(announce_queued, [queued_form(job) for job in jobs]))
    return jobs


# Not when the connection is lost: the commit may have arrived, and nothing may be made twice.
_create_together = Combiner(_create, limit=TOGETHER, harmless=(DataError, IntegrityError))
