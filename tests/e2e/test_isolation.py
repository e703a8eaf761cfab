"""What a job can't see: the node's credentials, other jobs' scratch, other jobs' environment; with either runtime."""

from collections.abc import Iterator

import pytest

from tests.e2e.gate import Gate
from tests.stack import Stack

SECRET = "only-the-owner-may-see-this"


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate() as gate:
        yield gate


def spy(stack: Stack, runtime: str, *commands: str) -> dict[str, object]:
    """A job of somebody else that tries `commands`, whatever fails, and then looks for the secret."""
    script = "; ".join([*commands, "echo spied"])
    return {
        "resources": {"cpus": 1, "memory": 1, "disk": 1},
        "tasks": [{"image": "busybox", "runtime": runtime, "cmd": "sh", "args": ["-c", script]}],
    }


@pytest.fixture(params=["singularity", "udocker"])
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def victim(stack: Stack, gate: Gate, runtime: str) -> Iterator[int]:
    """A running job with a secret in its environment and in a file of its scratch."""
    document = gate.held_job(runtime=runtime)
    (task,) = document["tasks"]  # type: ignore[misc]
    task["env"] = {"SECRET": SECRET}
    task["args"] = ["-c", "echo $SECRET > secret.txt; " + task["args"][1]]
    job = stack.submit(document)
    stack.wait_status(job, "running")
    yield job
    gate.open()
    stack.wait_job(job)


def test_other_jobs_environment_and_scratch_are_out_of_reach(
    stack: Stack, victim: int, runtime: str
) -> None:
    node = stack.node_data("node-1")
    document = spy(
        stack,
        runtime,
        "cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' | grep SECRET= | grep -v grep",
        f"find {node} /proc/[0-9]*/root{node} -name secret.txt -exec cat {{}} + 2>/dev/null",
        f"cat /proc/[0-9]*/cwd/secret.txt {node}/life-*/jobs/{victim}.1.0/work/secret.txt 2>/dev/null",
    )
    job = stack.submit(document, user="mallory")
    stack.wait_job(job, user="mallory")
    output = stack.output(job, user="mallory")
    assert "spied" in output
    assert SECRET not in output


def test_credentials_of_the_node_are_out_of_reach(stack: Stack, victim: int, runtime: str) -> None:
    node = stack.node_data("node-1")
    enrolment = (node / "enrolment").read_text()
    assert "node_token" in enrolment
    document = spy(
        stack,
        runtime,
        f"cat {node}/enrolment {node}/*/journal.db /proc/[0-9]*/root{node}/enrolment 2>/dev/null",
        "cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'",
        "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'",
        f"ls -R {stack.directory} 2>/dev/null",
    )
    job = stack.submit(document, user="mallory")
    stack.wait_job(job, user="mallory")
    output = stack.output(job, user="mallory")
    assert "spied" in output
    secrets = [
        word
        for word in enrolment.replace(":", '"').split('"')
        if len(word) > 30 and "/" not in word
    ]
    assert secrets
    assert not [secret for secret in secrets if secret in output]
    assert f"{victim}.1.0" not in output


def test_users_see_only_their_own_jobs(stack: Stack, gate: Gate) -> None:
    job = stack.submit(gate.held_job(), user="alice")
    with stack.client("mallory") as client:
        assert client.get(f"/jobs/{job}").json() == []
        for method, path in [("GET", "stdout"), ("GET", "events"), ("DELETE", "")]:
            answer = client.request(method, f"/jobs/{job}/{path}".rstrip("/"))
            assert (answer.status_code, answer.json()["error"]) == (400, "Job does not exist")
        assert job not in [row["id"] for row in client.get("/jobs?all=true").json()]
    gate.open()
    stack.wait_job(job)
