"""Clone, remove and what policies do to rows and lists (C24, C25, C27a, S99-S102, U29, U38, U39)."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import User

from jobs.models import InputFile, Job, Label, PlacementPolicy
from jobs.states import TERMINAL, JobStatus, Reason
from tests.contract.conftest import PI, Api, MakeJob, golden
from tests.contract.test_jobs_api import FULL

pytestmark = pytest.mark.django_db
KEPT = PI | {"policies": {"leaveInQueue": True}}


@pytest.mark.contract("C24", "U38")
@pytest.mark.parametrize("status", JobStatus)
@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_clone_makes_the_same_job_anew(
    api: Api, make_job: MakeJob, status: JobStatus, method: str
) -> None:
    job = make_job(FULL, status=status)

    response = api.client.generic(method, f"/api/v1/jobs/{job.pk}/clone")

    clone = Job.objects.exclude(pk=job.pk).get()
    assert (response.status_code, response.content) == (201, b'{"id":%d}' % clone.pk)
    assert (clone.status, clone.queued, clone.attempt, clone.ended_at) == ("pending", True, 0, None)
    for column in ("spec", "name", "labels", "shape", "kind", "image", "maximum_retries"):
        assert getattr(clone, column) == getattr(job, column)
    assert Label.objects.filter(job=clone).count() == 1
    assert InputFile.objects.count() == 1
    described = [api.get(f"/jobs/{key}").json()[0] for key in (clone.pk, job.pk)]
    assert described[0]["inputs"] == described[1]["inputs"]


def test_clone_of_an_unknown_or_foreign_job_is_refused_d3(
    api_of_bob: Api, make_job: MakeJob
) -> None:
    for key in (make_job().pk, 4711):
        response = api_of_bob.client.put(f"/api/v1/jobs/{key}/clone")
        assert (response.status_code, response.json()) == (400, golden("error-unknown-job"))
    assert Job.objects.count() == 1


def test_ended_jobs_stay_in_the_list_until_they_are_removed_s102(
    api: Api, make_job: MakeJob
) -> None:
    kept = [make_job(KEPT, status=status).pk for status in sorted(TERMINAL)]
    for status in TERMINAL:
        make_job(status=status)
    waiting = make_job().pk
    assert api.ids() == [*kept, waiting]

    response = api.client.put(f"/api/v1/jobs/{kept[0]}/remove")

    assert (response.status_code, response.json()) == (200, {})
    assert api.ids() == [*kept[1:], waiting]
    assert kept[0] in api.ids("?completed=true&num=-1")


def test_remove_of_an_active_job_lets_it_go_once_it_ends_c25(api: Api, make_job: MakeJob) -> None:
    job = make_job(KEPT)
    assert api.client.put(f"/api/v1/jobs/{job.pk}/remove").status_code == 200

    Job.objects.update(status=JobStatus.COMPLETED)

    assert api.ids() == []


def test_remove_of_what_is_not_kept_is_refused_u39(api: Api, make_job: MakeJob) -> None:
    response = api.client.put(f"/api/v1/jobs/{make_job().pk}/remove")

    assert (response.status_code, response.json()) == (400, golden("error-not-in-queue"))


def test_remove_of_a_foreign_job_is_refused_d3(api_of_bob: Api, make_job: MakeJob) -> None:
    job = make_job(KEPT)

    response = api_of_bob.client.put(f"/api/v1/jobs/{job.pk}/remove")

    assert (response.status_code, response.json()) == (400, golden("error-unknown-job"))
    assert Job.objects.get().kept


@pytest.mark.parametrize(("minutes", "deadline"), [(0, None), (-1, None), (600, 600)])
def test_time_in_the_queue_counts_from_submission_s101(
    make_job: MakeJob, minutes: int, deadline: int | None
) -> None:
    job = make_job(PI | {"policies": {"maximumTimeInQueue": minutes}})

    expected = deadline and job.queued_at + timedelta(minutes=deadline)
    assert job.queue_deadline == expected


def test_priority_is_stored_for_the_scheduler_u29(make_job: MakeJob) -> None:
    assert make_job(PI | {"policies": {"priority": -7}}).priority == -7


@pytest.mark.contract("S103", "C47")
def test_placement_is_kept_once_wherever_it_was_given(
    api: Api, make_job: MakeJob, bob: User
) -> None:
    placement = {"requirements": {"regions": ["Alpha"]}}

    jobs = [
        make_job(PI | {"placement": placement}),
        make_job(PI | {"policies": {"placement": placement}}, owner=bob),
    ]

    assert jobs[0].shape == jobs[1].shape
    assert PlacementPolicy.objects.get().document == placement
    assert api.get(f"/jobs/{jobs[0].pk}").json()[0]["policies"] == {"placement": placement}


@pytest.mark.contract("U20")
def test_secret_of_a_webhook_is_never_shown(api: Api, make_job: MakeJob) -> None:
    hook = {"event": "jobFinished", "type": "webhook", "url": "https://example.org/x"}
    job = make_job(PI | {"notifications": [hook | {"secret": "0123456789abcdef"}]})

    answer = api.get(f"/jobs/{job.pk}")

    assert answer.json()[0]["notifications"] == [hook | {"secret": "***"}]
    assert job.spec["notifications"][0]["secret"] not in answer.content.decode()


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (Reason.NO_RESOURCES, "No matching resources"),
        (Reason.QUEUE_TIME, "Maximum time queued was exceeded"),
    ],
)
def test_job_that_never_started_says_why_s151(
    api: Api, make_job: MakeJob, reason: Reason, text: str
) -> None:
    job = make_job()
    Job.objects.update(status=JobStatus.FAILED, reason=reason, queued=False)

    entry = api.get(f"/jobs/{job.pk}").json()[0]

    assert (entry["status"], entry["statusReason"]) == ("failed", text)
    assert "startTime" not in entry["events"]


@pytest.mark.parametrize("action", ["clone", "remove"])
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_actions_take_put_only_c9(api: Api, make_job: MakeJob, action: str, method: str) -> None:
    response = api.client.generic(method, f"/api/v1/jobs/{make_job().pk}/{action}")

    assert response.status_code == 405
    assert method in response.json()["error"]
