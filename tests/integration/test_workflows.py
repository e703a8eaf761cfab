"""Workflows from document to end, stepped by hand (S125-S142)."""

import pytest
from django.contrib.auth.models import User

from jobs.models import Chunk, Job
from tests.integration.flow_scene import Flow, job
from workflows.models import Join
from workflows.services import delete_workflows, rerun_workflow
from workflows.states import StageStatus, WorkflowStatus

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_server")]


@pytest.fixture
def flow() -> Flow:
    return Flow(User.objects.create(username="ada"))


def names(flow: Flow) -> list[str]:
    """Names of the jobs in the order they started."""
    by_id = dict(Job.objects.values_list("pk", "name"))
    return [by_id[pk] for pk in flow.started]


def test_a_chain_runs_in_order_s9(flow: Flow) -> None:
    workflow = flow.submit(
        {
            "name": "w",
            "jobs": [job("c"), job("b"), job("a")],
            "dependencies": {"a": ["b"], "b": ["c"]},
        }
    )

    assert flow.run(workflow).status == WorkflowStatus.COMPLETED
    assert names(flow) == ["w/a", "w/b", "w/c"]
    assert flow.progress(workflow) == (3, 0, 0, 0, 3)


def test_a_fan_in_of_several_jobs_is_released_by_one_chord(flow: Flow) -> None:
    parents = [f"p{i}" for i in range(5)]
    workflow = flow.submit(
        {
            "name": "w",
            "jobs": [*(job(p) for p in parents), job("end"), job("other")],
            "dependencies": {p: ["end", "other"] for p in parents},
        }
    )

    assert flow.run(workflow).status == WorkflowStatus.COMPLETED
    assert set(names(flow)[5:]) == {"w/end", "w/other"}
    assert flow.worker.seen.count("workflows.chunk_ended") == 5
    assert flow.worker.seen.count("workflows.release") == 1
    assert Join.objects.get().generation == 1


def test_a_failed_job_fails_the_workflow_and_its_children_are_not_attempted(flow: Flow) -> None:
    flow.decide = lambda job: 1 if job.name == "w/a" else 0
    workflow = flow.submit(
        {
            "name": "w",
            "jobs": [job(n) for n in "abcde"],
            "dependencies": {"a": ["b"], "b": ["c"], "d": ["e", "c"]},
        }
    )

    assert flow.run(workflow).status == WorkflowStatus.FAILED
    assert sorted(names(flow)) == ["w/a", "w/d", "w/e"]
    assert flow.progress(workflow) == (2, 1, 0, 2, 5)


def test_a_rerun_runs_the_failed_and_the_never_attempted(flow: Flow) -> None:
    flow.decide = lambda job: int(
        job.instance in {3, 7} and job.stage is not None and job.name != "w/end"
    )
    workflow = flow.submit(
        {
            "name": "w",
            "jobs": [job("many"), job("end")],
            "factories": [{"type": "repeat", "jobs": ["many"], "number": 10}],
            "dependencies": {"many": ["end"]},
        }
    )
    assert flow.run(workflow).status == WorkflowStatus.FAILED
    flow.started.clear()
    flow.decide = lambda job: int(job.instance == 7)

    second = rerun_workflow(owner=flow.user, workflow_id=workflow.pk)
    assert flow.run(second).status == WorkflowStatus.FAILED
    assert sorted(names(flow)) == ["w/many/3", "w/many/7"]
    assert flow.progress(second) == (9, 1, 0, 1, 11)
    flow.started.clear()
    flow.decide = lambda job: 0

    third = rerun_workflow(owner=flow.user, workflow_id=second.pk)
    assert flow.run(third).status == WorkflowStatus.COMPLETED
    assert names(flow) == ["w/many/7", "w/end"]
    assert flow.progress(third) == (11, 0, 0, 0, 11)
    assert flow.progress(workflow) == (8, 2, 0, 1, 11)


@pytest.mark.parametrize(
    ("tolerance", "status"), [(2, "completed"), ("20%", "completed"), (1, "failed")]
)
def test_failures_within_the_tolerance_let_the_children_run(
    flow: Flow, tolerance: object, status: str
) -> None:
    flow.decide = lambda job: int(job.name in {"w/many/0", "w/many/1"})
    workflow = flow.submit(
        {
            "name": "w",
            "jobs": [job("many", policies={"failureTolerance": tolerance}), job("end")],
            "factory": {"type": "repeat", "jobs": ["many"], "num": 10},
            "dependencies": {"many": ["end"]},
        }
    )

    assert flow.run(workflow).status == status
    assert ("w/end" in names(flow)) == (status == "completed")


def test_retries_of_the_workflow_count_for_each_job_s109(flow: Flow) -> None:
    flow.decide = lambda job: int(job.retries < 2)
    workflow = flow.submit(
        {"name": "w", "jobs": [job("a"), job("b")], "policies": {"maximumRetries": 2}}
    )

    assert flow.run(workflow).status == WorkflowStatus.COMPLETED
    assert len(flow.started) == 6


def test_a_large_stage_is_expanded_just_ahead_of_what_can_run(flow: Flow) -> None:
    workflow = flow.submit(
        {
            "name": "w",
            "jobs": [job("many")],
            "factory": {"type": "repeat", "number": 1_000_000},
        }
    )
    for _ in range(5):
        flow.turn()

    assert Chunk.objects.count() <= 2
    assert flow.progress(workflow)[4] == 1_000_000
    assert flow.progress(workflow)[2] + flow.progress(workflow)[0] == 1_000_000


def test_a_deleted_workflow_starts_nothing_more(flow: Flow) -> None:
    workflow = flow.submit(
        {
            "name": "w",
            "jobs": [job("many"), job("end")],
            "factories": [{"type": "repeat", "jobs": ["many"], "number": 5000}],
            "dependencies": {"many": ["end"]},
        }
    )
    flow.turn()
    delete_workflows(owner=flow.user, workflow_ids=[workflow.pk])
    begun = len(flow.started)

    assert flow.run(workflow).status == WorkflowStatus.DELETED
    assert len(flow.started) <= begun + flow.cpus
    assert not Job.objects.filter(workflow=workflow.pk, status__in=["pending", "running"])
    assert flow.progress(workflow)[2] == 0
    assert set(workflow.stages.values_list("status", flat=True)) <= {
        StageStatus.SKIPPED,
        StageStatus.RELEASED,
        StageStatus.ENDED,
    }


def test_a_flush_in_the_middle_of_a_join_costs_only_time(flow: Flow) -> None:
    parents = [f"p{i}" for i in range(40)]
    flow.cpus = 4
    workflow = flow.submit(
        {
            "name": "w",
            "jobs": [*(job(p) for p in parents), job("end")],
            "dependencies": {p: ["end"] for p in parents},
        }
    )
    for _ in range(4):
        flow.turn()
    flow.workflows._checks.grace_s = 0.0
    assert Join.objects.get().armed
    flow.flush()
    for _ in range(30):
        flow.reconciler.step()
        flow.overdue()
        flow.workflows._checked = 0.0
        flow.turn()

    workflow.refresh_from_db()
    assert workflow.status == WorkflowStatus.COMPLETED, flow.story(workflow)
    assert names(flow)[-1] == "w/end"
    assert sorted(names(flow)) == sorted(f"w/{n}" for n in [*parents, "end"])
