"""Secrets of users: they reach the job, and nothing else ever shows or keeps them; with either runtime (S39, S110)."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import StackMaker
from tests.e2e.gate import Gate
from tests.stack import Stack
from worker.demo_registry import DemoRegistry
from worker.image_maker import ImageConfig, build_busybox_image, push_image
from worker.runtimes.base import Credential

HALVES = ("correct-horse-", "battery-staple")
SECRET = "".join(HALVES)
TOKEN = "registry-t0ken-of-alice"
BOTH = pytest.mark.parametrize("runtime", ["singularity", "udocker"])
RESOURCES = {"cpus": 1, "memory": 1, "disk": 1}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoRegistry]:
    """A registry for one account."""
    credential = Credential(username="alice", token=TOKEN)
    with DemoRegistry(tmp_path_factory.mktemp("registry"), credential=credential) as running:
        image = build_busybox_image(ImageConfig(command=("sh",)))
        push_image(image, running.url, name="closed/box:1", credential=credential)
        yield running


@pytest.fixture(scope="module")
def closed_stack(make_stack: StackMaker) -> Iterator[Stack]:
    """A stack of its own, whose files can be searched whole."""
    with make_stack() as stack:
        yield stack


def files_with(directory: Path, word: bytes) -> list[str]:
    """Files that hold a word, sockets and the like apart; those of ended jobs may go meanwhile."""
    found = []
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file() and not path.is_symlink() and word in path.read_bytes():
                found.append(str(path))
    return found


def command_lines_with(word: bytes) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if word in line:
            found.append(f"{path}: {line!r}")
    return found


def answers(stack: Stack, job: int) -> str:
    """All that the API says of a job."""
    paths = [f"/jobs/{job}", "/jobs?all=true&detail=true", f"/jobs/{job}/stdout"]
    with stack.client() as client:
        texts = [client.get(path).text for path in paths]
    return "".join([*texts, *(str(event) for event in stack.follow(job))])


@BOTH
@pytest.mark.contract("S110", "S39")
def test_secret_reaches_the_program_and_is_shown_nowhere(
    closed_stack: Stack, registry: DemoRegistry, runtime: str
) -> None:
    image = f"{registry.url.removeprefix('http://')}/closed/box:1"
    with Gate() as gate:
        script = (
            f"[ $KEY = {HALVES[0]}''{HALVES[1]} ] && echo right; echo key: $KEY.; "
            f"printf {HALVES[0]}; wget -q -O /dev/null {gate.url}/note/half; "
            f"until wget -q -O /dev/null {gate.url}/go 2>/dev/null; do sleep 0.2; done; "
            f"echo {HALVES[1]} >&1"
        )
        job = closed_stack.submit(
            {
                "resources": RESOURCES,
                "tasks": [
                    {
                        "image": image,
                        "runtime": runtime,
                        "cmd": "sh",
                        "args": ["-c", script],
                        "env": {"KEY": {"secret": SECRET}},
                        "imagePullCredential": {"username": "alice", "token": TOKEN},
                    }
                ],
            }
        )
        closed_stack.wait_status(job, "running")
        assert not command_lines_with(SECRET.encode()) + command_lines_with(TOKEN.encode())
        gate.open()
        described = closed_stack.wait_job(job)
    assert closed_stack.output(job) == "right\nkey: ***.\n***\n"
    task = described["tasks"][0]
    assert task["env"] == {"KEY": {"secret": "***"}}
    assert task["imagePullCredential"] == {"username": "***", "token": "***"}
    said = answers(closed_stack, job)
    rows = str(closed_stack.query(f"SELECT spec FROM jobs_job WHERE id = {job}"))
    for secret in (SECRET, TOKEN):
        assert secret not in said + rows
        assert not files_with(closed_stack.directory, secret.encode())


@BOTH
@pytest.mark.parametrize("token", [None, "wrong-token-of-alice"])
@pytest.mark.contract("S39", "S15")
def test_image_refused_to_a_credential_fails_the_job_and_says_so(
    closed_stack: Stack, registry: DemoRegistry, runtime: str, token: str | None
) -> None:
    login = {"imagePullCredential": {"username": "alice", "token": token}} if token else {}
    image = f"{registry.url.removeprefix('http://')}/closed/box:1"
    job = closed_stack.submit(
        {
            "resources": RESOURCES,
            "policies": {"maximumRetries": 3},
            "tasks": [{"image": image, "runtime": runtime, "cmd": "true", **login}],
        }
    )
    described = closed_stack.wait_job(job)
    assert (described["status"], described["statusReason"]) == (
        "failed",
        "Container image pull failed",
    )
    assert "closed/box" in described["statusDetail"]
    assert described["execution"]["retries"] == 0  # the answer would be the same
    assert not files_with(closed_stack.directory, b"wrong-token-of-alice")
