"""`Idempotency-Key`: the same request has its effect once, whatever became of its answer."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, connection, connections

from jobs.idempotency import KeyedRequest, once
from jobs.models import Job
from jobs.services import submit_job
from jobs.spec import parse_job
from prominence.errors import KeyReused
from prominence.tokens import issue_token
from tests.contract.conftest import PI, Api, MakeJob


def post(api: Api, body: object, key: str, path: str = "/jobs") -> Any:
    return api.client.generic(
        "POST",
        api.root + path,
        body if isinstance(body, bytes) else json.dumps(body).encode(),
        "application/json",
        headers={"Idempotency-Key": key},
    )


def test_same_request_gets_the_first_answer(api: Api) -> None:
    first = post(api, PI, "once-1")
    again = post(api, PI, "once-1")

    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json() == {"id": Job.objects.get().pk}


def test_same_document_in_another_order_and_spacing_is_the_same_request(api: Api) -> None:
    first = post(api, PI, "k")
    again = post(api, json.dumps(dict(reversed(PI.items())), indent=3).encode(), "k")

    assert again.json() == first.json()


def test_other_body_is_409_and_changes_nothing(api: Api) -> None:
    first = post(api, PI, "k")
    other = post(api, {**PI, "name": "other"}, "k")

    assert other.status_code == 409
    assert "used for another request" in other.json()["error"]
    assert [job.pk for job in Job.objects.all()] == [first.json()["id"]]


def test_key_of_somebody_else_is_another_key(api: Api, api_of_bob: Api) -> None:
    assert post(api, PI, "k").json() != post(api_of_bob, PI, "k").json()


def test_refused_document_does_not_use_the_key_up(api: Api) -> None:
    assert post(api, {**PI, "tasks": []}, "k").status_code == 400
    assert post(api, PI, "k").status_code == 201


def test_without_a_key_each_request_counts(api: Api) -> None:
    assert api.post("/jobs", PI).json() != api.post("/jobs", PI).json()


@pytest.mark.parametrize("key", ["", " ", "k" * 256, "k\u00e4se", "tab\there"])
def test_key_that_cannot_be_used_is_400(api: Api, key: str) -> None:
    answer = post(api, PI, key)

    assert answer.status_code == 400
    assert "1 to 255 printable ASCII" in answer.json()["error"]
    assert not Job.objects.exists()


def test_longest_key_is_taken(api: Api) -> None:
    assert post(api, PI, "k" * 255).json() == post(api, PI, "k" * 255).json()


def test_clone_with_a_key_is_made_once(api: Api, make_job: MakeJob) -> None:
    job = make_job()
    first = post(api, b"", "k", f"/jobs/{job.pk}/clone")
    again = post(api, b"", "k", f"/jobs/{job.pk}/clone")

    assert (again.status_code, again.json()) == (201, first.json())
    assert post(api, PI, "k").status_code == 409


def request_of(owner: User, name: str = "a") -> KeyedRequest:
    return KeyedRequest.of(owner, key="k", action="test", document={**PI, "name": name})


def maker(owner: User, name: str = "a") -> Callable[[], int]:
    return lambda: submit_job(owner=owner, document=parse_job({**PI, "name": name})).pk


def test_effect_that_is_undone_leaves_no_key(alice: User) -> None:
    def fail() -> int:
        maker(alice)()
        raise OperationalError("the database went away")

    with pytest.raises(OperationalError):
        once(request_of(alice), fail)

    assert not Job.objects.exists()
    assert once(request_of(alice), maker(alice)) == Job.objects.get().pk


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("redis_server")
def test_requests_at_once_make_one_job() -> None:
    User.objects.create(username="alice")
    token = issue_token("alice", valid_s=60)

    def send(number: int) -> tuple[int, Any]:
        try:
            answer = post(Api(token), PI, f"k{number // 8}")
            return answer.status_code, answer.json()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(24)))

    assert {status for status, _ in answers} == {201}
    assert len({body["id"] for _, body in answers}) == Job.objects.count() == 3


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("redis_server")
def test_request_overtaken_by_the_same_one_is_undone_and_answers_as_it(alice: User) -> None:
    with connection.execute_wrapper(Overtaking(request_of(alice), maker(alice))):
        made = once(request_of(alice), maker(alice))

    assert made == Job.objects.get().pk


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("redis_server")
def test_request_overtaken_by_another_one_is_refused(alice: User) -> None:
    other = Overtaking(request_of(alice, "b"), maker(alice, "b"))
    with connection.execute_wrapper(other), pytest.raises(KeyReused):
        once(request_of(alice), maker(alice))

    assert [job.name for job in Job.objects.all()] == ["b"]


class Overtaking:
    """Commits a request on another connection right after the first look for its key."""

    def __init__(self, request: KeyedRequest, effect: Callable[[], int]) -> None:
        self.request = request
        self.effect = effect
        self.due = True

    def __call__(self, execute: Any, sql: str, *details: Any) -> Any:
        result = execute(sql, *details)
        if self.due and sql.startswith("SELECT") and "jobs_idempotencykey" in sql:
            self.due = False
            with ThreadPoolExecutor(1) as pool:
                pool.submit(self._commit).result()
        return result

    def _commit(self) -> None:
        try:
            once(self.request, self.effect)
        finally:
            connections.close_all()
