"""The published client, prominence 0.21.0 from PyPI, unmodified, in an environment of its own."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stack import Stack

PROJECT = Path(__file__).resolve().parent.parent.parent
OWNER = "published-client"


@pytest.fixture(scope="session")
def program() -> Path:
    """The installed command; made once and kept between sessions."""
    made = subprocess.run(
        [PROJECT / "tests" / "setup" / "pypi-client.sh", sys.executable],
        capture_output=True,
        text=True,
        check=True,
    )
    return Path(made.stdout.strip()) / "bin" / "prominence"


Run = Callable[..., str]


@pytest.fixture
def prominence(program: Path, stack: Stack, tmp_path: Path) -> Run:
    """Run the command as the user OWNER and return what it printed; it must end well, without a traceback."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PROMINENCE_URL": stack.url,
        "PROMINENCE_TOKEN": stack.token(OWNER),
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


def ids(text: str) -> list[int]:
    """The first column of a printed table."""
    header, *lines = text.splitlines()
    assert header.split() == ["ID", "NAME", "CREATED", "STATUS", "ELAPSED", "IMAGE", "CMD"]
    return [int(line.split()[0]) for line in lines]


def test_create_prints_an_id_and_the_job_completes(prominence: Run, stack: Stack) -> None:
    job = created(prominence("create", "--name", "hello", "busybox", "echo hello world"))

    ended = stack.wait_job(job, OWNER)

    assert ended["status"] == "completed"
    assert prominence("stdout", str(job)) == "hello world\n\n"


def test_stderr_is_printed(prominence: Run, stack: Stack) -> None:
    job = created(prominence("create", "busybox", "sh -c 'echo problem >&2'"))
    stack.wait_job(job, OWNER)

    assert prominence("stderr", str(job)) == "problem\n\n"


def test_list_shows_active_jobs_and_delete_ends_one(prominence: Run, stack: Stack) -> None:
    job = created(prominence("create", "busybox", "sleep 600"))
    assert job in ids(prominence("list"))

    assert prominence("delete", str(job)) == "Success\n"

    assert stack.wait_job(job, OWNER)["status"] == "deleted"
    assert job not in ids(prominence("list"))


def test_list_completed_shows_the_most_recent(prominence: Run, stack: Stack) -> None:
    jobs = [created(prominence("create", "busybox", "true")) for _ in range(2)]
    for job in jobs:
        stack.wait_job(job, OWNER)

    assert ids(prominence("list", "--completed")) == jobs[1:]
    assert ids(prominence("list", "--completed", "--last", "2")) == jobs


def test_list_filters_by_label(prominence: Run, stack: Stack) -> None:
    job = created(prominence("create", "--label", "colour=green", "busybox", "true"))
    created(prominence("create", "--label", "colour=red", "busybox", "true"))
    stack.wait_job(job, OWNER)

    assert ids(prominence("list", "--all", "--constraint", "colour=green")) == [job]


def test_describe_prints_the_job(prominence: Run, stack: Stack) -> None:
    job = created(prominence("create", "--cpus", "2", "--memory", "4", "busybox", "true"))
    stack.wait_job(job, OWNER)

    description = json.loads(prominence("describe", str(job)))

    assert (description["id"], description["status"]) == (job, "completed")
    assert description["resources"]["cpus"] == 2
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", description["events"]["createTime"])
    assert description["execution"]["tasks"][0]["exitCode"] == 0


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_run_submits_a_file(prominence: Run, stack: Stack, tmp_path: Path, form: str) -> None:
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

    assert stack.wait_job(job, OWNER)["status"] == "completed"
    assert prominence("stdout", str(job)) == "from a file\n\n"


def test_an_input_file_is_uploaded(prominence: Run, stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("content\n")

    job = created(prominence("create", "--input", "data.txt", "busybox", "cat data.txt"))

    stack.wait_job(job, OWNER)
    assert prominence("stdout", str(job)) == "content\n\n"


def test_what_does_not_exist_is_said_without_a_traceback(program: Path, stack: Stack) -> None:
    done = subprocess.run(
        [program, "describe", "999999999"],
        env={"PROMINENCE_URL": stack.url, "PROMINENCE_TOKEN": stack.token(OWNER), "HOME": "/"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "No such job" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
