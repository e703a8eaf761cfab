"""The REST API of workflows as the two clients call it (C32, C33, C36-C38, S56-S58, D8, D11)."""

from typing import Any

import pytest

from jobs.models import Event, Job, Output, Placement
from jobs.states import JobStatus
from tests.contract.conftest import Api
from workflows.expand import expand_workflow
from workflows.models import Stage, Workflow
from workflows.queries import Place, parse_place
from workflows.states import StageStatus, WorkflowStatus

TASK = {"image": "busybox", "cmd": "echo $x"}
RESOURCES = {"nodes": 1, "cpus": 1, "memory": 1, "disk": 10}
A, B = ({"name": name, "tasks": [TASK], "resources": RESOURCES} for name in "ab")
FACTORY = {
    "type": "parametricSweep",
    "jobs": ["a"],
    "parameters": [{"name": "x", "start": 0, "end": 0.3, "step": 0.1}],
}
DOCUMENT: dict[str, Any] = {
    "name": "w",
    "labels": {"app": "demo"},
    "jobs": [A, B],
    "factory": FACTORY,
    "dependencies": {"a": ["b"]},
}


def submit(api: Api, document: dict[str, Any] = DOCUMENT) -> int:
    response = api.post("/workflows", document)
    assert response.status_code == 201, response.content
    assert list(response.json()) == ["id"]
    workflow = int(response.json()["id"])
    expand_workflow(workflow)
    return workflow


def finish(workflow: int, status: WorkflowStatus = WorkflowStatus.FAILED) -> None:
    Workflow.objects.filter(pk=workflow).update(status=status, ended_at="2026-01-01T00:00:00Z")


def test_list_entry_has_what_both_clients_read_c32(api: Api) -> None:
    workflow = submit(api)

    (entry,) = api.get("/workflows?num=1").json()

    assert entry == {
        "id": workflow,
        "name": "w",
        "status": "pending",
        "labels": {"app": "demo"},
        "events": {"createTime": entry["events"]["createTime"]},
        "progress": {"total": 5, "done": 0, "failed": 0, "queued": 4, "waiting": 1},
    }


def test_description_is_the_document_and_what_became_of_it_c33(api: Api) -> None:
    workflow = submit(api)

    (found,) = api.get(f"/workflows/{workflow}").json()

    assert found.keys() == {
        *("id", "name", "status", "events", "progress", "labels"),
        *("jobs", "dependencies", "factory", "factories"),
    }
    assert found["factories"] == [FACTORY]
    assert found["factory"] == FACTORY
    runtime = {"runtime": "singularity"}
    assert [job["tasks"] for job in found["jobs"]] == [[TASK | runtime]] * 2
    assert [job["name"] for job in found["jobs"]] == ["a", "b"]
    assert found["dependencies"] == {"a": ["b"]}


def test_unknown_or_foreign_workflow_is_an_empty_list_d2(api: Api, api_of_bob: Api) -> None:
    workflow = submit(api)

    assert api.get("/workflows/999999").json() == []
    assert api_of_bob.get(f"/workflows/{workflow}").json() == []
    assert api_of_bob.get("/workflows").json() == []
    for response in (
        api_of_bob.delete(f"/workflows/{workflow}"),
        api_of_bob.client.put(f"/api/v1/workflows/{workflow}"),
        api_of_bob.client.put(f"/api/v1/workflows/{workflow}/clone"),
        api_of_bob.client.put(f"/api/v1/workflows/{workflow}/remove"),
        api_of_bob.get(f"/workflows/{workflow}/a/0/stdout"),
    ):
        assert (response.status_code, response.json()) == (
            400,
            {"error": "Workflow does not exist"},
        )


def test_instances_have_names_values_and_parameters_s117_s130_x21(api: Api) -> None:
    workflow = submit(api)

    jobs = api.get(f"/jobs?id={workflow}&workflow=true&num=-1&detail=true").json()

    assert [job["name"] for job in jobs] == [f"w/a/{n}" for n in range(4)]
    assert [job["tasks"][0]["cmd"] for job in jobs] == [
        f"echo {x}" for x in ("0", "0.1", "0.2", "0.3")
    ]
    assert jobs[3]["parameters"] == {"x": 0.3}
    assert jobs[3]["tasks"][0]["env"] == {"PROMINENCE_PARAMETER_x": "0.3"}


def test_jobs_of_a_workflow_are_listed_with_it_alone_in_every_state_d8(api: Api) -> None:
    workflow = submit(api)
    first = Job.objects.get(workflow=workflow, instance=0)
    Job.objects.filter(pk=first.pk).update(
        status=JobStatus.COMPLETED, ended_at="2026-01-01T00:00:00Z"
    )

    assert len(api.ids(f"?id={workflow}&workflow=true&num=-1")) == 4
    assert api.ids(f"?id={workflow}&workflow=true&completed=true&num=1") == [first.pk]
    assert api.ids() == api.ids("?all=true") == api.ids("?completed=true") == []
    assert api.ids(f"?id={first.pk}") == [first.pk]


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("", 1),
        ("?all=true", 2),
        ("?completed=true&num=5", 1),
        ("?status=idle", 1),
        ("?status=running", 0),
        ("?name=w&all=true", 2),
        ("?name=v&all=true", 0),
        ("?constraint=app=demo&all=true", 2),
        ("?constraint=app=other&all=true", 0),
    ],
)
def test_lists_have_the_filters_of_jobs_c27(api: Api, query: str, count: int) -> None:
    finish(submit(api))
    submit(api)

    assert len(api.get(f"/workflows{query}").json()) == count


def test_kept_workflow_stays_listed_until_removed_u39(api: Api) -> None:
    workflow = submit(api, DOCUMENT | {"policies": {"leaveInQueue": True}})
    finish(workflow)
    assert len(api.get("/workflows").json()) == 1

    assert api.client.put(f"/api/v1/workflows/{workflow}/remove").status_code == 200
    assert api.get("/workflows").json() == []
    again = api.client.put(f"/api/v1/workflows/{workflow}/remove")
    assert again.json() == {"error": "Workflow is no longer in the queue"}


def test_rerun_answers_200_and_a_new_id_clone_201(api: Api) -> None:
    workflow = submit(api)
    early = api.client.put(f"/api/v1/workflows/{workflow}")
    assert (early.status_code, early.json()) == (400, {"error": "Workflow has not finished"})
    finish(workflow)

    rerun = api.client.put(f"/api/v1/workflows/{workflow}")
    clone = api.client.put(f"/api/v1/workflows/{workflow}/clone")

    assert (rerun.status_code, clone.status_code) == (200, 201)
    assert len({workflow, rerun.json()["id"], clone.json()["id"]}) == 3


def test_plans_change_nothing(api: Api) -> None:
    workflow = submit(api)
    finish(workflow)
    Stage.objects.filter(name="a").update(well=3, badly=1)
    before = (Workflow.objects.count(), Event.objects.count())

    submission = api.post("/workflows?plan=true", DOCUMENT)
    rerun = api.client.put(f"/api/v1/workflows/{workflow}?plan=true")

    assert submission.json()["plan"][1] == {
        "name": "b", "total": 1, "run": 1, "keep": 0, "reason": "after a",
    }  # fmt: skip
    assert rerun.json()["plan"] == [
        {
            "name": "a",
            "total": 4,
            "run": 1,
            "keep": 3,
            "reason": "1 ended badly, 3 ended well and kept",
        },
        {"name": "b", "total": 1, "run": 1, "keep": 0, "reason": "1 never attempted"},
    ]
    assert (Workflow.objects.count(), Event.objects.count()) == before


@pytest.mark.parametrize(
    "path",
    [
        "a/2/stdout",
        "a/2/stdout?node=0&offset=0",
        "w/a/2/stdout",
        "0/2/stdout?node=a&offset=0",  # P21 swaps job and node (C38)
    ],
)
def test_output_of_an_instance_by_every_form_of_its_path(api: Api, path: str) -> None:
    workflow = submit(api)
    job = Job.objects.get(workflow=workflow, instance=2)
    Job.objects.filter(pk=job.pk).update(attempt=1, queued=False)
    Placement.objects.create(
        attempt=job.attempts.create(number=1), incarnation=1, node_name="n", site="s", cpus=1,
        memory_mb=1, disk_mb=1, live=False, stdout_size=3, stdout_complete=True,
    )  # fmt: skip
    Output.objects.create(job=job, attempt=1, stream="stdout", start=0, size=3, data=b"two")

    response = api.get(f"/workflows/{workflow}/{path}")

    assert (response.status_code, response.content) == (200, b"two")


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("b", "w/b has not been created yet: b waits for the jobs it depends on"),
        ("a", 'job "a" has instances 0 to 3: name one of them, as in a/0'),
        ("a/4", 'job "a" has 4 instances, numbered from 0: there is no 4'),
        ("c", 'there is no job "c" in this workflow'),
        ("a/x", 'there is no job "a/x" in this workflow'),
    ],
)
def test_output_that_is_not_there_is_400_with_the_reason(api: Api, path: str, error: str) -> None:
    workflow = submit(api)

    response = api.get(f"/workflows/{workflow}/{path}/stdout")

    assert (response.status_code, response.json()) == (400, {"error": error})


def test_output_of_a_skipped_job_says_that_it_is_not_attempted(api: Api) -> None:
    workflow = submit(api)
    Stage.objects.filter(name="b").update(status=StageStatus.SKIPPED)

    assert "is not attempted" in api.get(f"/workflows/{workflow}/b/stderr").json()["error"]


def test_swapped_job_and_node_are_read_as_meant_c38() -> None:
    assert parse_place("0", node="jobA", workflow_name="w") == [
        Place(job="jobA", instance=None, rank=0)
    ]
    assert parse_place("0/3", node="jobA", workflow_name="w") == [
        Place(job="jobA", instance=3, rank=0)
    ]


def test_deletion_answers_an_empty_object_c18(api: Api) -> None:
    workflow, other = submit(api), submit(api)

    assert api.delete(f"/workflows/{workflow}").json() == {}
    assert api.delete(f"/workflows?id={workflow},{other}").json() == {}
    assert api.delete("/workflows?id=999999").status_code == 400


def test_long_lists_of_values_are_described_by_their_first_thousand(api: Api) -> None:
    parameters = [{"name": "x", "values": list(range(2500))}]
    workflow = submit(
        api, DOCUMENT | {"factory": {"type": "zip", "jobs": ["a"], "parameters": parameters}}
    )

    (found,) = api.get(f"/workflows/{workflow}").json()

    assert found["factory"]["parameters"][0] == {
        "name": "x",
        "values": list(range(1000)),
        "count": 2500,
    }
    assert found["progress"]["total"] == 2501
