"""The supervisor with real children: readiness, restarts, ordered end, and what becomes of leftovers."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest

from prominence.embedded.data_dir import DataDir, DataDirBusyError
from prominence.embedded.processes import parent_of
from prominence.embedded.supervisor import Backoff
from tests.processes import kill_processes_of, processes_of
from tests.wait import wait_until

PROJECT = Path(__file__).resolve().parent.parent.parent

# A small `up`: supervises a shell script given as its argument until it is told to end.
SUPERVISE = """
import os, signal, sys
from pathlib import Path
from prominence.embedded.processes import Command
from prominence.embedded.supervisor import EndRequestedError, Part, Supervisor

room = Path(sys.argv[1])
def part(name, tier):
    command = Command(argv=("sh", "-c", sys.argv[2]), env={**os.environ, "NAME": name}, cwd=room)
    return Part(name=name, command=command, is_ready=(room / f"{name}.ready").exists, tier=tier,
                stop_timeout_s=1)
parts = [part("first", 0), part("second", 1)]
try:
    with Supervisor(logs=room, pids=room, log_bytes=100_000) as supervisor:
        supervisor.start(*parts)
        supervisor.wait_ready(*parts, timeout_s=20)
        (room / "all-ready").touch()
        supervisor.run()
except EndRequestedError:
    pass
"""
STEADY = "trap 'echo $NAME >> ended; exit' TERM; touch $NAME.ready; sleep 1000 & wait"
DEAF = "trap '' TERM; touch $NAME.ready; sleep 1000; sleep 1000"
WITH_DAEMON = f"setsid sleep 1001 & {STEADY}"


class Supervised:
    """A supervising process with two children in one directory."""

    def __init__(self, room: Path, script: str) -> None:
        self.room = room
        self.process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISE, str(room), script], cwd=PROJECT
        )
        wait_until((room / "all-ready").exists, 20)

    def pid(self, name: str) -> int:
        return int((self.room / f"{name}.pid").read_text())


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    kill_processes_of(tmp_path)


def test_a_child_that_ends_is_started_again(room: Path) -> None:
    supervised = Supervised(room, STEADY)
    before = supervised.pid("first")

    os.kill(before, signal.SIGKILL)

    wait_until(lambda: supervised.pid("first") != before, 10)
    supervised.process.terminate()
    assert supervised.process.wait(10) == 0


def test_part_that_keeps_ending_is_started_more_and_more_seldom(room: Path) -> None:
    """Each start notes when; the pauses between them double, whatever a start takes itself."""
    script = (
        "touch $NAME.ready; cut -d' ' -f1 /proc/uptime >> $NAME.starts; [ -e go ] && sleep 1000"
    )
    supervised = Supervised(room, script)
    starts = room / "first.starts"

    wait_until(lambda: len(starts.read_text().split()) >= 6, 40)

    moments = [float(text) for text in starts.read_text().split()][:6]
    pauses = [later - earlier for earlier, later in pairwise(moments)]
    assert all(pause >= 0.09 * 2**number for number, pause in enumerate(pauses)), pauses
    (room / "go").touch()
    supervised.process.terminate()
    assert supervised.process.wait(20) == 0


def test_part_that_cannot_be_started_again_just_now_is_tried_later(room: Path) -> None:
    """As on a machine without room: its log cannot be opened for a while."""
    supervised = Supervised(room, STEADY)
    before = supervised.pid("first")
    log = room / "first.log"
    log.rename(room / "aside")
    log.mkdir()

    os.kill(before, signal.SIGKILL)
    wait_until(lambda: not parent_of(before), 10)
    wait_until(lambda: supervised.pid("second") and supervised.process.poll() is None, 1)
    log.rmdir()

    wait_until(lambda: supervised.pid("first") != before, 20)
    supervised.process.terminate()
    assert supervised.process.wait(10) == 0


def test_log_that_grows_is_put_aside_while_its_part_goes_on(room: Path) -> None:
    talk = f"head -c 200000 /dev/zero | tr '\\0' x; {STEADY.replace('sleep 1000 & wait', '')}"
    supervised = Supervised(room, f"{talk} while :; do echo more; sleep 0.05; done")

    wait_until((room / "first.log.1").exists, 20)
    wait_until(lambda: 0 < (room / "first.log").stat().st_size < 100_000, 20)

    assert (room / "first.log.1").stat().st_size >= 200_000
    assert (room / "first.log").read_bytes().startswith(b"more")
    supervised.process.terminate()
    assert supervised.process.wait(10) == 0


def test_children_end_the_highest_tier_first(room: Path) -> None:
    supervised = Supervised(room, STEADY)

    supervised.process.send_signal(signal.SIGINT)

    assert supervised.process.wait(10) == 0
    assert (room / "ended").read_text().split() == ["second", "first"]
    assert not processes_of(room)


@pytest.mark.parametrize("script", [DEAF, WITH_DAEMON], ids=["deaf", "daemon"])
def test_nothing_is_left_of_children_that_do_not_end_in_order(room: Path, script: str) -> None:
    supervised = Supervised(room, script)

    supervised.process.terminate()

    assert supervised.process.wait(20) == 0
    assert not processes_of(room)


def test_children_end_when_their_supervisor_is_killed(room: Path) -> None:
    supervised = Supervised(room, "trap 'exit' TERM; touch $NAME.ready; while :; do wait; done")

    supervised.process.kill()
    supervised.process.wait(10)

    wait_until(lambda: not processes_of(room), 10, dump=lambda: processes_of(room))


def test_a_data_directory_has_one_holder(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    with ExitStack() as stack:
        stack.enter_context(data.hold())
        with pytest.raises(DataDirBusyError, match=f"process {os.getpid()}"):
            stack.enter_context(DataDir(tmp_path).hold())
    with data.hold():
        assert (data.run / "lock").read_text() == f"{os.getpid()}\n"


def test_a_port_is_kept_while_it_is_free(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    with data.hold():
        first = data.port("api", host="127.0.0.1")
        assert data.port("api", host="127.0.0.1") == first


def test_waiting_doubles_with_short_lives_and_starts_over_after_a_long_one() -> None:
    backoff = Backoff()

    assert [backoff.after(1) for _ in range(3)] == [0.1, 0.2, 0.4]
    assert [backoff.after(1) for _ in range(9)][-1] == 30
    assert backoff.after(61) == 0.1
