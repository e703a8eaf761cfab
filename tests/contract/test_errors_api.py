"""Every error is JSON that today's clients can show (C6-C9), whatever went wrong."""

import json

import pytest
from django.test import Client

from jobs.models import Event, InputFile, Job, Outbox, PlacementPolicy
from prominence.bus import BEAT, server_redis
from prominence.health import LOOPS
from tests.contract.conftest import Api, golden
from tests.servers import RedisServer
from tests.unit.test_spec_refusals import BAD

pytestmark = pytest.mark.django_db


@pytest.mark.contract("S154")
def test_bad_document_lists_every_problem(api: Api) -> None:
    response = api.post("/jobs", {"tasks": [], "resources": {"cpus": 0}})

    assert response.status_code == 400
    body = response.json()
    body["errors"].sort(key=lambda problem: problem["code"])
    expected = golden("error-document")
    assert body["errors"] == expected["errors"]
    assert set(body["error"].split("; ")) == set(expected["error"].split("; "))


def test_no_refused_document_leaves_a_trace(api: Api) -> None:
    """Every entry of the unit test's table, as a request."""
    assert len(BAD) > 150
    for document, pointer, _, _ in BAD:
        try:
            body = json.dumps(document, allow_nan=False).encode()
        except ValueError:
            continue  # NaN is not JSON: below
        response = api.post("/jobs", body)
        assert response.status_code == 400, document
        found = {problem["pointer"] for problem in response.json()["errors"]}
        assert found == {pointer} or "\\u0000" in body.decode(), document

    for model in (Job, Event, InputFile, Outbox, PlacementPolicy):
        assert not model.objects.exists()  # type: ignore[attr-defined]


DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"5",
        b"true",
        b"{",
        b"{'a': 1}",
        b"\xff\xfe{}",
        b'{"tasks": [], "tasks": []}',
        b'{"tasks": [{"image": "a", "image": "b"}]}',
        b'{"resources": {"memory": NaN}}',
        b'{"resources": {"memory": Infinity}}',
        b'{"resources": {"memory": 1e999}}',
        b'{"resources": {"cpus": 1' + b"0" * 5000 + b"}}",
        b'{"tasks": [{"image": "\\ud800"}]}',
        b'{"\\ud800": 1}',
        b'{"tasks": [{"image": "a", "cmd": "a\\u0000b"}]}',
        DEEP,
        b'{"tasks": ' + DEEP + b"]" * 100_000 + b"}",
        b'{"labels": ' + b'{"a":' * 500 + b"1" + b"}" * 500 + b"}",
        b'{"policies": {"placement": ' + b'{"a":' * 500 + b"1" + b"}" * 500 + b"}}",
        b"tasks=1&name=2",
    ],
)
def test_unreadable_body_is_400_in_json_c9(api: Api, body: bytes) -> None:
    response = api.post("/jobs", body)

    assert response.status_code == 400
    answer = response.json()
    assert set(answer) == {"error", "errors"}
    assert answer["error"]
    assert all(set(problem) == {"pointer", "code", "message"} for problem in answer["errors"])


def test_byte_order_mark_is_accepted(api: Api) -> None:
    assert api.post("/jobs", b'\xef\xbb\xbf{"tasks": [{"image": "busybox"}]}').status_code == 201


def test_too_large_body_is_413_in_json(api: Api, settings: object) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000  # type: ignore[attr-defined]

    response = api.post("/jobs", b'{"name": "' + b"x" * 2000 + b'"}')

    assert response.status_code == 413
    assert "larger" in response.json()["error"]


@pytest.mark.parametrize("path", ["/jobs/", "/jobs/1/", "/nothing", "/jobs/1/unknown", "", "/"])
def test_unknown_path_is_404_in_json_without_redirect_c4(api: Api, path: str) -> None:
    for response in (api.get(path), api.post(path, {}), api.delete(path)):
        assert response.status_code == 404
        assert response.json()["error"].startswith("No such path")


@pytest.mark.parametrize(
    "path",
    [
        "/data/upload",
        "/kv/a/b",
        "/accounting",
        "/jobs/1/exec",
    ],
)
def test_path_not_built_yet_is_400_because_clients_misread_404_c6(api: Api, path: str) -> None:
    for response in (api.get(path), api.post(path, {}), api.delete(path)):
        assert response.status_code == 400
        assert response.json()["error"].endswith("is not available yet")
    assert Client().get(f"/api/v1{path}").status_code == 401


@pytest.mark.parametrize("path", ["/jobs", "/jobs/1", "/jobs/1/stdout", "/health"])
@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS"])
@pytest.mark.contract("S97", "C9")
def test_wrong_method_is_405_in_json(api: Api, path: str, method: str) -> None:
    response = api.client.generic(method, f"/api/v1{path}")

    assert response.status_code == 405
    assert method in response.json()["error"]


@pytest.mark.parametrize("accept", ["text/html", "application/xml", "text/plain", ""])
def test_accept_header_does_not_matter(api: Api, accept: str) -> None:
    response = api.client.get("/api/v1/jobs", headers={"accept": accept})

    assert (response.status_code, response["Content-Type"]) == (200, "application/json")


def test_unknown_host_is_400_in_json(api: Api, settings: object) -> None:
    settings.ALLOWED_HOSTS = ["example.org"]  # type: ignore[attr-defined]

    response = api.get("/jobs")

    assert (response.status_code, response.json()) == (400, {"error": "Bad request"})


@pytest.mark.parametrize(
    "beats", [[], ["scheduler"], ["ingest", "workflows"], LOOPS[:-1], LOOPS], ids=len
)
@pytest.mark.django_db
def test_health_names_what_completes_nothing_c43(
    redis_server: RedisServer, beats: list[str]
) -> None:
    for part in beats:
        server_redis().set(BEAT + part, "1", ex=60)

    response = Client().get("/api/v1/health")

    failing = [part for part in LOOPS if part not in beats]
    if failing:
        said = "; ".join(f"{part}: it has completed no step for 15 s" for part in failing)
        assert (response.status_code, response.json()) == (409, {"errors": said})
    else:
        assert (response.status_code, response.content) == (204, b"")
