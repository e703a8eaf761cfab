"""Output files from a node to whoever holds their signed address (S91, U15, C31, C35)."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from django.contrib.auth.models import User
from django.test import Client

from clouds.enrolment import digest
from clouds.models import Incarnation, Node, Site
from jobs.models import Job, OutputFile, Placement
from jobs.output_files import signed_url
from jobs.states import JobStatus, Reason
from tests.contract.conftest import PI, Api, MakeJob
from worker.protocol import OUTPUT_PIECE_BYTES

WANTED = PI | {"outputFiles": ["*.txt", {"name": "/home/user/b"}], "outputDirs": ["out"]}
BIG = os.urandom(OUTPUT_PIECE_BYTES) + b"the end"
Put = Callable[..., Any]


@pytest.fixture
def job(make_job: MakeJob) -> Job:
    return make_job(WANTED, status=JobStatus.RUNNING)


@pytest.fixture
def put(job: Job) -> Put:
    """Send a piece as the node on which the job runs."""
    site = Site.objects.create(name="test")
    node = Node.objects.create(name="node-1", site=site)
    row = Incarnation.objects.create(
        node=node, boot="b", token_hash=digest("node-token"), redis_password_hash="",
        cpus=1, memory_mb=1, disk_mb=1, cpus_free=1, memory_mb_free=1, disk_mb_free=1, lease_s=60,
    )  # fmt: skip
    Placement.objects.filter(attempt__job=job).update(incarnation=row.pk)

    def send(data: bytes, *, number: int = 0, key: str = "", **words: Any) -> Any:
        query = {"name": "a.txt", "directory": 0, "size": len(data), "offset": 0} | words
        path = f"/node/v1/attempts/{key or f'{job.pk}.1.0'}/outputs/{number}?{urlencode(query)}"
        headers = {"authorization": "Bearer node-token"}
        return Client(headers=headers).put(path, data, "application/octet-stream")

    return send


def fetch(url: str, **headers: str) -> Any:
    """As a browser without any token."""
    parts = urlsplit(url)
    return Client(headers=headers).get(f"{parts.path}?{parts.query}")


def body(answer: Any) -> bytes:
    return b"".join(answer.streaming_content)


def test_output_files_are_listed_with_addresses_that_need_no_token_c35(
    api: Api, job: Job, put: Put
) -> None:
    assert put(b"hello").status_code == 204
    assert put(b"archive", number=1, name="sub/out", directory=1).status_code == 204

    (shown,) = api.get(f"/jobs/{job.pk}").json()

    (file,), (directory,) = shown["outputFiles"], shown["outputDirs"]
    assert (file["name"], file["size"]) == ("a.txt", 5)
    answer = fetch(file["url"])
    assert (answer.status_code, body(answer)) == (200, b"hello")
    assert answer["Content-Disposition"] == 'attachment; filename="a.txt"'
    assert 'filename="out.tgz"' in fetch(directory["url"])["Content-Disposition"]


def test_outputs_that_are_not_there_have_an_empty_address_u15(api: Api, job: Job) -> None:
    (shown,) = api.get(f"/jobs/{job.pk}").json()

    assert shown["outputFiles"] == [{"name": "*.txt", "url": ""}, {"name": "b", "url": ""}]
    assert shown["outputDirs"] == [{"name": "out", "url": ""}]


def test_large_file_comes_in_pieces_and_leaves_from_any_byte(job: Job, put: Put) -> None:
    first, rest = BIG[:OUTPUT_PIECE_BYTES], BIG[OUTPUT_PIECE_BYTES:]
    lost = put(rest, size=len(BIG), offset=OUTPUT_PIECE_BYTES)
    assert (lost.status_code, lost.json()["code"]) == (409, "0")
    for data, offset in ((first, 0), (first, 0), (rest, OUTPUT_PIECE_BYTES)):
        assert not OutputFile.objects.exists()
        assert put(data, size=len(BIG), offset=offset).status_code == 204
    file = OutputFile.objects.get()

    assert body(fetch(signed_url(file))) == BIG
    part = fetch(signed_url(file), range=f"bytes={OUTPUT_PIECE_BYTES - 3}-")
    assert (part.status_code, body(part)) == (206, BIG[-10:])
    assert part["Content-Range"] == f"bytes {len(BIG) - 10}-{len(BIG) - 1}/{len(BIG)}"
    assert fetch(signed_url(file), range=f"bytes={len(BIG)}-").status_code == 416


def test_empty_file_is_a_file(job: Job, put: Put) -> None:
    assert put(b"").status_code == 204
    assert body(fetch(signed_url(OutputFile.objects.get()))) == b""


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ({"size": 6}, 400),
        ({"offset": 1}, 400),
        ({"name": ""}, 400),
        ({"name": "x" * 5000}, 400),
        ({"size": "x"}, 400),
        ({"size": 1 << 40}, 400),
        ({"number": 1000}, 413),
        ({"number": "x"}, 400),
        ({"key": "4711.1.0"}, 403),
        ({"key": "x"}, 400),
    ],
)
def test_piece_that_cannot_be_is_refused(put: Put, words: dict[str, Any], status: int) -> None:
    assert put(b"hello", **words).status_code == status
    assert not OutputFile.objects.exists()


def test_file_and_job_have_limits(put: Put, settings: Any, job: Job) -> None:
    settings.CONFIG = replace(settings.CONFIG, output_file_bytes=10, output_job_bytes=15)

    assert put(b"12345678901").status_code == 413
    assert put(b"1234567890").status_code == 204
    assert put(b"1234567890", number=1).status_code == 413
    assert put(b"12345", number=1).status_code == 204


def test_ended_attempt_and_other_jobs_take_nothing(put: Put, job: Job) -> None:
    Placement.objects.filter(attempt__job=job).update(live=False)
    assert put(b"hello").status_code == 403
    Placement.objects.filter(attempt__job=job).update(live=True)
    Job.objects.filter(pk=job.pk).update(spec=job.spec | {"outputFiles": [], "outputDirs": []})
    assert put(b"hello").status_code == 403


@pytest.mark.parametrize("change", ["signature", "expires", "file", "none"])
def test_address_is_good_for_its_file_and_time_only(
    put: Put, job: Job, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(b"hello")
    put(b"other", number=1)
    first, second = OutputFile.objects.order_by("number")
    url = signed_url(first)
    if change == "none":
        now = time.time()
        monkeypatch.setattr("jobs.output_files.time.time", lambda: now + 8 * 86400)
    elif change == "file":
        url = url.replace(f"/outputs/{first.pk}/", f"/outputs/{second.pk}/")
    else:
        url = url.replace(f"{change}=", f"{change}=1")

    assert fetch(url).status_code == 403


def test_files_of_an_earlier_attempt_are_not_shown_as_the_present_ones(
    api: Api, put: Put, job: Job
) -> None:
    put(b"hello")
    Job.objects.filter(pk=job.pk).update(attempt=2)

    (shown,) = api.get(f"/jobs/{job.pk}").json()

    assert shown["outputFiles"][0] == {"name": "*.txt", "url": ""}


def test_unknown_address_says_no_more_than_that(alice: User) -> None:
    for path in ("1/a?expires=9999999999&signature=x", "x/a", "9" * 30 + "/a?expires=1"):
        answer = fetch(f"http://x/api/v1/outputs/{path}")
        assert (answer.status_code, answer.json()) == (
            403,
            {"error": "This address is not valid, or not any more"},
        )


def test_a_resubmitted_description_means_the_same_c31(api: Api, make_job: MakeJob) -> None:
    job = make_job(WANTED, status=JobStatus.COMPLETED, reason=Reason.FINISHED)
    (shown,) = api.get(f"/jobs/{job.pk}").json()
    document = {key: shown[key] for key in ("name", "resources", "tasks", "outputFiles")}

    again = api.post("/jobs", document).json()["id"]

    assert Job.objects.get(pk=again).spec["outputFiles"] == ["*.txt", "b"]
