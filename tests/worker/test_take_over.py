"""A restarted worker and what never began: reported once, and never started by a late shim."""

import os
import socket
from pathlib import Path
from typing import cast

import pytest

from worker import shim, sweep
from worker.handover import Maker, Orders, send_orders
from worker.jobs import Jobs
from worker.journal import Journal, State
from worker.layout import LifeDir
from worker.protocol import AttemptKey, Ended, EndReason, RunSpec
from worker.running import exclude
from worker.slots import Admission

ENTERED, CLAIMED = AttemptKey(7, 1), AttemptKey(8, 1)
# Nothing here runs, so nothing is followed or admitted.
NO_JOBS, NO_ADMISSION = cast(Jobs, None), cast(Admission, None)


@pytest.fixture
def life(tmp_path: Path) -> LifeDir:
    directory = LifeDir(tmp_path / "life-1")
    directory.make()
    return directory


def ordered(life: LifeDir, key: AttemptKey) -> Orders:
    """Of an attempt whose directory is there and whose shim is about to begin."""
    job_dir = life.job(key)
    job_dir.path.mkdir()
    return Orders(
        key=key, dir=str(job_dir.path), spec=RunSpec(tasks=()), secret_env={}, uid=os.getuid(), gid=os.getgid(),
        puller=os.getuid(), slot=0, lease=str(life.lease), images="", image_cache_bytes=1 << 30,
        image_pulls=1, cgroup="0", mirrors={},
        allow_process=True, allow_shared_uid=True, log_cap_bytes=1000,
    )  # fmt: skip


def run_shim(orders: Orders) -> bytes:
    """In a child, as it changes its process; returns all that it says."""
    ours, theirs = socket.socketpair()
    with ours:
        send_orders(ours, orders)
        ours.shutdown(socket.SHUT_WR)
        pid = os.fork()
        if pid == 0:
            try:
                shim.main(theirs)
            finally:
                os._exit(0)
        theirs.close()
        os.waitpid(pid, 0)
        return ours.recv(100)


def test_entries_without_a_shim_are_reported_never_started(life: LifeDir) -> None:
    journal = Journal(life.journal)
    journal.enter([ENTERED, CLAIMED])
    journal.claim([CLAIMED], [], "")
    ordered(life, CLAIMED)
    sweep.take_over(journal, life, NO_JOBS, NO_ADMISSION)
    events = journal.events_after(0, max_count=10, max_bytes=1 << 20)
    ends = {e.key: e.reason for e in events if isinstance(e, Ended)}
    assert ends == dict.fromkeys([ENTERED, CLAIMED], EndReason.NEVER_STARTED)
    assert journal.state(CLAIMED) is State.ENDED
    assert list(life.jobs.iterdir()) == []


def test_shim_that_comes_after_the_worker_excluded_it_does_not_begin(life: LifeDir) -> None:
    orders = ordered(life, CLAIMED)
    mark = exclude(life.job(CLAIMED))
    assert mark is not None
    assert mark.maker is Maker.WORKER
    assert run_shim(orders) == b""
    assert not life.job(CLAIMED).result.exists()


def test_shim_that_finds_its_place_gone_does_not_begin(life: LifeDir) -> None:
    orders = ordered(life, CLAIMED)
    life.job(CLAIMED).path.rmdir()
    assert run_shim(orders) == b""
