"""Health by what lies about, with loops that beat: a part that lives and does not work is named."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.db.models.functions import Now
from django.test import Client
from django.test.utils import CaptureQueriesContext

from clouds.checks import IngestLag
from clouds.ingest_loop import Ingest
from clouds.models import Incarnation
from clouds.states import IncarnationStatus
from jobs import outbox
from jobs.checks import outbox_lag_s
from jobs.models import Outbox
from prominence.bus import BEAT, server_redis
from prominence.health import LOOPS, failing_parts
from prominence.tokens import issue_job_token, issue_token
from tests.integration.plain_node import PlainNode
from worker.protocol import Up, encode

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_server")]


@pytest.fixture
def _beating(redis_server: object) -> None:
    for part in LOOPS:
        server_redis().set(BEAT + part, "1", ex=60)


@pytest.mark.usefixtures("_beating")
def test_outbox_that_handles_nothing_is_named_though_it_beats() -> None:
    outbox.put(outbox.STOP, {f"{n}.1.0": {} for n in range(3)})
    assert failing_parts() == []
    Outbox.objects.filter(key="1.1.0").update(due_at=Now() - timedelta(seconds=100))
    [trouble] = failing_parts()
    assert trouble.part == "outbox"
    assert str(trouble).startswith("outbox: its oldest row has been due for 10")


def test_outbox_row_that_is_due_later_is_no_lag() -> None:
    outbox.put(outbox.STOP, {"1.1.0": {}}, due_in_s=60)
    assert outbox_lag_s() == 0.0


def old_word(node: PlainNode, age_s: int) -> None:
    """As if it had been lying there for so long."""
    seconds, _ = node_time()
    node.redis.xadd(node.keys.up, {"d": encode(Up())}, id=f"{(seconds - age_s) * 1000}-0")


def node_time() -> tuple[int, int]:
    seconds, micros = server_redis().time()
    return int(seconds), int(micros)


def test_words_unread_are_lag_until_ingest_has_applied_them() -> None:
    node, other = PlainNode(), PlainNode(name="other")
    assert IngestLag()() == 0.0
    old_word(node, 50)
    old_word(other, 90)
    assert 90 <= IngestLag()() < 120
    ingest = Ingest()
    ingest.start()
    ingest.wait(1.0)
    ingest.step()
    assert IngestLag()() == 0.0


def test_words_of_the_dead_and_foreign_streams_are_no_lag() -> None:
    dead, odd = PlainNode(), PlainNode(name="odd")
    old_word(dead, 50)
    Incarnation.objects.filter(pk=dead.enrolment.incarnation).update(status=IncarnationStatus.DEAD)
    server_redis().set(odd.keys.up, "a string")
    assert IngestLag()() == 0.0


@pytest.mark.usefixtures("_beating")
def test_health_costs_the_same_whatever_lies_about(
    django_assert_max_num_queries: type[CaptureQueriesContext],
) -> None:
    outbox.put(outbox.STOP, {f"{n}.1.0": {} for n in range(50)})
    with django_assert_max_num_queries(3):  # type: ignore[call-arg]
        Client().get("/api/v1/health")


def test_metrics_let_staff_in_and_nobody_else(settings: object) -> None:
    def status(token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        return Client().get("/metrics", headers=headers).status_code

    User.objects.create(username="ops", is_staff=True)
    User.objects.create(username="ada")
    job_token = issue_job_token(job_id=1, username="ops", walltime_s=60)
    assert status(issue_token("ops", valid_s=60)) == 200
    assert [status(t) for t in (issue_token("ada", valid_s=60), job_token, "", "x")] == [403] * 4
