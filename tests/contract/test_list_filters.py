"""What GET /jobs lists for which parameters (C12, C13, C27a-C27j), and at what cost."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User

from jobs.models import Job
from jobs.states import JobStatus
from tests.contract.conftest import ENDED, PI, Api, MakeJob

pytestmark = pytest.mark.django_db


@pytest.fixture
def job_ids(make_job: MakeJob, bob: User) -> dict[str, int]:
    """A job in each state, ended one second after the other, and one of somebody else."""
    ids = {str(status): make_job(status=status).pk for status in JobStatus}
    for second, status in enumerate(("completed", "deleted", "killed", "failed")):
        Job.objects.filter(pk=ids[status]).update(ended_at=ENDED + timedelta(seconds=second))
    make_job(owner=bob)
    return ids


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["pending", "running"]),
        ("?num=1", ["pending", "running"]),
        ("?completed=true", ["failed"]),
        ("?completed=true&num=1", ["failed"]),
        ("?completed=true&num=3", ["failed", "killed", "deleted"]),
        ("?completed=true&num=100", ["failed", "killed", "deleted", "completed"]),
        ("?completed=true&num=-1", ["failed", "killed", "deleted", "completed"]),
        ("?completed=true&num=0", []),
        ("?completed=false", ["pending", "running"]),
        ("?all=true", ["pending", "running", "completed", "deleted", "killed", "failed"]),
        ("?all", ["pending", "running", "completed", "deleted", "killed", "failed"]),
        ("?all=true&num=1", ["pending", "running", "completed", "deleted", "killed", "failed"]),
        ("?status=running", ["running"]),
        ("?status=idle", ["pending"]),
    ],
)
def test_list_selects_by_state(
    api: Api, job_ids: dict[str, int], query: str, expected: list[str]
) -> None:
    assert api.ids(query) == [job_ids[status] for status in expected]


def test_list_by_ids_shows_any_state_c27f(api: Api, job_ids: dict[str, int]) -> None:
    wanted = [job_ids["pending"], job_ids["failed"]]

    assert api.ids(f"?id={wanted[1]},{wanted[0]},{wanted[0]},4711") == wanted


def test_list_of_a_foreign_id_is_empty(api_of_bob: Api, job_ids: dict[str, int]) -> None:
    assert api_of_bob.ids(f"?id={job_ids['pending']}") == []


def test_list_by_name_matches_exactly_c27g(api: Api, make_job: MakeJob) -> None:
    job = make_job(PI | {"name": "one"})
    make_job(PI | {"name": "one-two"})

    assert api.ids("?name=one") == [job.pk]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("constraint=app%3Dhello", [0, 1]),
        ("constraint=app=hello", [0, 1]),
        ("constraint=app%3Dhello&constraint=run%3D1", [0]),
        ("constraint=app%3Dhello&constraint=app%3Dother", []),
        ("constraint=run%3D3", []),
        ("constraint=app%3Dhell", []),
    ],
)
def test_constraints_are_all_applied_c13(
    api: Api, make_job: MakeJob, query: str, expected: list[int]
) -> None:
    labels: list[dict[str, Any]] = [{"app": "hello", "run": "1"}, {"app": "hello"}, {}]
    jobs = [make_job(PI | {"labels": item}) for item in labels]

    assert api.ids(f"?all=true&{query}") == [jobs[index].pk for index in expected]


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("constraint=app", "Invalid constraint"),
        ("constraint=a=b=c", "Invalid constraint"),
        ("constraint==b", "Invalid constraint"),
        ("constraint=", "Invalid constraint"),
        ("status=done", "invalid status specified"),
        ("status=", "invalid status specified"),
        ("num=x", "num must be an integer, -1 or more"),
        ("num=1.5", "num must be an integer, -1 or more"),
        ("num=-2", "num must be an integer, -1 or more"),
        ("id=1,x", "a job id must be an integer"),
        ("id=", "a job id must be an integer"),
        ("name=%00", "a parameter holds a NUL character"),
        ("workflow=true&num=-1", "a workflow id must be provided"),
        ("&".join(["constraint=a=b"] * 21), "at most 20 constraints are allowed"),
    ],
)
def test_wrong_parameter_is_400_with_a_text(api: Api, query: str, error: str) -> None:
    response = api.get(f"/jobs?{query}")

    assert (response.status_code, response.json()) == (400, {"error": error})


def test_injected_name_finds_nothing(api: Api, job_ids: dict[str, int]) -> None:
    assert api.ids('?name=x" || True || "') == []


def test_detail_shows_jobs_as_describe_does_c27i(api: Api, make_job: MakeJob) -> None:
    jobs = [make_job(), make_job(status=JobStatus.COMPLETED, tasks=[{"exit_code": 1}])]

    detailed = api.get("/jobs?all=true&detail=true").json()

    assert detailed == [api.get(f"/jobs/{job.pk}").json()[0] for job in jobs]


@pytest.mark.parametrize(("query", "most"), [("?all=true", 1), ("?all=true&detail=true", 3)])
def test_list_costs_no_query_per_job(
    api: Api,
    make_job: MakeJob,
    django_assert_max_num_queries: Any,
    query: str,
    most: int,
) -> None:
    document = PI | {"inputs": [{"filename": "a", "content": "aGk="}], "labels": {"a": "b"}}
    for _ in range(20):
        make_job(document, status=JobStatus.COMPLETED, tasks=[{"exit_code": 0}])
    assert len(api.ids(query)) == 20  # the caller's row is cached from here on

    with django_assert_max_num_queries(most):
        assert len(api.ids(query)) == 20
