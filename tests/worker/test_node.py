"""A node from end to end: real worker, shims, Redis and HTTP; jobs are bare processes."""

from tests.wait import wait_until
from tests.worker.machine import Machine
from tests.worker.other_side import OtherSide, shell, spec
from worker.protocol import AttemptKey, Claimed, Ended, EndReason, Started

KEY = AttemptKey(7, 1)


def test_one_job_runs_and_reports(side: OtherSide, machine: Machine) -> None:
    machine.start()
    side.offer({KEY: shell("echo out $SECRET $PROMINENCE_CPUS; echo err >&2; exit 3")})
    ended = wait_until(lambda: side.ended(KEY), 20, dump=machine.dump)
    assert ended.reason is EndReason.FINISHED
    assert [task.exit_code for task in ended.tasks] == [3]
    assert side.log(KEY) == b"out hidden 1\n"
    assert side.log(KEY, "stderr") == b"err\n"
    assert [type(event) for event in side.of(KEY)] == [Claimed, Started, Ended]


def test_batch_of_ten_runs_each_once(side: OtherSide, machine: Machine) -> None:
    machine.start()
    keys = [AttemptKey(number, 1) for number in range(1, 11)]
    side.offer({key: spec("true") for key in keys})
    wait_until(lambda: all(side.ended(key) for key in keys), 20, dump=machine.dump)
    assert {side.ended(key).reason for key in keys} == {EndReason.FINISHED}
