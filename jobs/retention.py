"""What is removed when it is old enough: ended jobs with all that is theirs, input files, keys of requests, run times.

Owns the removal, in batches of bounded size, each one transaction, found through indexes: it costs what it removes,
never what there is. Objects go by an outbox row, so that a crash leaves none behind. Jobs of workflows go with their
workflow, which is not this room's affair; `remove_jobs` is what removes them. How old is old enough: the settings.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from hashlib import sha256

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import OuterRef, Subquery
from django.db.models.functions import Now

from jobs import hooks, outbox
from jobs.models import (
    Attempt,
    Event,
    IdempotencyKey,
    InputFile,
    Job,
    Kind,
    Label,
    Outbox,
    Output,
    Placement,
)
from jobs.objects import object_store
from jobs.states import TERMINAL, JobStatus

BATCH = 200
ROWS = 1000
# Objects that one outbox row names.
OBJECTS = 500
KEYS_KEPT = timedelta(days=7)
KINDS = 100_000
# Between the times of a file and of a job that were stored in one transaction.
MARGIN = timedelta(hours=1)


def remove_old() -> int:
    """Remove a batch of each kind of thing; how many rows at the top went. 0: nothing is old enough now."""
    removed = remove_old_keys()
    if settings.CONFIG.retention_jobs_days:
        removed += remove_old_jobs(age=timedelta(days=settings.CONFIG.retention_jobs_days))
        removed += remove_unused_inputs(age=timedelta(days=settings.CONFIG.retention_jobs_days))
    return removed + forget_kinds()


def remove_old_keys() -> int:
    """Forget requests that were sent with a key more than seven days ago."""
    old = IdempotencyKey.objects.filter(created_at__lt=Now() - KEYS_KEPT)
    some = old.order_by("created_at").values_list("pk", flat=True)[:ROWS]
    return IdempotencyKey.objects.filter(pk__in=list(some)).delete()[0]


def remove_old_jobs(*, age: timedelta) -> int:
    """Remove a batch of jobs that ended before, those that `leaveInQueue` keeps excepted. One index probe per user."""
    ended = Job.objects.filter(
        owner=OuterRef("pk"), workflow__isnull=True, ended_at__isnull=False
    ).order_by("ended_at")
    owners = User.objects.annotate(oldest=Subquery(ended.values("ended_at")[:1]))
    for owner in owners.filter(oldest__lt=Now() - age).order_by("oldest")[:ROWS]:
        jobs = Job.objects.filter(
            owner=owner, workflow__isnull=True, kept=False, ended_at__lt=Now() - age
        )
        if removed := remove_jobs(jobs.order_by("ended_at").values_list("pk", flat=True)[:BATCH]):
            return removed
    return 0


def remove_jobs(job_ids: Iterable[int]) -> int:
    """Remove these jobs, where they have ended, with everything that is theirs; how many. One transaction.

    Nothing that a node or a user still may say about them has an effect any more; they look like unknown ones.
    """
    with transaction.atomic():
        jobs = Job.objects.select_for_update().filter(pk__in=list(job_ids), status__in=TERMINAL)
        ids = list(jobs.order_by("pk").values_list("pk", flat=True))
        outputs = Output.objects.filter(job__in=ids)
        _put_objects(list(outputs.exclude(key="").values_list("key", flat=True)))
        Placement.objects.filter(attempt__job__in=ids).delete()
        for rows in (Attempt, Event, Label, Output):
            rows.objects.filter(job__in=ids).delete()
        Job.objects.filter(pk__in=ids).delete()
    return len(ids)


def _put_objects(keys: Sequence[str]) -> None:
    """Rows for the outbox that name objects nobody points at any more. An object is in one of them only."""
    parts = [list(keys[start : start + OBJECTS]) for start in range(0, len(keys), OBJECTS)]
    rows: dict[str, dict[str, object]] = {
        sha256(part[0].encode()).hexdigest(): {"keys": part} for part in parts
    }
    outbox.put(outbox.OBJECTS, rows)


def delete_objects(rows: Sequence[Outbox]) -> None:
    """Outbox handler. Raises ObjectStoreError; what is left is tried again."""
    store = object_store()
    for row in rows:
        for key in row.payload["keys"]:
            store.delete(key)
        outbox.settle(outbox.OBJECTS, [row.key])


def remove_unused_inputs(*, age: timedelta) -> int:
    """Remove input files that nothing has been submitted with for so long, and whose last users are removed as well."""
    old = InputFile.objects.filter(used_at__lt=Now() - age).order_by("used_at")
    needed: dict[int, datetime | None] = {}
    removed = 0
    for pk, owner, used_at in old.values_list("pk", "owner_id", "used_at")[:ROWS]:
        if owner not in needed:
            needed[owner] = oldest_use(owner)
        since = needed[owner]
        if since is None or since > used_at + MARGIN:
            # Somebody who submits with it right now has made it young: it stays.
            removed += InputFile.objects.filter(pk=pk, used_at=used_at).delete()[0]
    return removed


def oldest_use(owner: int) -> datetime | None:
    """When the owner's oldest job or workflow that is still there was submitted. A probe for each status."""
    firsts = [
        Job.objects.filter(owner=owner, workflow__isnull=True, status=status)
        .order_by("pk")
        .values_list("created_at", flat=True)
        .first()
        for status in JobStatus
    ]
    return min((at for at in (*firsts, *hooks.input_uses(owner)) if at), default=None)


def forget_kinds() -> int:
    """Keep KINDS run times at most: of which some go matters little, as they are learnt anew. The keys are random."""
    if Kind.objects.count() <= KINDS:
        return 0
    some = Kind.objects.order_by("pk").values_list("pk", flat=True)[:ROWS]
    return Kind.objects.filter(pk__in=list(some)).delete()[0]


def register() -> None:
    """Called when the app is ready."""
    outbox.on_topic(outbox.OBJECTS, delete_objects)
