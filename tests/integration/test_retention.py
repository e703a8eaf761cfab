"""What is removed when it is old enough, all of it and nothing else, a bounded batch at a time."""

import base64
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.db import connection
from django.db.models.functions import Now

from clouds import retention as nodes_retention
from clouds.enrolment import create_enrol_token
from clouds.models import EnrolToken, Incarnation
from clouds.outbox_loop import OutboxLoop
from clouds.reconciler import Reconciler
from clouds.states import IncarnationStatus
from jobs import retention
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
from jobs.output import store_piece
from jobs.services import clone_job, submit_job
from jobs.spec import parse_job
from jobs.states import JobStatus
from tests.integration.plain_node import PlainNode

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_server")]
DAY = timedelta(days=1)
FILE = {"filename": "a.txt", "content": base64.b64encode(b"data").decode()}


@pytest.fixture
def ada() -> User:
    return User.objects.create(username="ada")


def submit(owner: User, **fields: Any) -> Job:
    document = {"tasks": [{"image": "busybox"}], "labels": {"app": "x"}, **fields}
    return submit_job(owner=owner, document=parse_job(document))


def end(job: Job, *, days_ago: float, status: JobStatus = JobStatus.COMPLETED) -> Job:
    """As if it had run, printed a lot, and ended so long ago."""
    at = Now() - timedelta(days=days_ago)
    Job.objects.filter(pk=job.pk).update(
        status=status, queued=False, attempt=1, ended_at=at, created_at=at
    )
    attempt = Attempt.objects.create(job=job, number=1, ended_at=at)
    Placement.objects.create(
        attempt=attempt, incarnation=1, node_name="n", site="s",
        cpus=1, memory_mb=1, disk_mb=1, live=False,
    )  # fmt: skip
    for start, size in ((0, 100), (100, 20_000)):
        store_piece(
            job_id=job.pk, attempt=1, rank=0, stream="stdout", start=start, data=bytes(size)
        )
    return job


def test_old_jobs_go_with_everything_and_young_ones_stay(ada: User) -> None:
    old, young, active = end(submit(ada), days_ago=40), end(submit(ada), days_ago=20), submit(ada)
    kept = end(submit(ada, policies={"leaveInQueue": True}), days_ago=50)
    keys = dict(Output.objects.exclude(key="").values_list("job_id", "key"))

    assert retention.remove_old_jobs(age=30 * DAY) == 1
    assert retention.remove_old_jobs(age=30 * DAY) == 0

    assert {job.pk for job in Job.objects.all()} == {young.pk, active.pk, kept.pk}
    for rows in (Event, Label, Attempt, Output):
        assert not rows.objects.filter(job=old.pk).exists()
        assert rows.objects.filter(job=young.pk).exists()
    assert Placement.objects.count() == 2
    assert object_store().size(keys[old.pk])  # until the outbox has done it
    OutboxLoop().step()
    with pytest.raises(LookupError):
        object_store().size(keys[old.pk])
    assert object_store().size(keys[young.pk])
    assert not Outbox.objects.exists()


def test_active_jobs_are_never_removed(ada: User) -> None:
    job = submit(ada)
    Job.objects.update(created_at=Now() - 400 * DAY)
    assert retention.remove_jobs([job.pk]) == 0
    assert Job.objects.filter(pk=job.pk).exists()


def test_a_batch_is_bounded_and_the_next_goes_on(
    ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 3)
    bob = User.objects.create(username="bob")
    for owner in (ada, ada, ada, ada, bob):
        end(submit(owner), days_ago=40)
    removed = [retention.remove_old_jobs(age=30 * DAY) for _ in range(4)]
    assert sorted(removed) == [0, 1, 1, 3]


def test_finding_nothing_reads_no_history(ada: User) -> None:
    """On PostgreSQL the plan says so; on both, it is one query."""
    for _ in range(5):
        end(submit(ada), days_ago=1)
    queries: list[str] = []

    def note(execute: Any, sql: str, *details: Any) -> Any:
        queries.append(sql)
        return execute(sql, *details)

    with connection.execute_wrapper(note):
        assert retention.remove_old_jobs(age=30 * DAY) == 0
    assert len(queries) == 1


def test_input_goes_with_its_last_user(ada: User) -> None:
    job = submit(ada, inputs=[FILE])
    InputFile.objects.update(used_at=Now() - 40 * DAY)
    end(job, days_ago=40)
    assert retention.remove_unused_inputs(age=30 * DAY) == 0
    retention.remove_jobs([job.pk])
    assert retention.remove_unused_inputs(age=30 * DAY) == 1
    assert not InputFile.objects.exists()


@pytest.mark.parametrize("how", ["submitted", "cloned"])
def test_input_used_again_stays(ada: User, how: str) -> None:
    job = end(submit(ada, inputs=[FILE]), days_ago=40)
    InputFile.objects.update(used_at=Now() - 40 * DAY)
    if how == "submitted":
        submit(ada, inputs=[FILE])
    else:
        clone_job(owner=ada, job_id=job.pk)
    retention.remove_jobs([job.pk])
    assert retention.remove_unused_inputs(age=30 * DAY) == 0
    assert InputFile.objects.count() == 1


def test_keys_go_after_a_week(ada: User) -> None:
    for key, days in (("old", 8), ("young", 6)):
        row = IdempotencyKey.objects.create(owner=ada, key=key, digest="", made=1)
        IdempotencyKey.objects.filter(pk=row.pk).update(created_at=Now() - days * DAY)
    assert retention.remove_old_keys() == 1
    assert IdempotencyKey.objects.get().key == "young"


def test_run_times_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "KINDS", 5)
    monkeypatch.setattr(retention, "ROWS", 2)
    Kind.objects.bulk_create([Kind(pk=f"{n:032}") for n in range(8)])
    assert [retention.forget_kinds() for _ in range(3)] == [2, 2, 0]


def test_lives_that_are_long_over_go_and_their_tokens() -> None:
    node = PlainNode()
    first = Incarnation.objects.get()
    node.enrol(key=node.enrolment.key)
    EnrolToken.objects.update(expires_at=Now() - 31 * DAY)
    create_enrol_token(name="plain", site="here")
    Incarnation.objects.filter(pk=first.pk).update(dead_at=Now() - 31 * DAY)
    assert nodes_retention.remove_old() == 1  # the token; the life has not been cleared yet
    Incarnation.objects.filter(pk=first.pk).update(cleared_at=Now())
    assert nodes_retention.remove_old() == 1
    assert Incarnation.objects.get().status == IncarnationStatus.READY
    assert EnrolToken.objects.count() == 1


def test_reconciler_removes_batch_after_batch_only_when_it_is_told_to(
    ada: User, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    monkeypatch.setattr(retention, "BATCH", 1)
    for _ in range(3):
        end(submit(ada), days_ago=40)
    reconciler = Reconciler()
    reconciler.step()
    assert Job.objects.count() == 3
    settings.CONFIG = replace(django_settings.CONFIG, retention_jobs_days=30)
    reconciler = Reconciler()
    for _ in range(4):
        reconciler.step()
    assert not Job.objects.exists()
