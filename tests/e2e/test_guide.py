"""The user guide's job documents and curl lines, as written but for hosts, sites and where images come from."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stack import Stack
from worker.demo_registry import DemoRegistry
from worker.image_maker import Extra, ImageConfig, build_busybox_image, push_image
from worker.runtimes.base import Credential

GUIDE = Path(__file__).parent / "guide"
DOCUMENTS: dict[str, dict[str, Any]] = json.loads((GUIDE / "jobs.json").read_text())
LINES = (GUIDE / "curl.txt").read_text().splitlines()
HOST = "https://eosc.prominence.cloud/api/v1"
USER = "guide"
# What the guide calls by the names of its own clouds and registry.
SITES = {"OpenStack-Alpha": "test"}
GITLAB = "registry.gitlab.com"
RELEASES = {"7": b"CentOS Linux release 7.9\n", "8": b"CentOS Linux release 8.5\n"}
ALL = pytest.mark.parametrize("name", sorted(DOCUMENTS))


@pytest.fixture(scope="module", autouse=True)
def _images(demo_registry: DemoRegistry) -> None:
    for tag, text in RELEASES.items():
        extras = [Extra(path="etc/redhat-release", data=text)]
        image = build_busybox_image(ImageConfig(command=("sh",)), extras)
        push_image(image, demo_registry.url, name=f"library/centos:{tag}")


@pytest.fixture(scope="module")
def gitlab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that lets in the guide's account only; its host and port."""
    (task,) = DOCUMENTS["registry authentication"]["tasks"]
    credential = Credential(**task["imagePullCredential"])
    with DemoRegistry(tmp_path_factory.mktemp("gitlab"), credential=credential) as running:
        image = build_busybox_image(ImageConfig(entrypoint=("/bin/echo", "from gitlab")))
        name = task["image"].partition("/")[2]
        push_image(image, running.url, name=name, credential=credential)
        yield running.url.removeprefix("http://")


@pytest.fixture(scope="module")
def jobs(stack: Stack, gitlab: str) -> dict[str, int]:
    """All documents, submitted together."""
    stack.manage(
        "shell", "-c",
        "from clouds.models import Site; Site.objects.filter(name='test').update(region='Alpha')",
    )  # fmt: skip
    return {
        name: stack.submit(_mapped(document, gitlab), user=USER)
        for name, document in DOCUMENTS.items()
    }


def _mapped(document: dict[str, Any], gitlab: str) -> dict[str, Any]:
    text = json.dumps(document).replace(GITLAB, gitlab)
    for theirs, ours in SITES.items():
        text = text.replace(theirs, ours)
    return dict(json.loads(text))


EXPECTED = {
    "submit, by curl and by Python": "pi = 3.14",
    "multiple tasks": "".join(text.decode() for text in RELEASES.values()),
    "registry authentication": "from gitlab\n",
}


@pytest.mark.contract("S7", "S79", "S80", "S83", "S84", "S97", "S98", "S101", "S103", "S105", "S39")
@ALL
def test_documents_run_as_written(stack: Stack, jobs: dict[str, int], name: str) -> None:
    ended = stack.wait_job(jobs[name], user=USER)

    assert (ended["status"], ended.get("statusReason")) == ("completed", None)
    assert {task["exitCode"] for task in ended["execution"]["tasks"]} == {0}
    assert EXPECTED.get(name, "") in stack.output(jobs[name], user=USER)
    document = DOCUMENTS[name]
    assert ended["name"] == document.get("name", "")
    assert ended["resources"] == document["resources"]


def curl(stack: Stack, line: str, directory: Path, job: int = 0) -> tuple[str, Any]:
    """Run a line of the guide; its head (with -i) and its body."""
    command = line.replace(HOST, stack.url).replace("jobs/ID", f"jobs/{job}")
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        env={"PATH": os.environ["PATH"], "ACCESS_TOKEN": stack.token(USER), "NO_PROXY": "*"},
        cwd=directory,
        capture_output=True,
        text=True,
        check=True,
    )
    head, blank, body = done.stdout.partition("\n\n")
    return (head, body) if blank and head.startswith("HTTP/") else ("", done.stdout)


@pytest.mark.contract("S145", "S146", "S147", "S148", "S149", "S150", "S152", "S153")
def test_curl_lines_answer_as_shown(stack: Stack, tmp_path: Path) -> None:
    document = DOCUMENTS["submit, by curl and by Python"]
    (tmp_path / "testpi.json").write_text(json.dumps(document))
    submit, describe, active, completed, stdout, delete = LINES

    head, body = curl(stack, submit, tmp_path)
    assert head.startswith("HTTP/1.1 201 ")
    assert "content-type: application/json" in head.lower()
    job = json.loads(body)["id"]
    assert body == f'{{"id":{job}}}'
    found = json.loads(curl(stack, active, tmp_path)[1])
    assert not [entry for entry in found if "resources" in entry]
    ended = stack.wait_job(job, user=USER)
    assert json.loads(curl(stack, describe, tmp_path, job)[1]) == [ended]
    assert set(ended) == {"id", "name", "status", "events", "resources", "tasks", "execution"}
    assert set(ended["execution"]) >= {"maxMemoryUsageKB", "site", "tasks"}
    (last,) = json.loads(curl(stack, completed, tmp_path)[1])
    assert set(last) - {"statusReason"} == {"id", "name", "status", "events", "tasks"}
    assert "pi = 3.14" in curl(stack, stdout, tmp_path, job)[1]
    head, body = curl(stack, delete, tmp_path, job)
    assert (head.split("\n")[0].strip(), body) == ("HTTP/1.1 200 OK", "{}")


@pytest.mark.contract("S119", "S120", "S121", "S122", "S123")
def test_completed_job_shows_what_the_guide_lists(stack: Stack, jobs: dict[str, int]) -> None:
    ended = stack.wait_job(jobs["multiple tasks"], user=USER)

    assert set(ended["events"]) == {"createTime", "startTime", "endTime"}
    for task in ended["execution"]["tasks"]:
        assert set(task) >= {
            *("retries", "exitCode", "imagePullTime", "wallTimeUsage"),
            *("cpuTimeUsage", "maxResidentSetSizeKB"),
        }


@pytest.mark.contract("S115", "S116", "C2")
def test_job_uses_its_own_token_and_no_longer_than_it_runs(stack: Stack) -> None:
    """A job describes itself from inside; afterwards its token is dead."""
    command = (
        'sh -c \'wget -q -O - --header "Authorization: Bearer $PROMINENCE_TOKEN"'
        " $PROMINENCE_URL/jobs/$PROMINENCE_JOB_ID; echo; echo $PROMINENCE_TOKEN | rev'"
    )
    job = stack.submit({"tasks": [{"image": "busybox", "cmd": command}]}, user=USER)
    stack.wait_job(job, user=USER)

    answer, reversed_token = stack.output(job, user=USER).splitlines()
    token = reversed_token[::-1]  # as it is, it would be masked
    assert token.count(".") == 2

    (inside,) = json.loads(answer)
    assert (inside["id"], inside["status"]) in {(job, "pending"), (job, "running")}
    with stack.client(USER) as client:
        client.headers["Authorization"] = f"Bearer {token}"
        assert client.get(f"/jobs/{job}").status_code == 401
