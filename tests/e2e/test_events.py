"""Following a job's events over real HTTP: late, interrupted, resumed; every byte once."""

import httpx
import pytest

from tests.sse import ServerSentEvent, read_events
from tests.stack import Stack

LINES = 300
SCRIPT = (
    f"i=0; while [ $i -lt {LINES} ]; do echo line $i of the output; i=$((i+1)); "
    "[ $((i % 30)) -ne 0 ] || sleep 0.2; done"
)
EXPECTED = "".join(f"line {i} of the output\n" for i in range(LINES))
DOCUMENT = {
    "resources": {"cpus": 1, "memory": 1, "disk": 1},
    "tasks": [{"image": "busybox", "cmd": "sh", "args": ["-c", SCRIPT]}],
}


def text_of(events: list[ServerSentEvent]) -> str:
    """The followed stdout; offsets must join without a gap or an overlap."""
    text, end = "", 0
    for event in events:
        if event.event == "stdout":
            data = event.json()
            assert data["offset"] == end
            text += data["text"]
            end += len(data["text"].encode())
    return text


def follow_some(stack: Stack, job: int, last_id: str | None, count: int) -> list[ServerSentEvent]:
    """At most `count` events, then the connection is dropped in the middle."""
    events = []
    headers = {"Last-Event-ID": last_id} if last_id else {}
    with (
        stack.client() as client,
        client.stream("GET", f"/jobs/{job}/events", headers=headers) as answer,
    ):
        assert answer.status_code == 200
        for event in read_events(answer.iter_bytes()):
            events.append(event)
            if len(events) == count:
                break
    return events


def test_late_follower_that_loses_its_connection_twice_sees_every_byte_once(stack: Stack) -> None:
    job = stack.submit(DOCUMENT)
    stack.wait_status(job, "running")
    seen = follow_some(stack, job, None, 4)
    seen += follow_some(stack, job, seen[-1].id, 3)
    seen += follow_some(stack, job, seen[-1].id, 10_000)
    assert text_of(seen) == EXPECTED
    assert [e.json()["status"] for e in seen if e.event == "state"] == [
        "pending",
        "running",
        "completed",
    ]
    assert seen[-1].event == "end"


def test_follower_after_the_end_gets_the_whole_story_and_then_nothing(stack: Stack) -> None:
    job = stack.submit(DOCUMENT)
    stack.wait_job(job)
    events = list(stack.follow(job))
    assert text_of(events) == EXPECTED
    with stack.client() as client:
        answer = client.get(f"/jobs/{job}/events", headers={"Last-Event-ID": events[-1].id})
    assert answer.status_code == 204


def test_output_is_readable_at_any_offset_while_running_and_after(stack: Stack) -> None:
    job = stack.submit(DOCUMENT)
    stack.wait_status(job, "running")
    with stack.client() as client:
        first = client.get(f"/jobs/{job}/stdout?node=0&offset=0").text
        stack.wait_job(job)
        rest = client.get(f"/jobs/{job}/stdout?node=0&offset={len(first)}").text
    assert EXPECTED.startswith(first)
    assert first + rest == EXPECTED


@pytest.mark.parametrize("token", ["", "Bearer nonsense"])
def test_events_need_a_token(stack: Stack, token: str) -> None:
    answer = httpx.get(
        f"{stack.url}/jobs/1/events", headers={"Authorization": token}, trust_env=False
    )
    assert (answer.status_code, answer.json()["error"]) == (401, "Authentication failure")
