"""The two published clients from PyPI, unmodified, each in an environment of its own (C15-C25, C44-C56)."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stack import Stack
from tests.wait import wait_until

PROJECT = Path(__file__).resolve().parent.parent.parent


CLIENTS = {"0.21": ("prominence", "0.21.0"), "1.5": ("prominence-cli", "1.5.1")}


@pytest.fixture(scope="session")
def programs() -> dict[str, Path]:
    """The installed commands; made once and kept between sessions."""
    setup = PROJECT / "tests" / "setup" / "pypi-client.sh"
    places = {
        name: subprocess.run(
            [setup, sys.executable, *package], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name, package in CLIENTS.items()
    }
    return {name: Path(place) / "bin" / "prominence" for name, place in places.items()}


@pytest.fixture(params=sorted(CLIENTS))
def client(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def program(programs: dict[str, Path], client: str) -> Path:
    return programs[client]


newer = pytest.mark.parametrize("client", ["0.21"])
"""What only the newer client can do."""


Run = Callable[..., str]


@pytest.fixture
def owner(client: str) -> str:
    """A user of each client's own."""
    return f"client-{client}"


@pytest.fixture
def prominence(program: Path, owner: str, stack: Stack, tmp_path: Path) -> Run:
    """Run the command as its own user and return what it printed; it must end well, without a traceback."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PROMINENCE_URL": stack.url,
        "PROMINENCE_TOKEN": stack.token(owner),
    }

    def run(*words: str) -> str:
        done = subprocess.run(
            [program, *words],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        return done.stdout

    return run


def created(text: str) -> int:
    match = re.fullmatch(r"Job created with id (\d+)\n", text)
    assert match, text
    return int(match[1])


def run_job(prominence: Run, stack: Stack, owner: str, *words: str) -> tuple[int, str]:
    """Create a job with these words, wait for its end; its id, and its output as printed."""
    job = created(prominence("create", *words))
    stack.wait_job(job, owner)
    return job, prominence("stdout", str(job))


def ids(text: str) -> list[int]:
    """The first column of a printed table."""
    header, *lines = text.splitlines()
    assert header.split() == ["ID", "NAME", "CREATED", "STATUS", "ELAPSED", "IMAGE", "CMD"]
    return [int(line.split()[0]) for line in lines]


@pytest.mark.contract("S2")
def test_create_prints_an_id_and_the_job_completes(
    prominence: Run, owner: str, stack: Stack
) -> None:
    job = created(
        prominence(
            "create", "--name", "hello", "busybox", "sh -c 'echo hello world; echo problem >&2'"
        )
    )

    ended = stack.wait_job(job, owner)

    assert ended["status"] == "completed"
    assert ended["resources"] == {"nodes": 1, "cpus": 1, "memory": 1, "disk": 10}
    assert prominence("stdout", str(job)) == "hello world\n\n"
    assert prominence("stderr", str(job)) == "problem\n\n"


def test_list_shows_active_jobs_and_delete_ends_one(
    prominence: Run, owner: str, stack: Stack
) -> None:
    job = created(prominence("create", "busybox", "sleep 600"))
    assert job in ids(prominence("list"))

    assert prominence("delete", str(job)) == "Success\n"

    assert stack.wait_job(job, owner)["status"] == "deleted"
    assert job not in ids(prominence("list"))


def test_list_completed_shows_the_most_recent(prominence: Run, owner: str, stack: Stack) -> None:
    jobs = [created(prominence("create", "busybox", "true")) for _ in range(2)]
    for job in jobs:
        stack.wait_job(job, owner)

    assert ids(prominence("list", "--completed")) == jobs[1:]
    assert ids(prominence("list", "--completed", "--last", "2")) == jobs


def test_list_filters_by_label(prominence: Run, owner: str, stack: Stack) -> None:
    job = created(prominence("create", "--label", "colour=green", "busybox", "true"))
    created(prominence("create", "--label", "colour=red", "busybox", "true"))
    stack.wait_job(job, owner)

    assert ids(prominence("list", "--all", "--constraint", "colour=green")) == [job]


def test_describe_prints_the_job(prominence: Run, owner: str, stack: Stack) -> None:
    job = created(prominence("create", "--cpus", "2", "--memory", "4", "busybox", "true"))
    stack.wait_job(job, owner)

    description = json.loads(prominence("describe", str(job)))

    assert (description["id"], description["status"]) == (job, "completed")
    assert description["resources"]["cpus"] == 2
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", description["events"]["createTime"])
    assert description["execution"]["tasks"][0]["exitCode"] == 0


@pytest.mark.parametrize("form", ["json", "yaml"])
@pytest.mark.contract("S7", "C51")
def test_run_submits_a_file(
    prominence: Run, owner: str, stack: Stack, tmp_path: Path, form: str
) -> None:
    file = tmp_path / f"job.{form}"
    if form == "json":
        document = {
            "resources": {"cpus": 1, "memory": 1, "nodes": 1, "disk": 10},
            "tasks": [{"image": "busybox", "runtime": "udocker", "cmd": "echo from a file"}],
        }
        file.write_text(json.dumps(document))
    else:
        file.write_text("tasks:\n- image: busybox\n  cmd: echo from a file\n")

    job = created(prominence("run", str(file)))

    assert stack.wait_job(job, owner)["status"] == "completed"
    assert prominence("stdout", str(job)) == "from a file\n\n"


@pytest.mark.contract("S76", "S88", "C48")
def test_an_input_file_is_uploaded(
    prominence: Run, owner: str, stack: Stack, tmp_path: Path
) -> None:
    (tmp_path / "data.txt").write_text("content\n")

    job = created(prominence("create", "--input", "data.txt", "busybox", "cat data.txt"))

    stack.wait_job(job, owner)
    assert prominence("stdout", str(job)) == "content\n\n"


def test_what_does_not_exist_is_said_without_a_traceback(
    program: Path, owner: str, stack: Stack
) -> None:
    done = subprocess.run(
        [program, "describe", "999999999"],
        env={"PROMINENCE_URL": stack.url, "PROMINENCE_TOKEN": stack.token(owner), "HOME": "/"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "No such job" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.contract("S66", "S67", "S73", "S74", "S75", "S80", "C44", "C45")
def test_options_become_the_document(prominence: Run, owner: str, stack: Stack) -> None:
    words = ("--name", "all", "--label", "a=b", "--label", "c=d", "--cpus", "2", "--memory", "3")
    words += ("--disk", "4", "--nodes", "1", "--walltime", "5", "--workdir", "/tmp")
    words += ("--env", "LOWER=4.5", "--env", "UPPER=6.7")

    job, text = run_job(
        prominence, stack, owner, *words, "busybox", "sh -c 'pwd; echo $LOWER $UPPER'"
    )

    found = stack.describe(job, owner)
    assert (found["name"], found["labels"]) == ("all", {"a": "b", "c": "d"})
    expected = {"nodes": 1, "cpus": 2, "memory": 3, "disk": 4, "walltime": 5}
    assert found["resources"] == expected
    assert text == "/tmp\n4.5 6.7\n\n"


@pytest.mark.contract("S98", "S107")
def test_retries_are_made(prominence: Run, owner: str, stack: Stack) -> None:
    job, text = run_job(
        prominence, stack, owner, "--retries", "2", "busybox", "sh -c 'echo try; exit 3'"
    )

    ended = stack.describe(job, owner)
    assert (ended["status"], ended["execution"]["retries"]) == ("completed", 2)
    assert ended["execution"]["tasks"][0]["exitCode"] == 3
    assert text == "try\n\n"


@newer
def test_clone_prints_an_id_and_runs_the_same_c24(
    prominence: Run, owner: str, stack: Stack, tmp_path: Path
) -> None:
    (tmp_path / "data.txt").write_text("cloned\n")
    job, _ = run_job(prominence, stack, owner, "--input", "data.txt", "busybox", "cat data.txt")

    clone = created(prominence("clone", "job", str(job)))

    assert stack.wait_job(clone, owner)["status"] == "completed"
    assert prominence("stdout", str(clone)) == "cloned\n\n"


@newer
def test_kept_jobs_are_listed_until_removed_c25(prominence: Run, owner: str, stack: Stack) -> None:
    job, _ = run_job(prominence, stack, owner, "--leave-in-queue", "busybox", "true")
    assert job in ids(prominence("list"))

    prominence("remove", "job", str(job))

    assert job not in ids(prominence("list"))


@newer
@pytest.mark.contract("C46", "C52", "U24", "U29", "S101")
def test_policies_are_understood(prominence: Run, owner: str, stack: Stack) -> None:
    words = ("--task-retries", "1", "--priority", "5", "--max-time-in-queue", "600")

    job, text = run_job(prominence, stack, owner, *words, "busybox", "sh -c 'echo try; exit 3'")

    ended = stack.describe(job, owner)
    assert ended["execution"]["tasks"][0]["retries"] == 1
    assert text == "try\ntry\n\n"


@newer
def test_list_filters_by_name_and_several_labels_c13(
    prominence: Run, owner: str, stack: Stack
) -> None:
    create = ("create", "--label", "p=1", "--label", "q=2", "--name", "filtered")
    job = created(prominence(*create, "busybox", "true"))
    created(prominence("create", "--label", "p=1", "busybox", "true"))
    stack.wait_job(job, owner)

    both = ("--constraint", "p=1", "--constraint", "q=2")
    assert ids(prominence("list", "--all", *both)) == [job]
    assert ids(prominence("list", "--all", "--name", "filtered")) == [job]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("echo one\necho two", "one\ntwo\n\n"),
        ("#!/bin/sh\nfor i in 1 2\ndo echo $i\ndone", "1\n2\n\n"),
    ],
)
def test_commands_of_several_lines_run_c51(
    prominence: Run, owner: str, stack: Stack, tmp_path: Path, lines: str, expected: str
) -> None:
    document = {
        "resources": {"cpus": 1, "memory": 1, "nodes": 1, "disk": 10},
        "tasks": [{"image": "busybox", "runtime": "singularity", "cmd": lines}],
    }
    (tmp_path / "job.json").write_text(json.dumps(document))

    job = created(prominence("run", str(tmp_path / "job.json")))

    assert stack.wait_job(job, owner)["status"] == "completed"
    assert prominence("stdout", str(job)) == expected


FACTORY_DAG = {
    "name": "factory-dag-workflow",
    "jobs": [
        {
            "resources": {"nodes": 1, "cpus": 1, "memory": 1, "disk": 10},
            "tasks": [{"image": "busybox", "runtime": "singularity", "cmd": cmd}],
            "name": name,
        }
        for name, cmd in (
            ("process", "echo $id"),
            ("merge", "sh -c 'echo merged >&2; exit ${PROMINENCE_WORKFLOW_ID:+3}'"),
        )
    ],
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


def test_a_workflow_is_run_listed_described_and_deleted(
    prominence: Run, owner: str, stack: Stack, tmp_path: Path
) -> None:
    """S56-S58, C32, C33, C36-C38."""
    (tmp_path / "w.json").write_text(json.dumps(FACTORY_DAG))
    first = workflow_id(prominence("run", "w.json"))
    wait_workflow(stack, first, owner)

    assert re.search(rf"^{first} .* failed ", prominence("list", "workflows", "--completed"), re.M)
    described = json.loads(prominence("describe", "workflow", str(first)))
    assert (described["id"], described["status"]) == (first, "failed")
    assert len(ids(prominence("list", "jobs", str(first)))) == 4
    assert prominence("stdout", str(first), "process/2") == "3\n\n"
    assert prominence("stderr", str(first), "merge") == "merged\n\n"

    second = workflow_id(prominence("run", "w.json"))
    assert prominence("delete", "workflow", str(second)) == "Success\n"
    assert wait_workflow(stack, second, owner) == "deleted"


@newer
def test_a_workflow_is_rerun_and_cloned_s64(
    prominence: Run, owner: str, stack: Stack, tmp_path: Path
) -> None:
    (tmp_path / "w.json").write_text(json.dumps(FACTORY_DAG))
    first = workflow_id(prominence("run", "w.json"))
    wait_workflow(stack, first, owner)

    again = workflow_id(prominence("rerun", str(first)))
    cloned = workflow_id(prominence("clone", "workflow", str(first)))

    assert {wait_workflow(stack, workflow, owner) for workflow in (again, cloned)} == {"failed"}
    assert len(ids(prominence("list", "jobs", str(again)))) == 1
    assert len(ids(prominence("list", "jobs", str(cloned)))) == 4


def workflow_id(text: str) -> int:
    match = re.search(r"orkflow .*id (\d+)", text)
    assert match, text
    return int(match[1])


def wait_workflow(stack: Stack, workflow: int, owner: str) -> str:
    """Its status, once it has ended."""

    def ended() -> str | None:
        with stack.client(owner) as client:
            (found,) = client.get(f"/workflows/{workflow}").json()
        return None if found["status"] in {"pending", "running"} else str(found["status"])

    return wait_until(ended, 90, dump=stack.dump)
