"""The OpenAPI description against the implementation: routes, golden answers, and requests made from it."""

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode

import pytest
import schemathesis
from django.contrib.auth.models import User
from django.contrib.staticfiles import finders
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from jobs.states import JobStatus
from prominence.bus import BEAT, server_redis
from prominence.health import LOOPS
from prominence.tokens import issue_token
from prominence.views import NoSuchPathView, NotAvailableView
from tests.contract.conftest import GOLDEN, PI, Api, MakeJob, golden
from tests.contract.test_jobs_api import FULL
from tests.servers import RedisServer

pytestmark = pytest.mark.django_db
NOT_DESCRIBED = {"schema", "docs"}
# Which shape each golden file shows: an operation's answer.
SHAPES = {
    "error-document": "DocumentError",
    "error-unknown-job": "Error",
    "error-not-in-queue": "Error",
    "job-created": "Created",
    "job-pending": "Job",
    "job-completed": "Job",
    "job-full": "Job",
    "list-active": "JobEntry",
    "list-completed": "JobEntry",
}


@lru_cache(maxsize=1)
def description() -> dict[str, Any]:
    """What GET /schema answers; the same at every call."""
    answer = Client().get("/api/v1/schema")
    assert answer.status_code == 200
    return dict(answer.json())


def validator(name: str) -> Draft202012Validator:
    components = description()["components"]
    schema = {"$ref": f"#/components/schemas/{name}", "components": components}
    return Draft202012Validator(schema)


def routes(patterns: list[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            yield from routes(pattern.url_patterns, prefix + str(pattern.pattern))
        elif isinstance(pattern, URLPattern):
            yield prefix + str(pattern.pattern), getattr(pattern.callback, "view_class", None)


def test_every_route_and_method_is_described() -> None:
    served = {
        ("/" + path.replace("<str:", "{").replace("<path:", "{").replace(">", "}"), method)
        for path, view in routes(get_resolver().url_patterns)
        if path.startswith("api/v1/") and view not in {NotAvailableView, NoSuchPathView}
        for method in ("get", "post", "put", "delete", "patch")
        if hasattr(view, method) and path.removeprefix("api/v1/") not in NOT_DESCRIBED
    }
    repeats = {(path, "post") for path, _ in served if path.endswith(("/clone", "/remove"))}
    described = {(path, method) for path, item in description()["paths"].items() for method in item}

    assert described - served == {("/api/v1/jobs/{job_id}/events", "get")}
    assert served - described == repeats


def test_description_is_openapi_3_1_and_needs_no_token() -> None:
    assert description()["openapi"].startswith("3.1")
    Draft202012Validator.check_schema(
        {"components": description()["components"], "$ref": "#/components/schemas/JobDocument"}
    )


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("*.json")), ids=lambda file: file.stem)
def test_golden_answers_have_the_described_shape(file: Path) -> None:
    shape = SHAPES.get(file.stem)
    answer = golden(file.stem)
    entries = answer if isinstance(answer, list) else [answer]
    for entry in entries if shape else ():
        validator(shape or "").validate(entry | ({"id": 1} if "id" in entry else {}))


def test_answers_in_every_state_have_the_described_shape(api: Api, make_job: MakeJob) -> None:
    for status in JobStatus:
        make_job(FULL, status=status, tasks=[{"exit_code": 1, "image_pull_s": -1}])

    for entry in api.get("/jobs?all=true&detail=true").json():
        validator("Job").validate(entry)
        validator("Why").validate(api.get(f"/jobs/{entry['id']}/why").json())
    for entry in api.get("/jobs?all=true").json():
        validator("JobEntry").validate(entry)


@pytest.mark.parametrize("document", [PI, FULL])
def test_valid_documents_have_the_described_shape(document: dict[str, Any]) -> None:
    typo = {**document, "policies": {"maximumRetries": 1}}  # C55 is taken, not described
    validator("JobDocument").validate(typo)


def test_page_to_read_and_try_uses_our_own_assets() -> None:
    page = Client().get("/api/v1/docs").content.decode()

    sources = [part.split('"')[0] for part in page.replace('href="', 'src="').split('src="')[1:]]
    assert sources
    for source in sources:
        assert source.startswith("/static/drf_spectacular_sidecar/")
        assert finders.find(source.removeprefix("/static/"))


@pytest.fixture
def live_parts(redis_server: RedisServer) -> None:
    """Health is asked about as well."""
    for part in LOOPS:
        server_redis().set(BEAT + part, "1", ex=600)


OPERATIONS = [
    (path, method)
    for path, methods in {
        "jobs": "get post delete",
        "jobs/{job_id}": "get delete",
        "jobs/{job_id}/stdout": "get",
        "jobs/{job_id}/clone": "put",
        "jobs/{job_id}/remove": "put",
        "jobs/{job_id}/why": "get",
        "health": "get",
    }.items()
    for method in methods.split()
]


@pytest.mark.usefixtures("live_parts")
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_no_request_meets_an_undocumented_answer(
    alice: User, make_job: MakeJob, path: str, method: str
) -> None:
    """Requests made from the description, right ones and wrong ones, about no job and about a real one."""
    job = make_job(FULL, status=JobStatus.RUNNING)
    schema = schemathesis.openapi.from_dict(description())
    operation = schema[f"/api/v1/{path}"][method.upper()]
    client = Client(headers={"authorization": f"Bearer {issue_token('alice', valid_s=600)}"})

    def check(case: schemathesis.Case) -> None:
        for job_id in {case.path_parameters.get("job_id", ""), str(job.pk)}:
            ask(client, case, operation, job_id)

    modes = list(schemathesis.GenerationMode) if path != "health" else [RIGHT]
    made = st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in modes))
    given(case=made)(MODERATE(check))()


RIGHT = schemathesis.GenerationMode.POSITIVE
MODERATE = effort(
    max_examples=40,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def ask(client: Client, case: schemathesis.Case, operation: Any, job_id: str) -> None:
    """Send it, and compare the answer with what the description says of it."""
    sent = case.as_transport_kwargs(base_url="http://testserver")
    path = operation.full_path.replace("{job_id}", quote(unquote(job_id), safe=""))
    query = urlencode(sent.get("params") or {}, doseq=True)
    body = json.dumps(sent["json"]) if "json" in sent else sent.get("data") or b""
    answer = client.generic(operation.method.upper(), f"{path}?{query}", body, "application/json")
    what = f"{operation.method} {path}?{query} {body[:500]!r}: {answer.status_code}"
    responses = description()["paths"][operation.path][operation.method]["responses"]
    if path.count("/") != operation.full_path.count("/") or "%2F" in path:
        return  # another route
    assert str(answer.status_code) in responses, what
    content = responses[str(answer.status_code)].get("content")
    if content and "application/json" in content:
        shape = content["application/json"]["schema"]
        Draft202012Validator(
            {"components": description()["components"], "allOf": [shape]}
        ).validate(answer.json())
