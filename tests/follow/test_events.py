"""Following a job over HTTP: order, resumption, refusals, faults."""

import socket
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from django.contrib.auth.models import User
from django.db import transaction

from jobs.models import Event, Job
from jobs.states import Reason
from prominence.bus import server_redis
from prominence.tokens import issue_job_token, issue_token
from tests.follow.conftest import ApiThread
from tests.follow.scene import Scene
from tests.follow.viewer import Refused, Transcript, Viewer, Watch
from tests.servers import RedisServer
from tests.wait import wait_until

BIG = bytes(range(32, 127)) * 30_000  # 2.8 MB


def test_live_follower_sees_states_output_and_end(viewer: Viewer, scene: Scene) -> None:
    watch = Watch(viewer, scene.job.pk)
    wait_until(lambda: watch.transcript.states)
    scene.run()
    scene.stdout.write(b"out 1\n")
    scene.stderr.write(b"err 1\n")
    wait_until(lambda: watch.transcript.text("stderr") and watch.transcript.text())
    scene.stdout.write(b"out 2\n")
    scene.end()
    told = watch.result()
    assert told.states == ["pending", "running", "completed"]
    assert (told.text(), told.text("stderr")) == (b"out 1\nout 2\n", b"err 1\n")
    assert told.order[-2:] == ["state", "end"]
    assert told.end == {
        "status": "completed",
        "outcome": "well",
        "complete": {"stdout": True, "stderr": True},
    }


def test_state_says_where_and_why(viewer: Viewer, scene: Scene) -> None:
    scene.run().end(Reason.WALLTIME)
    states = [event.json() for event in viewer.story(scene.job.pk) if event.event == "state"]
    assert states[0].keys() == {"status", "reason", "attempt", "at"}
    assert states[2] == {
        "status": "killed",
        "reason": "Walltime limit exceeded",
        "attempt": 1,
        "at": pytest.approx(time.time(), abs=60),
        "site": "here",
        "node": "node-1",
    }


def test_late_follower_gets_whole_story_without_redis(
    viewer: Viewer, scene: Scene, redis_server: RedisServer
) -> None:
    scene.run()
    for start in range(0, len(BIG), 100_000):
        scene.stdout.write(BIG[start : start + 100_000])
        scene.stdout.store()
    scene.end()
    redis_server.flush()
    told = Transcript.of(viewer.story(scene.job.pk))
    assert told.states == ["pending", "running", "completed"]
    assert told.text() == BIG


def test_follower_that_comes_midway_begins_at_the_beginning(viewer: Viewer, scene: Scene) -> None:
    scene.run()
    scene.stdout.write(b"stored ")
    scene.stdout.store()
    scene.stdout.write(b"fresh ")
    watch = Watch(viewer, scene.job.pk)
    wait_until(lambda: watch.transcript.text() == b"stored fresh ")
    scene.stdout.write(b"later")
    scene.end()
    assert watch.result().text() == b"stored fresh later"


def test_quiet_job_whose_output_is_all_stored_is_shown_at_once(
    viewer: Viewer, scene: Scene
) -> None:
    scene.run()
    scene.stdout.write(b"all of it")
    scene.stdout.store()
    watch = Watch(viewer, scene.job.pk)
    wait_until(lambda: watch.transcript.text() == b"all of it")
    scene.end()
    assert watch.result().text() == b"all of it"


def test_two_disconnects_lose_and_double_nothing(viewer: Viewer, scene: Scene) -> None:
    scene.run()
    scene.stdout.write(b"one ")
    first = viewer.some(scene.job.pk, 3)
    scene.stdout.write(b"two ")
    second = viewer.some(scene.job.pk, 1, first[-1].id)
    scene.stdout.write(b"three")
    scene.stdout.store()
    scene.end()
    rest = viewer.story(scene.job.pk, second[-1].id)
    told = Transcript.of([*first, *second, *rest])
    assert told.states == ["pending", "running", "completed"]
    assert told.text() == b"one two three"


def test_retry_follows_with_its_own_number_after_the_first_attempt(
    viewer: Viewer, scene: Scene
) -> None:
    watch = Watch(viewer, scene.job.pk, break_every=2)
    scene.run()
    scene.stdout.write(b"first")
    scene.end(Reason.SHIM_LOST, complete=False)
    scene.run()
    scene.stdout.write(b"second")
    scene.end()
    told = watch.result()
    assert told.states == ["pending", "running", "pending", "running", "completed"]
    assert (told.text(attempt=1), told.text(attempt=2)) == (b"first", b"second")
    assert sorted(told.cuts) == [(1, "stderr", 0), (1, "stdout", 5)]
    assert told.end
    assert told.end["complete"] == {"stdout": True, "stderr": True}


def test_late_follower_of_retried_job_gets_output_before_the_attempts_end(
    viewer: Viewer, scene: Scene
) -> None:
    for text in (b"first", b"second"):
        scene.run()
        scene.stdout.write(text)
        scene.end(Reason.FINISHED if text == b"second" else Reason.NODE_LOST)
    order = Transcript.of(viewer.story(scene.job.pk)).order
    # pending, running | stdout 1 | pending, running | stdout 2 | completed
    assert order == ["state", "state", "stdout", "state", "state", "stdout", "state", "end"]


def test_cut_log_is_marked_once_across_breaks(viewer: Viewer, scene: Scene) -> None:
    scene.run()
    scene.stdout.write(b"x" * 10)
    scene.stdout.store(6)
    scene.end(Reason.WALLTIME, complete=False, tails=False)
    told, last_id = Transcript(), ""
    while told.end is None:
        (event,) = viewer.some(scene.job.pk, 1, last_id)
        told.add(event)
        last_id = event.id
    assert told.text() == b"x" * 6
    assert sorted(told.cuts) == [(1, "stderr", 0), (1, "stdout", 6)]
    assert told.end["complete"] == {"stdout": False, "stderr": False}


def test_hole_in_a_cut_log_is_told_and_skipped(viewer: Viewer, scene: Scene) -> None:
    scene.run()
    scene.stdout.write(b"0123456789")
    scene.stdout.store(3)
    scene.stdout.store(start=7)
    scene.end(Reason.WALLTIME, complete=False, tails=False)
    told = [event.json() for event in viewer.story(scene.job.pk) if event.event == "stdout"]
    assert [(one["offset"], one.get("text", "cut")) for one in told] == [
        (0, "012"),
        (3, "cut"),
        (7, "789"),
        (10, "cut"),
    ]


def test_tail_that_is_stored_after_the_end_is_waited_for(viewer: Viewer, scene: Scene) -> None:
    scene.run()
    scene.stdout.write(b"head tail")
    watch = Watch(viewer, scene.job.pk)
    wait_until(lambda: watch.transcript.text() == b"head tail")
    late = Watch(viewer, scene.job.pk)
    scene.end(tails=False)
    again = Watch(viewer, scene.job.pk)
    wait_until(lambda: len(again.transcript.states) == 2)
    assert again.transcript.end is None
    scene.stdout.store()
    for one in (watch, late, again):
        told = one.result()
        assert told.text() == b"head tail"
        assert told.cuts == []


def test_flush_during_follow_loses_nothing(
    viewer: Viewer, scene: Scene, redis_server: RedisServer
) -> None:
    scene.run()
    scene.stdout.write(b"before ")
    watch = Watch(viewer, scene.job.pk)
    wait_until(lambda: watch.transcript.text() == b"before ")
    redis_server.flush()
    scene.stdout.write(b"after ")
    wait_until(lambda: watch.transcript.text() == b"before after ")
    late = Watch(viewer, scene.job.pk)
    scene.stdout.write(b"end")
    scene.stdout.store()
    scene.end()
    assert watch.result().text() == b"before after end"
    assert late.result().text() == b"before after end"


def test_hole_that_a_flush_left_is_filled_by_what_is_stored(
    viewer: Viewer, scene: Scene, redis_server: RedisServer
) -> None:
    scene.run()
    scene.stdout.write(b"lost ")
    redis_server.flush()
    scene.stdout.write(b"fresh ")
    watch = Watch(viewer, scene.job.pk)
    wait_until(lambda: len(watch.transcript.states) == 2)
    scene.stdout.store(5)
    wait_until(lambda: watch.transcript.text() == b"lost fresh ")
    scene.end()
    assert watch.result().text() == b"lost fresh "


def test_redis_that_restarts_is_found_again(
    viewer: Viewer, scene: Scene, redis_server: RedisServer
) -> None:
    scene.run()
    scene.stdout.write(b"before ")
    watch = Watch(viewer, scene.job.pk)
    wait_until(lambda: watch.transcript.text() == b"before ")
    redis_server.stop()
    redis_server.start()
    scene.stdout.write(b"after")
    wait_until(lambda: watch.transcript.text() == b"before after")
    scene.end()
    assert watch.result().text() == b"before after"


def test_lost_notices_cost_only_time(viewer: Viewer, scene: Scene) -> None:
    watch = Watch(viewer, scene.job.pk)
    wait_until(lambda: watch.transcript.states)
    with transaction.atomic():  # as every change is made
        Event.objects.create(
            job=scene.job, before="pending", after="deleted", reason=Reason.DELETED_BY_USER
        )
        Job.objects.filter(pk=scene.job.pk).update(status="deleted", outcome="badly", queued=False)
    assert watch.result(10).states == ["pending", "deleted"]


def test_job_that_disappears_ends_the_story(viewer: Viewer, scene: Scene) -> None:
    watch = Watch(viewer, scene.job.pk)
    wait_until(lambda: watch.transcript.states)
    Job.objects.filter(pk=scene.job.pk).delete()
    assert watch.result(10).end == {"error": "Job does not exist"}


def test_foreign_key_type_of_a_hostile_node_harms_only_its_own_log(
    viewer: Viewer, owner: User
) -> None:
    hostile, other = Scene(owner).run(), Scene(owner).run()
    server_redis().set(hostile.stdout.key, "not a stream")
    spoiled = Watch(viewer, hostile.job.pk)
    watch = Watch(viewer, other.job.pk)
    wait_until(lambda: len(spoiled.transcript.states) == 2 and len(watch.transcript.states) == 2)
    for text in (b"one ", b"two ", b"three"):
        other.stdout.write(text)
        wait_until(lambda: watch.transcript.text().endswith(text))  # noqa: B023
    other.end()
    hostile.end()
    assert watch.result().text() == b"one two three"
    assert spoiled.result().end


def test_fifty_followers_share_one_reading_connection(viewer: Viewer, scene: Scene) -> None:
    scene.run()
    scene.stdout.write(b"begin ")
    watches = [Watch(viewer, scene.job.pk, break_every=7 * (n % 3)) for n in range(50)]
    wait_until(lambda: all(watch.transcript.text() for watch in watches))
    for number in range(20):
        scene.stdout.write(b"%d " % number)
    blocked = [one for one in server_redis().client_list() if one["cmd"] == "xread"]
    assert len(blocked) == 1
    scene.end()
    for watch in watches:
        assert watch.result().text() == bytes(scene.stdout.written)


def test_slow_client_costs_no_memory_and_gets_everything(
    api: ApiThread, viewer: Viewer, scene: Scene
) -> None:
    scene.run()
    with viewer.open(scene.job.pk) as events:
        told = Transcript()
        told.add(next(events))  # it listens, and reads no further for now
        for start in range(0, len(BIG), 50_000):
            scene.stdout.write(BIG[start : start + 50_000])
            if start % 500_000 == 0:
                scene.stdout.store()
        hub = api.application.events.hub
        wait_until(lambda: all(t.end == len(BIG) for k, t in hub._tails.items() if "stdout" in k))
        assert sum(tail.end - tail.begin for tail in hub._tails.values()) <= 256 << 10
        scene.stdout.store()
        scene.end()
        for event in events:
            told.add(event)
    assert told.text() == BIG


def test_bytes_that_are_not_utf8_come_as_base64(viewer: Viewer, scene: Scene) -> None:
    scene.run()
    scene.stdout.write(b"\xff\xfe raw")
    scene.end()
    (event,) = [event for event in viewer.story(scene.job.pk) if event.event == "stdout"]
    assert event.json()["base64"] == "//4gcmF3"
    assert "text" not in event.json()


def test_character_in_two_writes_is_not_split(viewer: Viewer, scene: Scene) -> None:
    scene.run()
    watch = Watch(viewer, scene.job.pk)
    scene.stdout.write("né".encode()[:2])
    wait_until(lambda: watch.transcript.text() == b"n")
    scene.stdout.store()
    scene.stdout.write("é\u2028€".encode()[1:])
    wait_until(lambda: watch.transcript.text() == "né\u2028€".encode())
    scene.stdout.write(b"\xe2\x82")
    scene.end()
    assert watch.result().text() == "né\u2028€".encode() + b"\xe2\x82"


def test_without_output_only_states_are_told(viewer: Viewer, scene: Scene) -> None:
    scene.run()
    scene.stdout.write(b"much")
    scene.end()
    assert {event.event for event in viewer.story(scene.job.pk, output="false")} == {"state", "end"}


def test_resuming_after_the_end_gets_204(viewer: Viewer, scene: Scene) -> None:
    scene.run().end()
    last_id = viewer.story(scene.job.pk)[-1].id
    assert viewer.get(scene.job.pk, last_id).status_code == 204
    assert viewer.get(scene.job.pk, lastEventId=last_id).status_code == 204


def test_response_is_for_streams_only(viewer: Viewer, scene: Scene) -> None:
    scene.run().end()
    answer = viewer.get(scene.job.pk)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.text.startswith("retry: 1000\n\n")
    old_root = viewer.url(scene.job.pk).replace("/api/", "/prominence/")
    assert httpx.get(old_root, headers=viewer.headers).status_code == 200


@pytest.mark.parametrize("last_id", ["x", "1", "1.2.3", "-1.0", "1.1.0.0.end.end", "1.1.0.0\u00b2"])
def test_bad_cursor_is_refused(viewer: Viewer, scene: Scene, last_id: str) -> None:
    answer = viewer.get(scene.job.pk, lastEventId=last_id)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_unknown_and_foreign_jobs_look_alike(viewer: Viewer, scene: Scene) -> None:
    foreign = Scene(User.objects.create(username="bob"))
    for job in (foreign.job.pk, 10**17, 10**30, "abc", "-1"):
        answer = viewer.get(job)
        assert (answer.status_code, answer.json()) == (400, {"error": "Job does not exist"})


def test_job_token_follows_its_own_job_only(viewer: Viewer, owner: User) -> None:
    mine, other = Scene(owner).run(), Scene(owner).run()
    token = issue_job_token(job_id=mine.job.pk, username="alice", walltime_s=60)
    own = Viewer(viewer.site, token)
    assert own.some(mine.job.pk, 1)[0].event == "state"
    with pytest.raises(Refused, match="Job does not exist"):
        own.some(other.job.pk, 1)


def test_without_a_valid_token_it_is_401(viewer: Viewer, scene: Scene) -> None:
    expired = issue_token("alice", valid_s=-10)
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Bearer {expired}"}):
        answer = httpx.get(viewer.url(scene.job.pk), headers=headers)
        assert (answer.status_code, answer.json()) == (401, {"error": "Authentication failure"})
        assert answer.headers["www-authenticate"].startswith("Bearer")


def test_other_methods_are_refused(viewer: Viewer, scene: Scene) -> None:
    assert httpx.post(viewer.url(scene.job.pk), headers=viewer.headers).status_code == 405


def test_clients_that_vanish_leave_nothing_behind(
    api: ApiThread, viewer: Viewer, scene: Scene
) -> None:
    scene.run()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: viewer.some(scene.job.pk, 1), range(16)))
    with socket.create_connection(("127.0.0.1", httpx.URL(viewer.site).port)) as raw:
        raw.sendall(f"GET /api/v1/jobs/{scene.job.pk}/events HTTP/1.1\r\nHost: x\r\n".encode())
    hub = api.application.events.hub
    wait_until(lambda: not hub._followers and not hub._tails)


def test_written_bytes_are_seen_quickly(viewer: Viewer, scene: Scene) -> None:
    scene.run()
    watch = Watch(viewer, scene.job.pk)
    wait_until(lambda: len(watch.transcript.states) == 2)
    took = []
    for number in range(50):
        line = b"line %d\n" % number
        began = time.perf_counter()
        scene.stdout.write(line)
        while not watch.transcript.text().endswith(line):
            assert time.perf_counter() - began < 10
        took.append(time.perf_counter() - began)
    assert statistics.median(took) < 0.5
    scene.end()
    watch.result()
