"""The image cache among many processes, some of which die."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.runtimes.machine import Machine, exit_code, in_child, kill
from tests.wait import wait_until
from worker.images import FROM_CACHE_S, CachePolicy, ImageCache
from worker.runtimes.base import Command, Finished
from worker.runtimes.commands import run_command
from worker.runtimes.errors import RuntimeMissing
from worker.runtimes.select import SINGULARITY

PROCESSES = 8


def entries(machine: Machine, name: str) -> list[Path]:
    return sorted((machine.room / name / "entries").iterdir())


def slow_cache(machine: Machine, name: str, marker: Path) -> ImageCache:
    """A cache whose pulls stop in the middle, for ever, after leaving a marker."""

    def never_ending(command: Command) -> Finished:
        run_command(command)
        marker.touch()
        signal.pause()
        raise AssertionError("unreachable")

    return ImageCache(
        machine.room / name,
        runtimes=machine.runtimes,
        puller=machine.puller,
        run=never_ending,
    )


def test_second_use_comes_from_cache(machine: Machine) -> None:
    cache = machine.cache("twice")
    first = cache.acquire(SINGULARITY, machine.image("test/plain")).image
    second = cache.acquire(SINGULARITY, machine.image("test/plain")).image
    assert not first.cached
    assert first.pull_s > 0
    assert (second.cached, second.pull_s) == (True, FROM_CACHE_S)
    assert (second.path, second.digest) == (first.path, first.digest)


def test_unknown_runtime_is_missing(machine: Machine) -> None:
    with pytest.raises(RuntimeMissing):
        machine.cache().acquire("docker", machine.image("test/plain"))


def test_many_processes_at_once_pull_once(machine: Machine) -> None:
    start_read, start_write = os.pipe()

    def ask(number: int) -> None:
        os.close(start_write)
        os.read(start_read, 1)  # ends when the parent closes its end: all start together
        image = machine.cache("crowd").acquire(SINGULARITY, machine.image("test/plain")).image
        (machine.room / f"crowd-{number}").write_text(str(image.cached))

    children = [in_child(lambda number=number: ask(number)) for number in range(PROCESSES)]
    os.close(start_read)
    os.close(start_write)
    assert [exit_code(child) for child in children] == [0] * PROCESSES
    answers = [(machine.room / f"crowd-{number}").read_text() for number in range(PROCESSES)]
    assert sorted(answers) == ["False"] + ["True"] * (PROCESSES - 1)
    assert len(entries(machine, "crowd")) == 1


def test_puller_killed_midway_leaves_next_one_clean(machine: Machine) -> None:
    marker = machine.room / "killed-marker"
    slow = slow_cache(machine, "killed", marker)
    child = in_child(lambda: slow.acquire(SINGULARITY, machine.image("test/plain")).release())
    wait_until(marker.exists)
    kill(child)
    work = machine.room / "killed" / "work"
    assert len(list(work.iterdir())) == 1
    lease = machine.cache("killed").acquire(SINGULARITY, machine.image("test/plain"))
    assert not lease.image.cached
    assert not list(work.iterdir())


def test_live_pull_is_not_swept_by_another(machine: Machine) -> None:
    marker = machine.room / "live-marker"
    slow = slow_cache(machine, "live", marker)
    child = in_child(lambda: slow.acquire(SINGULARITY, machine.image("test/plain")).release())
    wait_until(marker.exists)
    machine.cache("live").acquire(SINGULARITY, machine.image("test/entry")).release()
    assert len(list((machine.room / "live" / "work").iterdir())) == 1
    kill(child)


def test_oldest_unused_image_goes_first(machine: Machine) -> None:
    policy = CachePolicy(max_bytes=5_000_000)
    cache = machine.cache("small", policy)
    kept = cache.acquire(SINGULARITY, machine.image("test/plain"))
    gone = cache.acquire(SINGULARITY, machine.image("test/entry"))
    gone.release()
    cache.acquire(SINGULARITY, machine.image("busybox")).release()
    assert kept.image.path.exists()
    assert not gone.image.path.exists()


def test_image_in_use_by_dead_process_may_go(machine: Machine) -> None:
    cache = machine.cache("dead", CachePolicy(max_bytes=0))
    child = in_child(lambda: cache.acquire(SINGULARITY, machine.image("test/plain")) and None)
    assert exit_code(child) == 0
    cache.evict()
    assert not entries(machine, "dead")


def test_command_dies_with_the_process_that_ran_it(machine: Machine) -> None:
    pid_file = machine.room / "sleeper"
    pid_file.touch()
    os.chown(pid_file, machine.puller.uid, machine.puller.gid)
    script = f"echo $$ >{pid_file}; exec sleep 600"
    command = Command(
        argv=("/bin/sh", "-c", script),
        env={"PATH": "/usr/bin:/bin"},
        cwd=Path("/"),
        identity=machine.puller,
    )
    child = in_child(lambda: run_command(command) and None)
    sleeper = Path("/proc", wait_until(lambda: pid_file.read_text().strip()))
    kill(child)
    wait_until(lambda: not sleeper.exists() or "\nState:\tZ" in (sleeper / "status").read_text())


def test_command_past_its_time_is_killed(machine: Machine) -> None:
    command = Command(
        argv=("/bin/sleep", "600"),
        env={},
        cwd=Path("/"),
        identity=machine.puller,
        timeout_s=0.05,
    )
    begin = time.monotonic()
    assert run_command(command).code == -signal.SIGKILL
    assert time.monotonic() - begin < 30
