"""The jobs endpoints byte for byte as clients rely on them (S143-S153, C10-C20)."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from django.contrib.auth.models import User

from jobs.models import Event, InputFile, Job, Label, Stream
from jobs.output import store_piece
from jobs.states import JobStatus, Reason
from prominence.bus import WAKE, Queued, server_redis
from prominence.tokens import issue_token
from tests.contract.conftest import PI, Api, MakeJob, golden, with_id
from tests.servers import RedisServer

pytestmark = pytest.mark.django_db
FULL = {
    "name": "full",
    "resources": {"cpus": 2, "memory": 0.5, "disk": 20, "walltime": 60},
    "labels": {"app": "hello"},
    "tasks": [
        {
            "image": "https://example.org/image.tar",
            "cmd": "echo a",
            "args": ["b c"],
            "env": {"N": 2},
            "workdir": "sub",
        }
    ],
    "inputs": [{"filename": "some/dir/run.sh", "content": "aGVsbG8K", "executable": True}],
    "policies": {
        "maximumRetries": 4,
        "leaveInQueue": False,
        "maximumTimeInQueue": 0,
        "ignoreTaskTailures": True,
        "placement": {
            "requirements": {"sites": ["OpenStack-Alpha"], "regions": []},
            "preferences": {"regions": ["Beta"]},
        },
    },
}
RESULT = {
    "exit_code": 0,
    "image_pull_s": 26.14915418624878,
    "image_status": "completed",
    "wall_s": 0.6737308502197266,
    "cpu_s": 0.5480000000000012,
    "max_rss_kb": 63044,
}


@pytest.mark.parametrize("root", ["/api/v1", "/prominence/v1"])
def test_post_of_a_job_answers_201_with_an_integer_id_s145(alice: User, root: str) -> None:
    api = Api(issue_token("alice", valid_s=60), root)

    response = api.post("/jobs", PI)

    assert response.status_code == 201
    assert response["Content-Type"] == "application/json"
    assert response.json() == with_id(golden("job-created"), Job.objects.get().pk)
    assert response.content == b'{"id":%d}' % Job.objects.get().pk


def test_post_stores_job_labels_input_and_first_event(api: Api, alice: User) -> None:
    job_id = api.post("/jobs", FULL).json()["id"]

    job = Job.objects.get(pk=job_id)
    assert (job.status, job.queued, job.attempt, job.maximum_retries) == ("pending", True, 0, 4)
    assert (job.shape, job.image, job.command) == (
        "c2.m512.d20480.u.@edc6644e2ce71358",
        FULL["tasks"][0]["image"],
        "echo a",
    )
    assert list(Label.objects.values_list("job", "key", "value")) == [(job_id, "app", "hello")]
    assert bytes(InputFile.objects.get(owner=alice).content) == b"hello\n"
    event = Event.objects.get(job=job)
    assert (event.before, event.after, event.reason, event.actor) == (
        "", JobStatus.PENDING, Reason.SUBMITTED, "alice",
    )  # fmt: skip


def test_post_wakes_the_scheduler_after_the_commit(
    api: Api, redis_server: RedisServer, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        job_id = api.post("/jobs", FULL).json()["id"]
        assert server_redis().xlen(WAKE) == 0

    ((_, fields),) = server_redis().xrange(WAKE)
    job = Job.objects.get(pk=job_id)
    assert msgspec.json.decode(fields[b"d"], type=list[Queued]) == [
        Queued(owner=job.owner_id, shape=job.shape, priority=0, job=job_id, kind=job.kind)
    ]


def test_same_input_of_one_owner_is_kept_once(api: Api) -> None:
    api.post("/jobs", FULL)
    api.post("/jobs", FULL)

    assert InputFile.objects.count() == 1


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", ""])
def test_body_is_read_as_json_whatever_its_type_c14(api: Api, content_type: str) -> None:
    assert api.post("/jobs", PI, content_type).status_code == 201


@pytest.mark.contract("S10", "S147")
def test_describe_of_a_pending_job_is_an_array_of_one_s146(api: Api, make_job: MakeJob) -> None:
    job = make_job()

    response = api.get(f"/jobs/{job.pk}")

    assert response.status_code == 200
    assert response.json() == with_id(golden("job-pending"), job.pk)


@pytest.mark.contract("S120", "S121")
def test_describe_of_a_completed_job_shows_what_it_used_s148(api: Api, make_job: MakeJob) -> None:
    job = make_job(status=JobStatus.COMPLETED, reason=Reason.FINISHED, tasks=[RESULT])

    assert api.get(f"/jobs/{job.pk}").json() == with_id(golden("job-completed"), job.pk)


def test_describe_shows_everything_submitted_c33b(api: Api, make_job: MakeJob) -> None:
    job = make_job(FULL)

    assert api.get(f"/jobs/{job.pk}").json() == with_id(golden("job-full"), job.pk)


def test_describe_leaves_out_what_is_not_known_c30(api: Api, make_job: MakeJob) -> None:
    job = make_job(status=JobStatus.RUNNING, tasks=[{"exit_code": None, "image_status": ""}])

    execution = api.get(f"/jobs/{job.pk}").json()[0]["execution"]

    assert execution == {
        "site": "OpenStack-UNIV-LILLE",
        "retries": 0,
        "provisionedResources": {"nodes": 1, "cpus": 1, "memory": 1, "disk": 10},
        "tasks": [{"retries": 0}],
    }


def test_cached_image_shows_pull_time_minus_one_s122(api: Api, make_job: MakeJob) -> None:
    job = make_job(status=JobStatus.COMPLETED, tasks=[{"image_pull_s": -1, "exit_code": 0}])

    task = api.get(f"/jobs/{job.pk}").json()[0]["execution"]["tasks"][0]

    assert task == {"retries": 0, "imagePullTime": -1, "exitCode": 0}


@pytest.mark.parametrize(
    ("status", "reason", "text"),
    [
        (JobStatus.FAILED, Reason.IMAGE_PULL, "Container image pull failed"),
        (JobStatus.KILLED, Reason.WALLTIME, "Walltime limit exceeded"),
        (JobStatus.DELETED, Reason.DELETED_BY_USER, "Job deleted by user"),
        (JobStatus.COMPLETED, Reason.EXIT_CODE, None),
        (JobStatus.RUNNING, "", None),
    ],
)
def test_status_reason_is_shown_for_ends_that_are_not_completed_s119(
    api: Api, make_job: MakeJob, status: JobStatus, reason: str, text: str | None
) -> None:
    job = make_job(status=status, reason=reason)

    assert api.get(f"/jobs/{job.pk}").json()[0].get("statusReason") == text


def test_list_shows_the_brief_form_s149(api: Api, make_job: MakeJob) -> None:
    job = make_job()

    assert api.get("/jobs").json() == with_id(golden("list-active"), job.pk)


def test_list_of_completed_shows_the_brief_form_s150(api: Api, make_job: MakeJob) -> None:
    job = make_job(status=JobStatus.FAILED, reason=Reason.IMAGE_PULL)

    assert api.get("/jobs?completed=true").json() == with_id(golden("list-completed"), job.pk)


def test_no_answer_about_jobs_holds_null_c29(api: Api, make_job: MakeJob) -> None:
    for status in JobStatus:
        make_job(FULL, status=status, tasks=[{"exit_code": None}])

    for query in ("?all=true", "?all=true&detail=true"):
        assert None not in list(_leaves(api.get(f"/jobs{query}").json()))


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)
    else:
        yield value


@pytest.mark.contract("S13")
def test_delete_of_a_waiting_job_ends_it_at_once_s153(api: Api, make_job: MakeJob) -> None:
    job = make_job()

    response = api.delete(f"/jobs/{job.pk}")

    assert (response.status_code, response.json()) == (200, golden("job-deleted"))
    job.refresh_from_db()
    assert (job.status, job.reason, job.queued) == ("deleted", Reason.DELETED_BY_USER, False)


def test_delete_of_a_running_job_asks_its_node_to_stop(api: Api, make_job: MakeJob) -> None:
    job = make_job(status=JobStatus.RUNNING)

    assert api.delete(f"/jobs/{job.pk}").status_code == 200

    job.refresh_from_db()
    assert (job.status, job.delete_requested_at is None) == ("running", False)


@pytest.mark.parametrize("status", [JobStatus.COMPLETED, JobStatus.DELETED, JobStatus.FAILED])
def test_delete_of_an_ended_job_changes_nothing(
    api: Api, make_job: MakeJob, status: JobStatus
) -> None:
    job = make_job(status=status, reason=Reason.FINISHED)

    assert api.delete(f"/jobs/{job.pk}").status_code == 200

    after = Job.objects.get(pk=job.pk)
    assert (after.status, after.ended_at, after.reason) == (status, job.ended_at, job.reason)


def test_delete_of_several_jobs_takes_a_comma_list_c26(api: Api, make_job: MakeJob) -> None:
    jobs = [make_job(), make_job(), make_job()]

    response = api.delete(f"/jobs?id={jobs[0].pk},{jobs[2].pk}")

    assert (response.status_code, response.json()) == (200, {})
    assert api.ids() == [jobs[1].pk]


def test_delete_of_several_jobs_with_a_foreign_one_deletes_none(
    api: Api, make_job: MakeJob, bob: User
) -> None:
    mine, foreign = make_job(), make_job(owner=bob)

    response = api.delete(f"/jobs?id={mine.pk},{foreign.pk}")

    assert (response.status_code, response.json()) == (400, {"error": "No such job(s)"})
    assert api.ids() == [mine.pk]


def test_delete_without_ids_is_refused(api: Api) -> None:
    response = api.delete("/jobs")

    assert response.json() == {"error": "a job id or list of job ids must be provided"}


@pytest.mark.parametrize("job_id", ["4711", "99999999999999999999"])
def test_describe_of_an_unknown_job_is_an_empty_array_d2(api: Api, job_id: str) -> None:
    response = api.get(f"/jobs/{job_id}")

    assert (response.status_code, response.json()) == (200, [])


@pytest.mark.parametrize("suffix", ["", "/stdout", "/stderr"])
def test_actions_on_a_foreign_job_look_like_an_unknown_one_d3(
    api_of_bob: Api, make_job: MakeJob, suffix: str
) -> None:
    job = make_job()
    call = api_of_bob.get if suffix else api_of_bob.delete

    answers = [call(f"/jobs/{job_id}{suffix}") for job_id in (job.pk, 4711)]

    assert {answer.status_code for answer in answers} == {400}
    assert all(answer.json() == golden("error-unknown-job") for answer in answers)
    assert api_of_bob.get(f"/jobs/{job.pk}").json() == []


def test_output_of_a_job_is_plain_text_s152(api: Api, make_job: MakeJob) -> None:
    job = make_job(status=JobStatus.COMPLETED)
    _write(job, b"h\xc3\xa4llo\n")

    response = api.get(f"/jobs/{job.pk}/stdout?node=0&offset=0")

    assert (response.status_code, response.content) == (200, b"h\xc3\xa4llo\n")
    assert response["Content-Type"] == "text/plain; charset=utf-8"


def test_output_from_an_offset_begins_there_c19(api: Api, make_job: MakeJob) -> None:
    job = make_job(status=JobStatus.COMPLETED)
    _write(job, b"0123456789")

    assert api.get(f"/jobs/{job.pk}/stdout?offset=7").content == b"789"


def test_long_output_is_complete(api: Api, make_job: MakeJob) -> None:
    job = make_job(status=JobStatus.COMPLETED)
    parts = [bytes([65 + n]) * 8000 for n in range(20)]
    for number, part in enumerate(parts):
        _write(job, part, start=8000 * number)

    response = api.get(f"/jobs/{job.pk}/stdout")

    assert b"".join(response) == b"".join(parts)


def test_output_of_a_waiting_job_does_not_exist(api: Api, make_job: MakeJob) -> None:
    job = make_job()

    for stream in Stream.values:
        response = api.get(f"/jobs/{job.pk}/{stream}")
        assert (response.status_code, response.json()) == (
            400, {"error": f"{stream} does not exist"},
        )  # fmt: skip


@pytest.mark.parametrize(
    "query", ["offset=x", "offset=-1", "node=a", "node=1.5", "offset=" + "9" * 40]
)
def test_output_with_a_wrong_parameter_is_400_c27j(api: Api, make_job: MakeJob, query: str) -> None:
    response = api.get(f"/jobs/{make_job().pk}/stdout?{query}")

    assert response.status_code == 400
    assert "must be an integer" in response.json()["error"]


def _write(job: Job, data: bytes, start: int = 0) -> None:
    store_piece(job_id=job.pk, attempt=1, rank=0, stream="stdout", start=start, data=data)
