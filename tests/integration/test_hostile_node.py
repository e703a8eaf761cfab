"""A node that lies, babbles or breaks its own key space: it may harm its own jobs, never what others say."""

import json
from typing import Any

import pytest
import redis
from django.contrib.auth.models import User
from django.test import Client

from clouds.models import Incarnation
from jobs.models import Attempt, Job, Placement
from jobs.output import read_output
from jobs.states import JobStatus, Reason
from prominence.bus import server_redis
from tests.integration.plain_node import PlainNode
from tests.integration.test_control_plane import Plane, path_of, run, submit
from worker.protocol import AttemptKey, Ended, EndReason, LogEnd, Started, TaskResult

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_server")]


@pytest.fixture
def plane() -> Plane:
    return Plane()


@pytest.fixture
def user() -> User:
    return User.objects.create(username="ada")


@pytest.fixture
def good(plane: Plane) -> PlainNode:
    return PlainNode(name="good")


def assert_heard(plane: Plane, node: PlainNode) -> None:
    """The other node is answered with the next reading."""
    number = node.beat()
    plane.hear()
    assert number in [word.answers for word in node.words()]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"\xff",
        b'{"events":[{"type":"nonsense"}]}',
        b'{"x":' + b"[" * 200_000,
        b'{"events":[{"type":"claimed","seq":1,"key":[1,1,0],"x":"\xff"}]}',
    ],
)
def test_unreadable_words_are_left_out(plane: Plane, good: PlainNode, payload: bytes) -> None:
    bad = PlainNode(name="bad")
    bad.redis.xadd(bad.keys.up, {"d": payload})
    bad.redis.xadd(bad.keys.up, {"other": b"field"})
    plane.hear()
    assert_heard(plane, good)


def test_last_possible_stream_id_does_not_stop_the_reader(plane: Plane, good: PlainNode) -> None:
    bad = PlainNode(name="bad")
    bad.redis.xadd(bad.keys.up, {"d": b"x"}, id=f"1-{2**64 - 1}")
    plane.hear()
    assert_heard(plane, good)


def test_node_cannot_put_something_else_in_its_streams_place(good: PlainNode) -> None:
    for command in (("SET", good.keys.up, "x"), ("DEL", good.keys.up), ("DEL", good.keys.ctl)):
        with pytest.raises(redis.ResponseError):
            good.redis.execute_command(*command)


def test_stream_of_the_wrong_type_does_not_deafen_the_reader(plane: Plane, good: PlainNode) -> None:
    bad = PlainNode(name="bad")
    server_redis().set(bad.keys.up, "x")
    plane.hear()
    assert_heard(plane, good)


def hostile_ends(key: AttemptKey, seq: int) -> list[Ended]:
    fine = {"seq": seq, "key": key, "reason": EndReason.FINISHED}
    task = {"exit_code": 0}
    return [
        Ended(**fine, detail="a\0b"),
        Ended(**fine, tasks=(TaskResult(**task, image_status="x\0"),)),
        Ended(**fine, tasks=(TaskResult(**task, wall_s=1e308),) * 200),
        Ended(**fine, tasks=(TaskResult(exit_code=2**63),)),
        Ended(**fine, ago_s=1e300),
        Ended(**fine, ago_s=-1e300),
        Ended(**fine, max_memory_kb=2**63),
        Ended(**fine, stdout=LogEnd(size=2**63, stored=2**63, tail=b"x")),
        Ended(**fine, stdout=LogEnd(size=10**6, tail=b"x" * 10**6)),
    ]


@pytest.mark.parametrize("number", range(9))
def test_odd_values_end_the_job_and_hurt_nobody(
    plane: Plane, user: User, good: PlainNode, number: int
) -> None:
    Incarnation.objects.filter(pk=good.enrolment.incarnation).update(cpus_free=0)
    bad, job = PlainNode(name="bad"), submit(user)
    plane.schedule()
    key = AttemptKey(job.pk, 1)
    assert bad.claim(key)
    bad.say(hostile_ends(key, bad.next_seq)[number])
    plane.hear()
    job.refresh_from_db()
    assert job.status == JobStatus.COMPLETED
    assert_heard(plane, good)


def test_keys_beyond_all_numbers_are_not_looked_for(plane: Plane, good: PlainNode) -> None:
    bad = PlainNode(name="bad")
    bad.say(Started(seq=1, key=AttemptKey(2**63 - 1, 2**31 - 1, 0)))
    bad.say(Started(seq=2, key=AttemptKey(-1, 1, 0)))
    body = json.dumps({"events": [{"type": "started", "seq": 3, "key": [2**70, 1, 0]}]})
    bad.redis.xadd(bad.keys.up, {"d": body})
    plane.hear()
    assert_heard(plane, good)
    assert Incarnation.objects.get(pk=bad.enrolment.incarnation).acknowledged >= 2


def test_words_about_an_ended_attempt_do_not_change_its_log(
    plane: Plane, user: User, good: PlainNode
) -> None:
    job = submit(user)
    plane.schedule()
    key = AttemptKey(job.pk, 1)
    run(good, plane, key, stdout=b"hello\n")
    good.end(key, stdout=b"falsified\n")
    plane.hear()
    assert b"".join(read_output(job=Job.objects.get(pk=job.pk), stream="stdout")) == b"hello\n"
    assert len(path_of(job)) == 3


def test_babble_is_no_contact(plane: Plane, good: PlainNode) -> None:
    rows = Incarnation.objects.filter(pk=good.enrolment.incarnation)
    before = rows.get().heard_at
    good.redis.xadd(good.keys.up, {"d": b"babble"})
    good.say(Started(seq=7, key=AttemptKey(1, 1)))
    plane.hear()
    assert rows.get().heard_at == before


def test_snapshot_older_than_the_claim_ends_nothing(
    plane: Plane, user: User, good: PlainNode
) -> None:
    """The heartbeat was sent before the claim and arrives after it."""
    job = submit(user)
    plane.schedule()
    key = AttemptKey(job.pk, 1)
    good.mute = True
    assert good.claim(key)
    good.start(key)
    good.send(*good.events)
    plane.hear()
    good.events, kept = [], good.events
    good.beat()
    good.events = kept
    plane.hear()
    assert good.words()[-1].stop == ()


def test_failing_node_is_shunned_and_the_job_runs_elsewhere(plane: Plane, user: User) -> None:
    bad, job = PlainNode(name="bad", cpus=1), submit(user)
    good = PlainNode(name="good", cpus=4)
    for _ in range(4):
        plane.schedule()
        [keys] = [*bad.messages(), *good.messages()]
        placement = Placement.objects.get(attempt__job=job, live=True)
        if placement.node_name == "good":
            break
        run(bad, plane, keys[0], reason=EndReason.SHIM_LOST, exit_code=None)
    run(good, plane, keys[0])
    job.refresh_from_db()
    assert (job.status, job.node_faults) == (JobStatus.COMPLETED, 2)


def test_offer_that_is_never_claimed_is_withdrawn_by_the_nodes_word(
    plane: Plane, user: User, good: PlainNode
) -> None:
    job = submit(user)
    plane.schedule()
    for _ in range(14):
        plane.republish()
    assert len(good.messages()) == 1
    key = AttemptKey(job.pk, 1)
    assert any(key in word.stop for word in good.words())
    good.end(key, reason=EndReason.NEVER_STARTED, exit_code=None, detail="voided")
    plane.hear()
    job.refresh_from_db()
    assert job.queued
    assert Attempt.objects.get(job=job).reason == Reason.NEVER_STARTED


def call(node: PlainNode, method: str, path: str, body: Any) -> int:
    data = body if isinstance(body, bytes) else json.dumps(body)
    answer = Client().generic(
        method,
        f"/node/v1/{path}",
        data,
        content_type="application/json",
        headers={"Authorization": f"Bearer {node.enrolment.node_token}"},
    )
    return answer.status_code


def test_node_api_answers_bad_values_with_400(plane: Plane, user: User, good: PlainNode) -> None:
    job = submit(user)
    plane.schedule()
    mine = f"{job.pk}.1.0"
    assert call(good, "POST", "heartbeat", b'{"x":' + b"[" * 200_000) == 400
    assert call(good, "POST", "heartbeat", b"\xff") == 400
    assert call(good, "POST", "attempts/fetch", {"keys": [[2**80, 1, 0]]}) == 200
    assert call(good, "PUT", f"attempts/{2**80}.1.0/stdout?offset=0", b"x") == 400
    assert call(good, "PUT", f"attempts/{mine}/stdout?offset=²", b"x") == 400
    assert call(good, "PUT", f"attempts/{mine}/stdout?offset={2**63 - 1}", b"x") == 413
    assert call(good, "PUT", f"attempts/{mine}/elsewhere?offset=0", b"x") == 400
    assert call(good, "PUT", f"attempts/{mine}/stdout?offset=0", b"x") == 204


def test_node_reaches_only_its_own_attempts(plane: Plane, user: User, good: PlainNode) -> None:
    job = submit(user)
    plane.schedule()
    other = PlainNode(name="other")
    assert call(other, "PUT", f"attempts/{job.pk}.1.0/stdout?offset=0", b"x") == 403
    assert call(other, "GET", f"attempts/{job.pk}.1.0/inputs/{'0' * 64}", b"") == 403
    body = json.dumps({"keys": [[job.pk, 1, 0]]})
    answer = Client().post(
        "/node/v1/attempts/fetch",
        body,
        content_type="application/json",
        headers={"Authorization": f"Bearer {other.enrolment.node_token}"},
    )
    assert answer.json()["items"] == []


def test_fenced_node_is_refused_over_https(plane: Plane, good: PlainNode) -> None:
    Incarnation.objects.update(status="fenced")
    assert call(good, "POST", "heartbeat", {}) == 401
