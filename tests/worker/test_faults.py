"""What a node does when something dies, is lost, or comes twice. Faults are real."""

import os
import signal
from pathlib import Path

import pytest

from tests.wait import wait_until
from tests.worker.machine import Machine
from tests.worker.other_side import OtherSide, shell, spec
from worker.protocol import AttemptKey, EndReason, Heartbeat, Word

KEY = AttemptKey(7, 1)
ESCAPEES = """
python3 -c '
import os, time
for _ in range(2):
    if os.fork():
        os._exit(0)
    os.setsid()
time.sleep(600)
' &
setsid sleep 600 &
echo ready
sleep 600
"""


def run(side: OtherSide, machine: Machine, script: str, key: AttemptKey = KEY) -> None:
    """Start a job and wait until it has printed something."""
    side.offer({key: shell(script)})
    wait_until(lambda: side.started(key) and side.live(key), 20, dump=machine.dump)


def last_beat(side: OtherSide) -> Heartbeat:
    return side.beats[-1]


def test_stopped_job_ends_with_all_its_processes(side: OtherSide, machine: Machine) -> None:
    machine.start()
    run(side, machine, ESCAPEES)
    wait_until(lambda: len(machine.of_jobs()) >= 4, 10, dump=machine.of_jobs)
    side.say(Word(stop=(KEY,)))
    ended = wait_until(lambda: side.ended(KEY), 20, dump=machine.dump)
    assert ended.reason is EndReason.STOPPED
    assert machine.of_jobs() == []


def test_stop_of_unknown_attempt_voids_it(side: OtherSide, machine: Machine) -> None:
    machine.start()
    side.say(Word(stop=(KEY,)))
    ended = wait_until(lambda: side.ended(KEY), 10, dump=machine.dump)
    assert ended.reason is EndReason.NEVER_STARTED
    other = AttemptKey(8, 1)
    side.offer({KEY: spec("true"), other: spec("true")})
    wait_until(lambda: side.ended(other), 10, dump=machine.dump)
    assert not side.started(KEY)
    assert len(side.of(KEY)) == 1


def test_killed_worker_takes_its_job_over(side: OtherSide, machine: Machine) -> None:
    machine.start()
    run(side, machine, "echo one; while [ ! -e go ]; do sleep 0.05; done; echo two")
    machine.signal(signal.SIGKILL)
    machine.start()
    wait_until(lambda: any(h.key == KEY for h in last_beat(side).held), 10, dump=machine.dump)
    (machine.job_dir(KEY).work / "go").touch()
    ended = wait_until(lambda: side.ended(KEY), 20, dump=machine.dump)
    assert ended.reason is EndReason.FINISHED
    assert side.log(KEY) == b"one\ntwo\n"
    assert len([event for event in side.of(KEY) if type(event).__name__ == "Started"]) == 1


def test_job_that_ends_without_worker_is_reported_after_restart(
    side: OtherSide, machine: Machine
) -> None:
    machine.start()
    run(side, machine, "echo one; while [ ! -e go ]; do sleep 0.05; done; exit 5")
    machine.signal(signal.SIGTERM)
    assert machine.shims() != []
    (machine.job_dir(KEY).work / "go").touch()
    wait_until(lambda: machine.shims() == [], 10)
    machine.start()
    ended = wait_until(lambda: side.ended(KEY), 20, dump=machine.dump)
    assert [task.exit_code for task in ended.tasks] == [5]


def test_killed_shim_is_lost_with_all_its_processes(side: OtherSide, machine: Machine) -> None:
    machine.start()
    run(side, machine, ESCAPEES)
    wait_until(lambda: len(machine.of_jobs()) >= 4, 10, dump=machine.of_jobs)
    os.kill(machine.shim_of(KEY), signal.SIGKILL)
    ended = wait_until(lambda: side.ended(KEY), 20, dump=machine.dump)
    assert ended.reason is EndReason.SHIM_LOST
    assert machine.of_jobs() == []


def test_killed_shim_takes_no_other_job_of_its_message_with_it(
    side: OtherSide, machine: Machine
) -> None:
    machine.start()
    others = [AttemptKey(8, 1), AttemptKey(9, 1)]
    side.offer({KEY: shell(ESCAPEES), **{key: spec("true") for key in others}})
    wait_until(lambda: side.started(KEY) and len(machine.of_jobs()) >= 4, 20, dump=machine.dump)
    os.kill(machine.shim_of(KEY), signal.SIGKILL)
    wait_until(lambda: all(map(side.ended, [KEY, *others])), 20, dump=machine.dump)
    ends = [side.ended(key).reason for key in (KEY, *others)]
    assert ends[0] is EndReason.SHIM_LOST
    assert set(ends[1:]) <= {EndReason.FINISHED, EndReason.NEVER_STARTED}


def test_worker_and_shim_killed_is_lost_after_restart(side: OtherSide, machine: Machine) -> None:
    machine.start()
    run(side, machine, ESCAPEES)
    shim = machine.shim_of(KEY)
    machine.signal(signal.SIGKILL)
    os.kill(shim, signal.SIGKILL)
    machine.start()
    ended = wait_until(lambda: side.ended(KEY), 20, dump=machine.dump)
    assert ended.reason is EndReason.SHIM_LOST
    assert machine.of_jobs() == []


def test_events_lost_by_redis_are_sent_again(side: OtherSide, machine: Machine) -> None:
    machine.start()
    side.answering = False
    side.offer({KEY: spec("true")})
    wait_until(lambda: side.redis.xlen(side.keys.up) > 3 and not machine.shims(), 10)
    side.redis.flushall()
    side.answering = True
    ended = wait_until(lambda: side.ended(KEY), 20, dump=machine.dump)
    assert ended.reason is EndReason.FINISHED


def test_redis_away_heartbeats_and_events_go_by_https(side: OtherSide, machine: Machine) -> None:
    machine.start()
    run(side, machine, "echo one; while [ ! -e go ]; do sleep 0.05; done; echo two")
    side.redis_server.stop()
    wait_until(lambda: side.https_beats > 0, 20, dump=machine.dump)
    (machine.job_dir(KEY).work / "go").touch()
    wait_until(lambda: side.ended(KEY), 20, dump=machine.dump)
    assert side.log(KEY) == b"one\ntwo\n"
    side.redis_server.start()
    other = AttemptKey(8, 1)
    side.offer({other: spec("true")})
    wait_until(lambda: side.ended(other), 60, dump=machine.dump)


def test_lease_over_kills_jobs_without_a_worker(side: OtherSide, machine: Machine) -> None:
    side.lease_s = 3.0
    machine.start()
    run(side, machine, ESCAPEES)
    machine.signal(signal.SIGKILL)
    wait_until(lambda: machine.of_jobs() == [] and machine.shims() == [], 20)
    machine.start()
    ended = wait_until(lambda: side.ended(KEY), 20, dump=machine.dump)
    assert ended.reason is EndReason.LEASE_EXPIRED


def test_lease_over_kills_jobs_of_a_living_worker(side: OtherSide, machine: Machine) -> None:
    side.lease_s = 3.0
    machine.start()
    run(side, machine, ESCAPEES)
    side.answering = False
    wait_until(lambda: machine.of_jobs() == [] and machine.shims() == [], 20, dump=machine.dump)
    side.answering = True
    ended = wait_until(lambda: side.ended(KEY), 20, dump=machine.dump)
    assert ended.reason is EndReason.LEASE_EXPIRED


def test_message_that_comes_twice_starts_once(side: OtherSide, machine: Machine) -> None:
    machine.start()
    side.offer({KEY: shell("echo one")})
    side.publish([KEY])
    wait_until(lambda: side.ended(KEY), 20, dump=machine.dump)
    side.offer({KEY: shell("echo two")})  # even with a new offer
    other = AttemptKey(8, 1)
    side.offer({other: spec("true")})
    wait_until(lambda: side.ended(other), 20, dump=machine.dump)
    assert side.log(KEY) == b"one\n"
    assert len(side.of(KEY)) == 3


def test_offer_gone_is_reported_never_started(side: OtherSide, machine: Machine) -> None:
    machine.start()
    side.specs[KEY] = spec("true")
    side.publish([KEY])
    ended = wait_until(lambda: side.ended(KEY), 20, dump=machine.dump)
    assert ended.reason is EndReason.NEVER_STARTED


@pytest.mark.parametrize("restart", [False, True])
def test_fenced_node_kills_all_and_enrols_anew(
    side: OtherSide, machine: Machine, restart: bool
) -> None:
    machine.start()
    run(side, machine, ESCAPEES)
    if restart:
        machine.signal(signal.SIGKILL)
    side.fence()
    if restart:
        machine.start()
    wait_until(lambda: side.incarnation == 2, 30, dump=machine.dump)
    assert machine.of_jobs() == []
    assert side.enrolments[-1].key == "the-key"
    side.offer({AttemptKey(7, 2): spec("true")})
    wait_until(lambda: side.ended(AttemptKey(7, 2)), 20, dump=machine.dump)
    assert side.ended(KEY) is None
    wait_until(lambda: len(machine.data.lives()) == 1, 10)


def test_lost_data_directory_kills_what_ran(
    side: OtherSide, machine: Machine, tmp_path: Path
) -> None:
    machine.start()
    run(side, machine, ESCAPEES)
    machine.signal(signal.SIGKILL)
    machine.data.path.rename(machine.room / "lost")
    machine.data.make()
    key_only = (machine.room / "lost" / "enrolment").read_bytes()
    machine.data.enrolment.write_bytes(key_only)
    machine.start()
    assert side.incarnation == 2
    assert machine.of_jobs() == []
    assert machine.shims() == []


def test_quit_signal_kills_jobs(side: OtherSide, machine: Machine) -> None:
    machine.start()
    run(side, machine, ESCAPEES)
    machine.signal(signal.SIGQUIT)
    # A sweeper, which takes the slot's uid to kill with, may outlive the worker by a moment.
    wait_until(lambda: machine.of_jobs() == [], 2, dump=machine.of_jobs)
    assert machine.shims() == []


def test_killed_spawner_is_replaced_and_jobs_go_on(side: OtherSide, machine: Machine) -> None:
    machine.start()
    run(side, machine, "echo one; while [ ! -e go ]; do sleep 0.05; done; echo two")
    [spawner] = machine.spawners()
    os.kill(spawner, signal.SIGKILL)
    wait_until(lambda: machine.spawners() not in ([], [spawner]), 20, dump=machine.dump)
    (machine.job_dir(KEY).work / "go").touch()
    wait_until(lambda: side.ended(KEY), 20, dump=machine.dump)
    assert side.log(KEY) == b"one\ntwo\n"


def test_attempt_that_no_room_is_for_is_reported_once_there_is_some(
    side: OtherSide, machine: Machine
) -> None:
    """As on a full disk: neither its directory nor the mark that excludes a shim can be made at first."""
    machine.start()
    wait_until(lambda: side.beats, 20, dump=machine.dump)
    obstacle, other = machine.job_dir(KEY).path, AttemptKey(8, 1)
    obstacle.write_bytes(b"")
    side.offer({KEY: spec("true"), other: spec("true")})
    wait_until(lambda: "cannot be excluded" in machine.dump(), 20, dump=machine.dump)
    assert not side.ended(KEY)
    obstacle.unlink()
    ended = wait_until(lambda: side.ended(KEY), 20, dump=machine.dump)
    assert ended.reason is EndReason.NODE_ERROR
    wait_until(lambda: side.ended(other), 20, dump=machine.dump)
