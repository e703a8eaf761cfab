"""What jobs print: live, by offset, whole."""

import hashlib
import os
import signal
from pathlib import Path

from tests.wait import wait_until
from tests.worker.machine import Machine
from tests.worker.other_side import OtherSide, shell
from worker.protocol import AttemptKey, EndReason
from worker.spool import Spool

KEY = AttemptKey(7, 1)
MB = 1 << 20
LOUD = "import sys; [sys.stdout.write('%07d\\n' % n) for n in range({lines})]"


def loud(size: int) -> bytes:
    return b"".join(b"%07d\n" % number for number in range(size // 8))


def test_twenty_megabytes_arrive_whole(side: OtherSide, machine: Machine) -> None:
    machine.start()
    size = 20 * MB
    side.offer({KEY: shell(f'python3 -c "{LOUD.format(lines=size // 8)}"')})
    ended = wait_until(lambda: side.ended(KEY), 60, dump=machine.dump)
    assert ended.stdout.complete
    assert ended.stdout.size == size
    assert hashlib.sha256(side.log(KEY)).digest() == hashlib.sha256(loud(size)).digest()


def test_redis_never_holds_more_than_the_window_unstored(side: OtherSide, machine: Machine) -> None:
    machine.start()
    size = 3 * MB + 8
    script = f'python3 -c "{LOUD.format(lines=size // 8)}"; while [ ! -e go ]; do sleep 0.05; done'
    side.offer({KEY: shell(script)})
    stored = wait_until(lambda: len(side.segments[KEY, "stdout"]) == 3 * MB, 30, dump=machine.dump)
    assert stored
    wait_until(lambda: len(side.live(KEY)) == 8, 10)
    (machine.job_dir(KEY).work / "go").touch()
    ended = wait_until(lambda: side.ended(KEY), 20, dump=machine.dump)
    assert ended.stdout.stored == 3 * MB
    assert side.log(KEY) == loud(size)


def test_output_goes_on_by_offset_after_restart(side: OtherSide, machine: Machine) -> None:
    machine.start()
    script = "n=0; while [ ! -e go ]; do n=$((n+1)); echo line $n; sleep 0.01; done"
    side.offer({KEY: shell(script)})
    wait_until(lambda: side.live(KEY), 20, dump=machine.dump)
    machine.signal(signal.SIGKILL)
    before = len(side.live(KEY))
    machine.start()
    wait_until(lambda: len(side.live(KEY)) > before, 20, dump=machine.dump)
    (machine.job_dir(KEY).work / "go").touch()
    wait_until(lambda: side.ended(KEY), 20, dump=machine.dump)
    whole = side.log(KEY)
    assert whole.startswith(side.live(KEY))
    lines = whole.decode().splitlines()
    assert lines == [f"line {number}" for number in range(1, len(lines) + 1)]
    ends = [
        int(entry.partition(b"-")[0])
        for entry, _ in side.redis.xrange(side.keys.out(KEY, "stdout"))
    ]
    assert ends == sorted(ends)


def test_flushed_output_comes_again_from_where_it_is_stored(
    side: OtherSide, machine: Machine
) -> None:
    machine.start()
    script = "echo before; while [ ! -e more ]; do sleep 0.05; done; echo after; while [ ! -e go ]; do sleep 0.05; done"
    side.offer({KEY: shell(script)})
    wait_until(lambda: side.live(KEY) == b"before\n", 20, dump=machine.dump)
    side.redis.delete(side.keys.out(KEY, "stdout"))
    (machine.job_dir(KEY).work / "more").touch()
    wait_until(lambda: side.live(KEY) == b"before\nafter\n", 20, dump=machine.dump)
    (machine.job_dir(KEY).work / "go").touch()
    wait_until(lambda: side.ended(KEY), 20, dump=machine.dump)


def test_output_beyond_the_cap_is_dropped_and_said(side: OtherSide, machine: Machine) -> None:
    side.cap_bytes = 100_000
    machine.start()
    side.offer({KEY: shell(f'python3 -c "{LOUD.format(lines=50_000)}"')})
    ended = wait_until(lambda: side.ended(KEY), 30, dump=machine.dump)
    assert ended.reason is EndReason.FINISHED
    assert not ended.stdout.complete
    assert side.log(KEY) == loud(400_000)[:100_000]


def test_directory_goes_when_end_is_acknowledged(side: OtherSide, machine: Machine) -> None:
    machine.start()
    side.offer({KEY: shell("echo one")})
    wait_until(lambda: side.ended(KEY), 20, dump=machine.dump)
    wait_until(lambda: not machine.job_dir(KEY).path.exists(), 10, dump=machine.dump)


def test_full_disk_cuts_the_log_and_says_so_without_holding_up_the_job() -> None:
    spool = Spool(Path("/dev/full"), cap_bytes=1 << 20)
    for _ in range(3):
        os.write(spool.write_end, bytes(60_000))
        spool.drain()
    assert spool.dropped
