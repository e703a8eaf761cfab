"""Jobs in real containers, from submission to their end, as a user sees them."""

import base64
import itertools
import os
from typing import Any

import pytest

from tests.processes import commands_containing
from tests.stack import Stack
from tests.wait import wait_until

RUNTIMES = ("singularity", "udocker")
_numbers = itertools.count(1)


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def document(*commands: str, runtime: str = "singularity", **extra: Any) -> dict[str, Any]:
    tasks = [{"image": "busybox", "runtime": runtime, "cmd": command} for command in commands]
    return {"name": "test", "tasks": tasks, **extra}


def exit_codes(description: dict[str, Any]) -> list[int]:
    return [task["exitCode"] for task in description["execution"]["tasks"]]


@pytest.mark.contract("S1", "S3", "S16", "S17", "S124", "S143")
def test_a_job_runs_and_its_output_is_kept(stack: Stack, runtime: str) -> None:
    job = stack.submit(document("sh -c 'echo out; echo err >&2'", runtime=runtime))

    ended = stack.wait_job(job)

    assert (ended["status"], exit_codes(ended)) == ("completed", [0])
    assert (stack.output(job), stack.output(job, "stderr")) == ("out\n", "err\n")
    assert ended["events"]["createTime"] <= ended["events"]["startTime"]
    assert ended["events"]["startTime"] <= ended["events"]["endTime"]
    assert ended["execution"]["site"] == "test"


@pytest.mark.contract("S11", "S124")
def test_output_arrives_while_the_job_runs(stack: Stack, runtime: str) -> None:
    """The job waits for a file that only appears once its first line was read."""
    job = stack.submit(document("sh -c 'echo first; sleep 600'", runtime=runtime))

    texts = (event.json().get("text", "") for event in stack.follow(job) if event.event == "stdout")
    assert next(texts) == "first\n"

    assert stack.output(job) == "first\n"
    assert stack.describe(job)["status"] == "running"
    _delete(stack, job)


@pytest.mark.contract("S10", "S11")
def test_following_tells_states_and_output_in_order(stack: Stack) -> None:
    job = stack.submit(document("sh -c 'for i in 1 2 3; do echo $i; done'"))

    events = list(stack.follow(job))

    states = [event.json()["status"] for event in events if event.event == "state"]
    text = "".join(event.json()["text"] for event in events if event.event == "stdout")
    assert states == ["pending", "running", "completed"]
    assert text == "1\n2\n3\n"
    assert events[-1].event == "end"


@pytest.mark.contract("S8", "S31", "S34", "S83")
def test_tasks_share_a_scratch_directory(stack: Stack, runtime: str) -> None:
    commands = ("sh -c 'echo shared > file; pwd'", "sh -c 'cat file; echo $HOME'")
    job = stack.submit(document(*commands, runtime=runtime))

    ended = stack.wait_job(job)

    assert exit_codes(ended) == [0, 0]
    assert stack.output(job) == "/home/user\nshared\n/home/user\n"


@pytest.mark.contract("S8", "S16", "S84", "S112")
def test_tasks_may_use_different_runtimes(stack: Stack) -> None:
    tasks = [
        {
            "image": "busybox",
            "runtime": runtime,
            "cmd": "sh -c 'echo $PROMINENCE_CONTAINER_RUNTIME'",
        }
        for runtime in RUNTIMES
    ]
    job = stack.submit({"tasks": tasks})

    stack.wait_job(job)

    assert stack.output(job) == "singularity\nudocker\n"


@pytest.mark.contract("S88", "U13")
def test_input_files_are_there(stack: Stack, runtime: str) -> None:
    script = base64.b64encode(b"#!/bin/sh\necho from the script\n").decode()
    inputs = [{"filename": "run.sh", "content": script, "executable": True}]
    job = stack.submit(document("./run.sh", runtime=runtime, inputs=inputs))

    assert stack.wait_job(job)["status"] == "completed"
    assert stack.output(job) == "from the script\n"


@pytest.mark.contract("S82", "S113")
def test_environment_and_working_directory_reach_the_task(stack: Stack, runtime: str) -> None:
    task = {
        "image": "busybox",
        "runtime": runtime,
        "cmd": "sh -c 'echo $GREETING; pwd; echo $PROMINENCE_JOB_ID'",
        "env": {"GREETING": "a, b = c"},
        "workdir": "/tmp",
    }
    job = stack.submit({"tasks": [task]})

    stack.wait_job(job)

    assert stack.output(job) == f"a, b = c\n/tmp\n{job}\n"


@pytest.mark.contract("S12")
def test_a_failing_program_completes_with_its_exit_code(stack: Stack, runtime: str) -> None:
    job = stack.submit(document("sh -c 'exit 7'", "echo never", runtime=runtime))

    ended = stack.wait_job(job)

    assert (ended["status"], exit_codes(ended)) == ("completed", [7])
    assert stack.output(job) == ""


@pytest.mark.contract("S98")
def test_a_failing_job_is_tried_again_as_often_as_it_asks(stack: Stack) -> None:
    job = stack.submit(document("sh -c 'exit 7'", policies={"maximumRetries": 2}))

    ended = stack.wait_job(job)

    assert (ended["status"], ended["execution"]["retries"]) == ("completed", 2)


def _unique_sleep() -> str:
    """A command that no other job of this machine runs: the suite runs on two back ends at once."""
    return f"sleep {os.getpid() * 1000 + next(_numbers)}"


@pytest.mark.contract("S14", "S81")
def test_a_job_over_its_walltime_is_killed(stack: Stack, runtime: str) -> None:
    mark = _unique_sleep()
    resources = {"cpus": 1, "memory": 1, "disk": 1, "nodes": 1, "walltime": 0.03}
    job = stack.submit(document(mark, runtime=runtime, resources=resources))

    ended = stack.wait_job(job)

    assert (ended["status"], ended["statusReason"]) == ("killed", "Walltime limit exceeded")
    assert not commands_containing(mark)


@pytest.mark.contract("S13")
def test_deleting_a_running_job_kills_its_processes(stack: Stack, runtime: str) -> None:
    mark = _unique_sleep()
    job = stack.submit(document(f"sh -c 'echo begun; {mark} & {mark}'", runtime=runtime))
    stack.wait_status(job, "running")
    wait_until(lambda: commands_containing(mark), 30, dump=stack.dump)

    _delete(stack, job)

    assert stack.wait_job(job)["status"] == "deleted"
    wait_until(lambda: not commands_containing(mark), 20, dump=lambda: commands_containing(mark))


@pytest.mark.contract("S15")
def test_an_unknown_image_fails_the_job(stack: Stack, runtime: str) -> None:
    task = {"image": "no/such-image:1", "runtime": runtime, "cmd": "true"}
    job = stack.submit({"tasks": [task]})

    ended = stack.wait_job(job)

    assert (ended["status"], ended["statusReason"]) == ("failed", "Container image pull failed")


def test_an_unknown_command_says_so(stack: Stack, runtime: str) -> None:
    job = stack.submit(document("no-such-program", runtime=runtime))

    ended = stack.wait_job(job)

    assert ended["status"] in {"failed", "completed"}
    if ended["status"] == "completed":
        assert exit_codes(ended) != [0]


def test_much_output_of_many_lines_is_whole(stack: Stack, runtime: str) -> None:
    job = stack.submit(document("seq 1 200000", runtime=runtime))

    stack.wait_job(job, timeout=120)

    expected = "".join(f"{number}\n" for number in range(1, 200_001))
    assert stack.output(job) == expected


def test_text_beyond_ascii_survives(stack: Stack) -> None:
    job = stack.submit(document("printf 'grüße €\\n%s' 東京"))

    stack.wait_job(job)

    assert stack.output(job) == "grüße €\n東京"


def _delete(stack: Stack, job: int) -> None:
    with stack.client() as client:
        answer = client.delete(f"/jobs/{job}")
    assert (answer.status_code, answer.json()) == (200, {})
