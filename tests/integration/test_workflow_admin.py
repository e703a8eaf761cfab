"""The admin of workflows: the graph's data, the page, and actions through the services."""

from pathlib import Path

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client

from jobs.models import Job
from tests.integration.flow_scene import job
from workflows.expand import expand_workflow
from workflows.models import Stage, Workflow
from workflows.services import submit_workflow
from workflows.spec import parse_workflow
from workflows.states import StageStatus, WorkflowStatus

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]
LIST = "/admin/workflows/workflow/"


@pytest.fixture(autouse=True)
def _static_root() -> None:
    """WhiteNoise warns when its directory is not there; the API server makes it."""
    Path(settings.STATIC_ROOT).mkdir(parents=True, exist_ok=True)


@pytest.fixture
def workflow() -> Workflow:
    document = {
        "name": "w",
        "jobs": [job(n) for n in "abcd"],
        "factories": [{"type": "repeat", "jobs": ["a"], "number": 3}],
        "dependencies": {"a": ["c", "d"], "b": ["c", "d"]},
    }
    made = submit_workflow(
        owner=User.objects.create(username="alice"), document=parse_workflow(document)
    )
    expand_workflow(made.pk)
    return made


@pytest.fixture
def operator() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


def test_graph_tells_stages_with_counts_and_joins(operator: Client, workflow: Workflow) -> None:
    graph = operator.get(f"{LIST}{workflow.pk}/graph/").json()

    ids = {stage["name"]: stage["id"] for stage in graph["stages"]}
    assert [(s["name"], s["look"], s["queued"], s["waiting"]) for s in graph["stages"]] == [
        ("a", "released", 3, 0),
        ("b", "released", 1, 0),
        ("c", "waiting", 0, 1),
        ("d", "waiting", 0, 1),
    ]
    (join,) = graph["joins"]
    assert sorted(join["parents"]) == [ids["a"], ids["b"]]
    assert sorted(join["children"]) == [ids["c"], ids["d"]]
    assert graph["progress"]["total"] == 6


def test_page_shows_failed_jobs_first(operator: Client, workflow: Workflow) -> None:
    failed = Job.objects.get(workflow=workflow.pk, instance=2)
    Job.objects.filter(pk=failed.pk).update(outcome="badly", status="completed")

    page = operator.get(f"{LIST}{workflow.pk}/change/").content.decode()

    rows = page.split('id="jobs"')[1]
    assert rows.index("w/a/2") < rows.index("w/a/0")
    assert f"{LIST}{workflow.pk}/graph/" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_actions_delete_and_rerun_through_the_services(
    operator: Client, workflow: Workflow
) -> None:
    chosen = {"_selected_action": workflow.pk, "confirmed": "yes", "index": 0}

    operator.post(LIST, chosen | {"action": "delete_selected_workflows"})
    workflow.refresh_from_db()
    assert workflow.delete_requested_at is not None
    assert Stage.objects.filter(workflow=workflow, status=StageStatus.SKIPPED).count() == 2

    Workflow.objects.filter(pk=workflow.pk).update(status=WorkflowStatus.DELETED)
    operator.post(LIST, chosen | {"action": "rerun_selected_workflows"})
    assert Workflow.objects.get(origin=workflow).owner == workflow.owner


def test_graph_is_for_those_who_may_see_workflows(workflow: Workflow) -> None:
    client = Client()
    client.force_login(User.objects.create(username="staff", is_staff=True))

    assert client.get(f"{LIST}{workflow.pk}/graph/").status_code == 403
    assert client.get(f"{LIST}{workflow.pk}/change/").status_code == 403
