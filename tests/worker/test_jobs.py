"""What a job can rely on: environment, inputs, order of tasks, limits. Bare processes but for the last."""

import hashlib
import os

import pytest

from tests.wait import wait_until
from tests.worker.machine import Machine
from tests.worker.other_side import OtherSide, shell, spec, task
from worker.demo_registry import DemoRegistry
from worker.protocol import AttemptKey, EndReason, InputSpec, RunSpec, TaskEnded, Word

KEY = AttemptKey(7, 1)


def run(side: OtherSide, machine: Machine, wanted: RunSpec, key: AttemptKey = KEY):  # type: ignore[no-untyped-def]
    machine.start()
    side.offer({key: wanted})
    return wait_until(lambda: side.ended(key), 30, dump=machine.dump)


@pytest.mark.contract("S110", "S111", "S112", "S113", "S115", "S118", "U21")
def test_environment_is_as_documented(side: OtherSide, machine: Machine) -> None:
    wanted = shell("env", cpus=2, memory_mb=2048, env={"MINE": "a b"})
    run(side, machine, wanted)
    lines = set(side.log(KEY).decode().splitlines())
    assert lines >= {
        "PROMINENCE_CPUS=2",
        "PROMINENCE_MEMORY=2",
        "PROMINENCE_CONTAINER_RUNTIME=process",
        "PROMINENCE_JOB_ID=7",
        "PROMINENCE_NODES=1",
        "PROMINENCE_NODE_NUM=0",
        "PROMINENCE_TASK_NUM=0",
        "USER=user",
        "MINE=a b",
        "SECRET=hidden",
    }


@pytest.mark.contract("S88")
def test_inputs_are_in_the_scratch_and_the_jobs_own(side: OtherSide, machine: Machine) -> None:
    files = {"data/in.txt": b"hello\n", "run.sh": b"#!/bin/sh\ncat data/in.txt; rm data/in.txt\n"}
    side.inputs = {hashlib.sha256(data).hexdigest(): data for data in files.values()}
    inputs = tuple(
        InputSpec(
            filename=name,
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
            executable=name.endswith(".sh"),
        )
        for name, data in files.items()
    )
    ended = run(side, machine, spec("./run.sh", inputs=inputs))
    assert side.log(KEY) == b"hello\n"
    assert ended.tasks[0].exit_code == 0


def test_input_with_wrong_digest_fails_the_stage_in(side: OtherSide, machine: Machine) -> None:
    side.inputs = {"0" * 64: b"forged"}
    wanted = spec("true", inputs=(InputSpec(filename="a", sha256="0" * 64, size=6),))
    assert run(side, machine, wanted).reason is EndReason.INPUTS


def test_input_outside_the_scratch_is_refused(side: OtherSide, machine: Machine) -> None:
    wanted = spec("true", inputs=(InputSpec(filename="../../x", sha256="0" * 64, size=6),))
    assert run(side, machine, wanted).reason is EndReason.INPUTS


@pytest.mark.contract("S8")
def test_tasks_run_in_order_until_one_fails(side: OtherSide, machine: Machine) -> None:
    commands = ["echo one > f", "cat f; exit 4", "echo three"]
    wanted = RunSpec(tasks=tuple(task("/bin/sh", "-c", c) for c in commands))
    ended = run(side, machine, wanted)
    assert [result.exit_code for result in ended.tasks] == [0, 4]
    assert side.log(KEY) == b"one\n"
    ends = [event for event in side.of(KEY) if isinstance(event, TaskEnded)]
    assert [event.task for event in ends] == [0]


@pytest.mark.contract("U26")
def test_later_tasks_run_after_a_failure_if_asked(side: OtherSide, machine: Machine) -> None:
    commands = ["exit 4", "echo two"]
    tasks = tuple(task("/bin/sh", "-c", c) for c in commands)
    ended = run(side, machine, RunSpec(tasks=tasks, keep_going=True))
    assert [result.exit_code for result in ended.tasks] == [4, 0]
    assert side.log(KEY) == b"two\n"


@pytest.mark.contract("U24")
@pytest.mark.parametrize(
    ("script", "tries", "code"),
    [
        ("echo x >> f; test $(wc -l < f) = 2", 2, 0),
        ("echo x >> f; exit 4", 3, 4),
        ("echo x >> f; kill -KILL $$", 1, 137),
    ],
)
def test_task_is_run_again_in_place(
    side: OtherSide, machine: Machine, script: str, tries: int, code: int
) -> None:
    tasks = (task("/bin/sh", "-c", script), task("/bin/cat", "f"))
    wanted = RunSpec(tasks=tasks, task_retries=2, keep_going=True)
    first, _ = run(side, machine, wanted).tasks
    assert (first.exit_code, first.retries) == (code, tries - 1)
    assert side.log(KEY) == b"x\n" * tries


@pytest.mark.contract("U19")
def test_ids_are_put_into_command_and_directory(side: OtherSide, machine: Machine) -> None:
    makes = task("/bin/mkdir", "job-7")
    tells = task("/bin/echo", "${PROMINENCE_JOB_ID}", "$PROMINENCE_JOB_ID.$PROMINENCE_JOB_IDS")
    shows = task("/bin/pwd", workdir="job-$PROMINENCE_JOB_ID")
    run(side, machine, RunSpec(tasks=(makes, tells, shows)))
    first, second = side.log(KEY).decode().splitlines()
    assert first == "7 7.$PROMINENCE_JOB_IDS"
    assert second.endswith("/job-7")


def test_missing_command_gives_127(side: OtherSide, machine: Machine) -> None:
    ended = run(side, machine, spec("no-such-command"))
    assert ended.reason is EndReason.FINISHED
    assert [result.exit_code for result in ended.tasks] == [127]


def test_walltime_ends_the_job_politely(side: OtherSide, machine: Machine) -> None:
    script = "trap 'echo bye; exit 9' TERM; echo ready; sleep 600 & wait"
    ended = run(side, machine, shell(script, walltime_s=1.0))
    assert ended.reason is EndReason.WALLTIME
    assert side.log(KEY) == b"ready\nbye\n"
    assert machine.of_jobs() == []


def test_background_processes_end_with_their_task(side: OtherSide, machine: Machine) -> None:
    wanted = RunSpec(
        tasks=(
            task("/bin/sh", "-c", "setsid sleep 600 & echo one"),
            task("/bin/sh", "-c", "ps -o args= -u $(id -u) | grep -c '[s]leep 600'"),
        )
    )
    run(side, machine, wanted)
    assert side.log(KEY) == b"one\n0\n"


@pytest.mark.contract("S121", "S123")
def test_usage_is_measured(side: OtherSide, machine: Machine) -> None:
    script = "python3 -c 'x = bytearray(200 << 20); n = 0\nfor i in range(3000000): n += i'"
    ended = run(side, machine, shell(script, memory_mb=512))
    [result] = ended.tasks
    assert result.max_rss_kb > 200 << 10
    assert 0.05 < result.cpu_s < 20
    if ended.max_memory_kb is not None:
        assert ended.max_memory_kb > 200 << 10


def test_scratch_is_gone_after_the_end(side: OtherSide, machine: Machine) -> None:
    machine.start()
    side.offer({KEY: shell("mkdir -p a/b; touch a/b/c; chmod 000 a/b")})
    wait_until(lambda: side.ended(KEY), 20, dump=machine.dump)
    wait_until(lambda: not machine.job_dir(KEY).work.exists(), 10, dump=machine.dump)


@pytest.mark.skipif(os.getuid() != 0, reason="slots have uids of their own only under root")
def test_jobs_cannot_see_each_other(side: OtherSide, machine: Machine) -> None:
    machine.start()
    side.offer({KEY: shell("id -u; echo secret > mine; sleep 600")})
    wait_until(lambda: side.live(KEY), 20, dump=machine.dump)
    other = AttemptKey(8, 1)
    place = machine.job_dir(KEY).work
    shim = machine.shim_of(KEY)
    private = (
        place / "mine",
        f"/proc/{shim}/environ",
        machine.data.enrolment,
        machine.data.life(1).journal,
    )
    script = f"id -u; cat {' '.join(map(str, private))}; ls {machine.data.path}; "
    side.offer({other: shell(script + "pkill -u 0 -f worker; exit 0")})
    wait_until(lambda: side.ended(other), 20, dump=machine.dump)
    said = side.log(other)
    assert len(said.split()) == 1
    assert said not in side.live(KEY)
    assert side.log(other, "stderr").count(b"Permission denied") == 5
    side.say(Word(stop=(KEY,)))
    wait_until(lambda: side.ended(KEY), 20, dump=machine.dump)


def test_job_inherits_no_descriptor_of_the_node(side: OtherSide, machine: Machine) -> None:
    run(side, machine, shell("ls -l /proc/self/fd"))
    targets = [line.rpartition(b"-> ")[2] for line in side.log(KEY).splitlines() if b"->" in line]
    assert [t for t in targets if not t.startswith((b"pipe:", b"/dev/null", b"/proc/"))] == []
    assert len(targets) == 4


def test_jobs_of_a_message_share_a_shim_and_nothing_else(side: OtherSide, machine: Machine) -> None:
    machine.start()
    keys = [AttemptKey(number, 1) for number in range(7, 10)]
    script = "echo $PPID; cat mine; echo $PROMINENCE_JOB_ID > mine; sleep 600 &"
    side.offer({key: shell(script) for key in keys})
    wait_until(lambda: all(map(side.ended, keys)), 30, dump=machine.dump)
    shims = {side.log(key) for key in keys}  # whose scratch had no file of another job
    assert len(shims) == 1
    assert machine.of_jobs() == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a job another identity")
def test_bare_process_has_no_privileges_left(side: OtherSide, machine: Machine) -> None:
    run(side, machine, shell("cat /proc/self/status; id -G; pwd"))
    lines = [line.split() for line in side.log(KEY).decode().splitlines()]
    status = {line[0]: line[1:] for line in lines if line[0].endswith(":")}
    [uid] = set(status["Uid:"])
    assert int(uid) in {uid for block in machine.blocks for uid in block.uids}
    assert set(status["Gid:"]) == {uid}
    assert {
        name: set(status[name][0]) for name in ("CapPrm:", "CapEff:", "CapInh:", "CapAmb:")
    } == {name: {"0"} for name in ("CapPrm:", "CapEff:", "CapInh:", "CapAmb:")}
    assert status["NoNewPrivs:"] == ["1"]
    assert status["SigBlk:"] == ["0" * 16]
    assert status.get("Groups:", []) == []


def test_rest_of_a_batch_is_given_back_when_one_is_long(side: OtherSide, machine: Machine) -> None:
    machine.start()
    others = [AttemptKey(8, 1), AttemptKey(9, 1)]
    side.offer({KEY: shell("sleep 600"), **{key: spec("true") for key in others}})
    ends = wait_until(lambda: all(map(side.ended, others)) and list(map(side.ended, others)), 20)
    assert {end.reason for end in ends} == {EndReason.NEVER_STARTED}
    assert {end.detail for end in ends} == {"given back"}
    side.say(Word(stop=(KEY,)))
    wait_until(lambda: side.ended(KEY), 20, dump=machine.dump)


def test_work_beyond_the_node_waits_for_room(side: OtherSide, machine: Machine) -> None:
    machine.start()
    side.offer({KEY: shell("while [ ! -e go ]; do sleep 0.05; done", cpus=4)})
    wait_until(lambda: side.started(KEY), 20, dump=machine.dump)
    other = AttemptKey(8, 1)
    side.offer({other: spec("true", cpus=4)})
    wait_until(lambda: any(event for event in side.of(other)), 20, dump=machine.dump)
    assert not side.started(other)
    (machine.job_dir(KEY).work / "go").touch()
    wait_until(lambda: side.ended(other), 20, dump=machine.dump)
    assert side.ended(KEY) is not None


def test_stopped_while_waiting_never_starts(side: OtherSide, machine: Machine) -> None:
    machine.start()
    side.offer({KEY: shell("sleep 600", cpus=4)})
    wait_until(lambda: side.started(KEY), 20, dump=machine.dump)
    other = AttemptKey(8, 1)
    side.offer({other: spec("true", cpus=4)})
    wait_until(lambda: side.of(other), 20, dump=machine.dump)
    side.say(Word(stop=(other,)))
    ended = wait_until(lambda: side.ended(other), 20, dump=machine.dump)
    assert ended.reason is EndReason.NEVER_STARTED
    side.say(Word(stop=(KEY,)))
    wait_until(lambda: side.ended(KEY), 20, dump=machine.dump)


def test_apptainer_job_runs(side: OtherSide, machine: Machine, demo_registry: DemoRegistry) -> None:
    side.mirrors = {"docker.io": demo_registry.url}
    command = ("/bin/sh", "-c", "echo $PROMINENCE_CONTAINER_RUNTIME $HOME; pwd; exit 5")
    ended = run(
        side, machine, RunSpec(tasks=(task(*command, runtime="singularity", image="busybox"),))
    )
    assert ended.reason is EndReason.FINISHED, ended
    assert [result.exit_code for result in ended.tasks] == [5]
    assert ended.tasks[0].image_pull_s > 0
    assert side.log(KEY) == b"singularity /home/user\n/home/user\n"


def test_absent_image_is_reported(
    side: OtherSide, machine: Machine, demo_registry: DemoRegistry
) -> None:
    side.mirrors = {"docker.io": demo_registry.url}
    ended = run(
        side, machine, RunSpec(tasks=(task("true", runtime="singularity", image="no/such"),))
    )
    assert ended.reason is EndReason.IMAGE_NOT_FOUND
    assert "no/such" in ended.detail


def test_stop_during_a_pull_ends_it(side: OtherSide, machine: Machine) -> None:
    side.mirrors = {"docker.io": "http://127.0.0.1:9"}
    machine.start()
    fifo = machine.room / "image.tar"
    os.mkfifo(fifo, 0o644)
    side.offer({KEY: RunSpec(tasks=(task("true", runtime="singularity", image=str(fifo)),))})
    wait_until(lambda: side.of(KEY) and machine.shims(), 20, dump=machine.dump)
    side.say(Word(stop=(KEY,)))
    ended = wait_until(lambda: side.ended(KEY), 20, dump=machine.dump)
    assert ended.reason in {EndReason.STOPPED, EndReason.IMAGE_NOT_FOUND}
