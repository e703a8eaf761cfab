"""First faults on real processes, with 20 jobs running and 20 pending: nothing lost, nothing twice, nothing stuck."""

import json
import os
import signal
from collections.abc import Iterator

import pytest

from jobs.states import TERMINAL, JobStatus, is_legal_path
from tests.conftest import StackMaker
from tests.e2e.gate import Gate
from tests.stack import Stack
from tests.wait import wait_until

RUNNING = 20
PENDING = 20


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate() as gate:
        yield gate


@pytest.fixture
def busy(make_stack: StackMaker, gate: Gate) -> Iterator[tuple[Stack, list[int]]]:
    """A stack whose one node is full of held jobs, with as many waiting."""
    with make_stack(node_cpus=RUNNING) as stack:
        with stack.client() as client:
            answers = [client.post("/jobs", json=gate.held_job()) for _ in range(RUNNING + PENDING)]
        jobs = [answer.json()["id"] for answer in answers]
        wait_until(lambda: _begun(gate) >= RUNNING, 90, dump=stack.dump)
        yield stack, jobs


def _begun(gate: Gate) -> int:
    return sum(name.startswith("begun-") for name in gate.notes)


def check_card(stack: Stack, gate: Gate, jobs: list[int], *, begun_again: int = 0) -> None:
    """The promise: every job ended once, well, by a legal path, with its whole log, and all capacity is back."""
    ended = f"SELECT count(*) FROM jobs_job WHERE status = '{JobStatus.COMPLETED}'"
    wait_until(lambda: stack.query(ended) == [(len(jobs),)], 120, dump=stack.dump)
    for job in jobs:
        rows = stack.query(f"SELECT after FROM jobs_event WHERE job_id = {job} ORDER BY id")
        path = [JobStatus(after) for (after,) in rows]
        assert is_legal_path(path), (job, path)
        assert sum(status in TERMINAL for status in path) == 1, (job, path)
        assert gate.notes[f"done-{job}"] == 1, job
        assert stack.output(job) == f"done {job}\n"
    begun = sum(gate.notes[f"begun-{job}"] for job in jobs)
    assert begun == len(jobs) + begun_again
    assert stack.query(
        "SELECT cpus - cpus_free, ahead FROM clouds_incarnation WHERE status = 'ready'"
    ) == [(0, 0)]
    assert stack.query("SELECT count(*) FROM jobs_placement WHERE live = true") == [(0,)]
    wait_until(lambda: stack.query("SELECT count(*) FROM jobs_outbox") == [(0,)], 30)


def test_nothing_goes_wrong_without_a_fault(busy: tuple[Stack, list[int]], gate: Gate) -> None:
    stack, jobs = busy
    gate.open()
    check_card(stack, gate, jobs)


def test_node_worker_killed_and_restarted_adopts_its_jobs(
    busy: tuple[Stack, list[int]], gate: Gate
) -> None:
    stack, jobs = busy
    stack.kill("node-1", signal.SIGKILL)
    stack.restart("node-1")
    gate.open()
    check_card(stack, gate, jobs)


def test_jobs_that_end_while_their_worker_is_dead_are_reported_by_the_next(
    busy: tuple[Stack, list[int]], gate: Gate
) -> None:
    stack, jobs = busy
    stack.kill("node-1", signal.SIGKILL)
    gate.open()
    wait_until(lambda: sum(n.startswith("done-") for n in gate.notes) >= RUNNING, 30)
    stack.restart("node-1")
    check_card(stack, gate, jobs)


def test_shim_killed_costs_its_own_attempt_only(busy: tuple[Stack, list[int]], gate: Gate) -> None:
    stack, jobs = busy
    victim = next(job for job in jobs if gate.notes[f"begun-{job}"])
    [mark] = stack.node_data("node-1").glob(f"life-*/jobs/{victim}.1.0/run")
    os.kill(json.loads(mark.read_bytes())["pid"], signal.SIGKILL)
    wait_until(
        lambda: stack.query(f"SELECT attempt FROM jobs_job WHERE id = {victim}") > [(1,)], 30
    )
    gate.open()
    check_card(stack, gate, jobs, begun_again=1)
    reasons = stack.query(
        f"SELECT reason FROM jobs_attempt WHERE job_id = {victim} ORDER BY number"
    )
    assert reasons == [("shimLost",), ("finished",)]


def test_flushall_loses_nothing(busy: tuple[Stack, list[int]], gate: Gate) -> None:
    stack, jobs = busy
    stack.flush_redis()
    gate.open()
    check_card(stack, gate, jobs)


@pytest.mark.parametrize("part", ["control", "api"])
def test_server_part_killed_and_restarted(
    busy: tuple[Stack, list[int]], gate: Gate, part: str
) -> None:
    stack, jobs = busy
    stack.kill(part, signal.SIGKILL)
    gate.open()
    stack.restart(part)
    wait_until(stack.is_healthy, 40, dump=stack.dump)
    check_card(stack, gate, jobs)
