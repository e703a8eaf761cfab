"""A caller with a token, jobs in every state, and golden files."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client

from jobs.models import Attempt, Job, Placement
from jobs.services import submit_job
from jobs.spec import parse_job
from jobs.states import JobStatus, Reason
from prominence.auth import forget_users
from prominence.tokens import issue_token

GOLDEN = Path(__file__).parent / "golden"
TASK = {"image": "eoscprominence/testpi", "runtime": "singularity"}
RESOURCES = {"memory": 1, "cpus": 1, "nodes": 1, "disk": 10}
PI = {"name": "calculate-pi", "resources": RESOURCES, "tasks": [TASK]}
CREATED, STARTED, ENDED = (
    datetime.fromtimestamp(t, UTC) for t in (1612684304, 1612684595, 1612684626)
)


class Api:
    """The REST API as one user, at one of its roots."""

    def __init__(self, token: str, root: str = "/api/v1", scheme: str = "Bearer") -> None:
        self.root = root
        self.client = Client(
            headers={"authorization": f"{scheme} {token}"}, raise_request_exception=False
        )

    def get(self, path: str) -> Any:
        return self.client.get(self.root + path)

    def delete(self, path: str) -> Any:
        return self.client.delete(self.root + path)

    def post(self, path: str, body: object, content_type: str = "application/json") -> Any:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.client.generic("POST", self.root + path, data, content_type)

    def ids(self, query: str = "") -> list[int]:
        response = self.get(f"/jobs{query}")
        assert response.status_code == 200, response.content
        return [job["id"] for job in response.json()]


@pytest.fixture(autouse=True, scope="session")
def _static_files() -> None:
    """WhiteNoise warns when its directory is not there; `collectstatic` makes it in real systems."""
    Path(settings.STATIC_ROOT).mkdir(parents=True, exist_ok=True)


@pytest.fixture(autouse=True)
def _no_cached_users() -> Iterator[None]:
    """User rows are rolled back between tests, under the cache."""
    forget_users()
    yield
    forget_users()


@pytest.fixture
def alice(db: None) -> User:
    return User.objects.create(username="alice")


@pytest.fixture
def bob(db: None) -> User:
    return User.objects.create(username="bob")


@pytest.fixture
def api(alice: User) -> Api:
    return Api(issue_token("alice", valid_s=60))


@pytest.fixture
def api_of_bob(bob: User) -> Api:
    return Api(issue_token("bob", valid_s=60))


MakeJob = Callable[..., Job]


@pytest.fixture
def make_job(alice: User) -> MakeJob:
    """Make a job of alice; `status` other than pending gives it an attempt as a node would have left it."""

    def make(
        document: dict[str, Any] | None = None,
        *,
        owner: User = alice,
        status: JobStatus = JobStatus.PENDING,
        reason: Reason | str = "",
        tasks: list[dict[str, Any]] | None = None,
    ) -> Job:
        job = submit_job(owner=owner, document=parse_job(document or PI))
        Job.objects.filter(pk=job.pk).update(created_at=CREATED)
        if status != JobStatus.PENDING:
            _advance(job, status, reason, tasks or [])
        job.refresh_from_db()
        return job

    return make


def _advance(job: Job, status: JobStatus, reason: str, tasks: list[dict[str, Any]]) -> None:
    ended = ENDED if status != JobStatus.RUNNING else None
    Job.objects.filter(pk=job.pk).update(
        status=status, reason=reason, attempt=1, queued=False, started_at=STARTED, ended_at=ended
    )
    attempt = Attempt.objects.create(
        job=job, number=1, tasks=tasks, max_memory_kb=242814 if ended else None,
        started_at=STARTED, ended_at=ended,
    )  # fmt: skip
    Placement.objects.create(
        attempt=attempt, incarnation=1, node_name="node-1", site="OpenStack-UNIV-LILLE",
        cpus=1, memory_mb=1024, disk_mb=10240, live=ended is None,
    )  # fmt: skip


def golden(name: str) -> Any:
    """The body that the API promises; `"ID"` stands for the job's id."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def with_id(body: Any, job_id: int) -> Any:
    return json.loads(json.dumps(body).replace('"ID"', str(job_id)))
