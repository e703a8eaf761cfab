"""Who gets in and what for (S46, S116, S144, C1-C7), and the command that gives tokens out."""

import time
from io import StringIO

import jwt
import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client

from jobs.states import JobStatus
from prominence.auth import forget_users
from prominence.tokens import InvalidToken, issue_job_token, issue_token, verify_token
from tests.contract.conftest import PI, Api, MakeJob

pytestmark = pytest.mark.django_db
REFUSED = {"error": "Authentication failure"}


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "token", "Token"])
@pytest.mark.contract("S144")
def test_both_clients_header_forms_are_accepted_c1(scheme: str) -> None:
    assert Api(issue_token("carol", valid_s=60), scheme=scheme).ids() == []


def test_first_call_makes_the_user() -> None:
    Api(issue_token("carol", valid_s=60)).ids()

    assert User.objects.filter(username="carol").count() == 1


def _bad_headers() -> list[str]:
    now = int(time.time())
    claims = {"sub": "alice", "iss": "prominence", "iat": now, "exp": now + 60, "jti": "x"}
    key = settings.SECRET_KEY
    forged = [
        jwt.encode(claims, "k" * 48),
        jwt.encode(claims | {"iss": "other"}, key),
        jwt.encode(claims | {"exp": now - 1}, key),
        jwt.encode({k: v for k, v in claims.items() if k != "exp"}, key),
        jwt.encode(claims | {"sub": ""}, key),
        jwt.encode(claims | {"sub": "a b"}, key),
        jwt.encode(claims | {"groups": "admin"}, key),
        jwt.encode(claims, None, algorithm="none"),
        jwt.encode(claims, key, algorithm="HS512"),
    ]
    return [f"Bearer {token}" for token in forged]


@pytest.mark.parametrize("number", range(9))
def test_forged_or_expired_token_is_401_in_json_c3(number: int) -> None:
    response = Client(headers={"authorization": _bad_headers()[number]}).get("/api/v1/jobs")

    assert (response.status_code, response.json()) == (401, REFUSED)


@pytest.mark.parametrize(
    "header",
    ["Bearer", "Bearer ", "Bearer a b", "Basic YTpi", "garbage", "Bearer ä", "Bearer a.b.c"],
)
def test_malformed_header_is_401_with_a_challenge_c7(header: str) -> None:
    response = Client(headers={"authorization": header}).get("/api/v1/jobs")

    assert (response.status_code, response.json()) == (401, REFUSED)
    assert response["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("method", ["get", "post", "put", "delete", "patch"])
@pytest.mark.contract("S144")
def test_no_header_is_401_for_every_method(method: str) -> None:
    response = getattr(Client(), method)("/api/v1/jobs")

    assert (response.status_code, response.json()) == (401, REFUSED)


def test_disabled_user_is_refused(alice: User) -> None:
    api = Api(issue_token("alice", valid_s=60))
    User.objects.update(is_active=False)
    forget_users()

    assert api.get("/jobs").status_code == 401


def test_user_tokens_are_jwts_that_end_c2() -> None:
    claims = jwt.decode(
        issue_token("a", groups=("g",), valid_s=60), options={"verify_signature": False}
    )

    assert 50 < claims["exp"] - time.time() <= 60
    assert (claims["sub"], claims["groups"], claims["iss"]) == ("a", ["g"], "prominence")


def test_job_token_is_unique_and_names_its_job_s116() -> None:
    tokens = {issue_job_token(job_id=7, username="a", walltime_s=60) for _ in range(3)}

    assert len(tokens) == 3
    assert {verify_token(token).job_id for token in tokens} == {7}


def test_changed_token_is_invalid() -> None:
    token = issue_token("alice", valid_s=60)
    with pytest.raises(InvalidToken):
        verify_token(token[:-3] + "AAA")


def test_job_token_reads_its_own_job_only(make_job: MakeJob) -> None:
    job, other = make_job(status=JobStatus.RUNNING), make_job()
    api = Api(issue_job_token(job_id=job.pk, username="alice", walltime_s=60))

    assert [entry["id"] for entry in api.get(f"/jobs/{job.pk}").json()] == [job.pk]
    assert api.get(f"/jobs/{job.pk}/stdout").status_code == 200
    for response in (
        api.get("/jobs"),
        api.post("/jobs", PI),
        api.delete(f"/jobs/{job.pk}"),
        api.delete(f"/jobs?id={other.pk}"),
        api.get(f"/jobs/{other.pk}"),
        api.get(f"/jobs/{other.pk}/stdout"),
        api.delete(f"/jobs/{other.pk}"),
    ):
        assert response.status_code == 403
        assert "one job only" in response.json()["error"]


@pytest.mark.parametrize("status", [JobStatus.COMPLETED, JobStatus.KILLED])
def test_job_token_dies_with_its_job_s116(make_job: MakeJob, status: JobStatus) -> None:
    job = make_job(status=status)
    api = Api(issue_job_token(job_id=job.pk, username="alice", walltime_s=60))

    assert api.get(f"/jobs/{job.pk}").status_code == 401


def test_job_token_of_a_foreign_job_is_refused(make_job: MakeJob, bob: User) -> None:
    job = make_job()

    api = Api(issue_job_token(job_id=job.pk, username="bob", walltime_s=60))

    assert api.get(f"/jobs/{job.pk}").status_code == 401


def test_token_command_prints_only_a_token() -> None:
    out = StringIO()

    call_command("token", "dave@example.org", "--days", "2", "--group", "fusion", "egi", stdout=out)

    token, rest = out.getvalue().split("\n", 1)
    assert rest == ""
    assert verify_token(token).groups == {"fusion", "egi"}
    assert Api(token).ids() == []


@pytest.mark.parametrize(
    "arguments",
    [["a b"], [""], ["x" * 151], ["a/b"], ["ok", "--days", "0"], ["ok", "--days", "4000"]],
)
def test_token_command_refuses_wrong_arguments(arguments: list[str]) -> None:
    with pytest.raises(CommandError):
        call_command("token", *arguments)
