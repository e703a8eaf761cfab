"""The workflow documents of the user guide, unchanged, by the REST API, with real containers (S125-S142)."""

import re
from typing import Any

import pytest

from tests.stack import Stack
from tests.wait import wait_until

OWNER = "workflow-user"


def job(name: str, cmd: str) -> dict[str, Any]:
    return {
        "resources": {"nodes": 1, "cpus": 1, "memory": 1, "disk": 10},
        "tasks": [{"image": "busybox", "runtime": "singularity", "cmd": cmd}],
        "name": name,
    }


SWEEP = {
    "name": "ps-workflow",
    "jobs": [job("render", "echo $frame")],
    "factory": {
        "type": "parametricSweep",
        "parameters": [{"name": "frame", "start": 1, "end": 4, "step": 1}],
    },
}
STEPS = {
    "name": "multi-step-workflow",
    "jobs": [job("job_A", "date"), job("job_B", "date"), job("job_C", "date")],
    "dependencies": {"job_A": ["job_B"], "job_B": ["job_C"]},
}
SCATTER_GATHER = {
    "name": "scatter-gather-workflow",
    "jobs": [*(job(f"job_A{n}", "date") for n in (1, 2, 3)), job("job_B", "date")],
    "dependencies": {f"job_A{n}": ["job_B"] for n in (1, 2, 3)},
}
FACTORY_DAG = {
    "name": "factory-dag-workflow",
    "jobs": [job("process", "echo $id"), job("merge", "echo merge")],
    "factories": [
        {
            "name": "processing",
            "type": "parameterSweep",
            "jobs": ["process"],
            "parameters": [{"name": "id", "start": 1, "end": 3, "step": 1}],
        }
    ],
    "dependencies": {"process": ["merge"]},
}
ZIP = {
    "name": "zip-workflow",
    "jobs": [job("pair", "sh -c 'echo ${start_value} $PROMINENCE_PARAMETER_end_value'")],
    "factories": [
        {
            "name": "example",
            "jobs": ["pair"],
            "type": "zip",
            "parameters": [
                {"name": "start_value", "values": [0, 1, 2, 3]},
                {"name": "end_value", "values": [8, 9, 10, 11]},
            ],
        }
    ],
}
REPEAT = {
    "name": "repeat-workflow",
    "jobs": [job("same", "sh -c 'echo $PROMINENCE_WORKFLOW_ID'")],
    "factories": [{"name": "example", "jobs": ["same"], "type": "repeat", "number": 10}],
}
GROUP = {"name": "test-workflow-1", "jobs": [job("one", "echo 1"), job("two", "echo 2")]}


class Workflows:
    """The API as one user."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    def call(self, method: str, path: str, **options: Any) -> Any:
        with self.stack.client(OWNER) as client:
            answer = client.request(method, path, **options)
        assert answer.status_code in {200, 201}, answer.text
        return answer

    def submit(self, document: dict[str, Any]) -> int:
        return int(self.call("POST", "/workflows", json=document).json()["id"])

    def describe(self, workflow: int) -> dict[str, Any]:
        (found,) = self.call("GET", f"/workflows/{workflow}").json()
        return dict(found)

    def wait(self, workflow: int) -> dict[str, Any]:
        def ended() -> dict[str, Any] | None:
            found = self.describe(workflow)
            return None if found["status"] in {"pending", "running"} else found

        return wait_until(
            ended, 120, dump=lambda: f"{self.describe(workflow)}\n{self.stack.dump()}"
        )

    def jobs(self, workflow: int) -> list[dict[str, Any]]:
        path = f"/jobs?id={workflow}&workflow=true&num=-1"
        return list(self.call("GET", path).json())

    def stdout(self, workflow: int, place: str) -> str:
        return str(self.call("GET", f"/workflows/{workflow}/{place}/stdout").text)


@pytest.fixture
def workflows(stack: Stack) -> Workflows:
    return Workflows(stack)


def test_documents_of_the_guide_run_in_order_with_their_values_s5_s114_s142(
    workflows: Workflows,
) -> None:
    """All at once, as the stack is shared; S132, S134, S135, S138, S142."""
    ids = {
        document["name"]: workflows.submit(document)
        for document in (SWEEP, STEPS, SCATTER_GATHER, FACTORY_DAG, ZIP, REPEAT, GROUP)
    }
    ended = {name: workflows.wait(pk) for name, pk in ids.items()}

    assert {found["status"] for found in ended.values()} == {"completed"}
    sweep = ids["ps-workflow"]
    assert [workflows.stdout(sweep, f"render/{n}") for n in range(4)] == [
        "1\n",
        "2\n",
        "3\n",
        "4\n",
    ]
    assert workflows.stdout(sweep, "ps-workflow/render/2") == "3\n"
    pairs = ids["zip-workflow"]
    assert [workflows.stdout(pairs, f"pair/{n}") for n in range(4)] == [
        "0 8\n",
        "1 9\n",
        "2 10\n",
        "3 11\n",
    ]
    same = ids["repeat-workflow"]
    assert workflows.stdout(same, "same/9") == f"{same}\n"
    assert in_order(workflows.jobs(ids["multi-step-workflow"])) == ["job_A", "job_B", "job_C"]
    assert in_order(workflows.jobs(ids["scatter-gather-workflow"]))[-1] == "job_B"
    assert in_order(workflows.jobs(ids["factory-dag-workflow"]))[-1] == "merge"
    assert ended["factory-dag-workflow"]["progress"] == {
        "total": 4, "done": 4, "failed": 0, "queued": 0, "waiting": 0,
    }  # fmt: skip


def in_order(jobs: list[dict[str, Any]]) -> list[str]:
    """Job names by start; none starts before those it depends on ended, to the second."""
    by_start = sorted(jobs, key=lambda found: (found["events"]["startTime"], found["id"]))
    return [str(found["name"]).split("/")[1] for found in by_start]


def test_a_failed_workflow_is_rerun_and_a_running_one_deleted(workflows: Workflows) -> None:
    """A non-zero exit is `completed`, and fails the workflow (D1); S139-S141."""
    document = {
        "name": "w",
        "jobs": [job("good", "echo fine"), job("bad", "sh -c 'exit 3'"), job("end", "date")],
        "dependencies": {"good": ["end"], "bad": ["end"]},
    }
    first = workflows.submit(document)
    found = workflows.wait(first)
    assert (found["status"], found["statusReason"]) == ("failed", "One or more jobs failed")
    assert {j["name"]: j["status"] for j in workflows.jobs(first)} == {
        "w/good": "completed",
        "w/bad": "completed",
    }

    second = workflows.call("PUT", f"/workflows/{first}").json()["id"]
    workflows.wait(second)
    assert [j["name"] for j in workflows.jobs(second)] == ["w/bad"]
    assert workflows.stdout(second, "good") == "fine\n"

    long = workflows.submit({"name": "long", "jobs": [job("sleep", "sleep 600")]})
    wait_until(
        lambda: workflows.describe(long)["status"] == "running", 60, dump=workflows.stack.dump
    )
    workflows.call("DELETE", f"/workflows/{long}")
    assert workflows.wait(long)["status"] == "deleted"
    assert re.fullmatch("deleted", workflows.jobs(long)[0]["status"])


def test_a_dag_of_300_jobs_survives_kills_and_flushes(make_stack: Any) -> None:
    """Fan-outs and fan-ins, while control plane and Celery worker are killed and Redis is emptied three times."""
    with make_stack(settings={"PROMINENCE_ALLOW_PROCESS_RUNTIME": "1"}) as stack:
        workflows = Workflows(stack)
        workflow = workflows.submit(layers(width=21, depth=10, array=8))
        for part in ("worker", "control", "worker"):
            wait_for_progress(workflows, workflow)
            stack.kill(part)
            stack.flush_redis()
            stack.restart(part)
        found = workflows.wait(workflow)

        assert found["status"] == "completed"
        assert found["progress"]["done"] == found["progress"]["total"] >= 300
        started = stack.query(
            f"SELECT s.name, MIN(j.started_at), MAX(j.ended_at), COUNT(*) FROM jobs_job j"
            f" JOIN workflows_stage s ON s.id = j.stage WHERE j.workflow = {workflow} GROUP BY s.name"
        )
        times = {name: (first, last) for name, first, last, _ in started}
        for parent, children in layers(width=21, depth=10, array=8)["dependencies"].items():
            for child in children:
                assert times[child][0] >= times[parent][1], f"{child} before {parent} ended"


def wait_for_progress(workflows: Workflows, workflow: int) -> None:
    """Until more jobs have ended than now."""
    before = workflows.describe(workflow)["progress"]["done"]
    wait_until(
        lambda: workflows.describe(workflow)["progress"]["done"] > before + 20,
        120,
        dump=workflows.stack.dump,
    )


def layers(*, width: int, depth: int, array: int) -> dict[str, Any]:
    """Alternating layers of `width` single jobs and one job of `array` instances: every second layer is a fan-in."""
    jobs: list[dict[str, Any]] = []
    factories: list[dict[str, Any]] = []
    dependencies: dict[str, list[str]] = {}
    above: list[str] = []
    for level in range(depth):
        names = [f"l{level}-{n}" for n in range(width)]
        centre = f"c{level}"
        jobs += [quick(name) for name in (*names, centre)]
        factories.append({"type": "repeat", "jobs": [centre], "number": array})
        factories += [{"type": "repeat", "jobs": [names[0]], "number": 2}]
        for parent in above:
            dependencies[parent] = names
        for name in names:
            dependencies[name] = [centre]
        above = [centre]
    return {
        "name": "layers",
        "jobs": jobs,
        "factories": factories,
        "dependencies": dependencies,
    }


def quick(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "resources": {"memory": 0.1, "disk": 1},
        "tasks": [{"image": "none", "runtime": "process", "cmd": "true"}],
    }
