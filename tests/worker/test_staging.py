"""Artifacts in, output files out, on a real node; bare processes."""

import gzip
import io
import os
import tarfile
from collections.abc import Iterator

import pytest

from tests.staging.archives import ATTACKS, BOMBS, GOOD
from tests.staging.file_server import FileServer
from tests.wait import wait_until
from tests.worker.machine import Machine
from tests.worker.other_side import OtherSide, Refusal, shell, task
from worker.protocol import (
    OUTPUT_PIECE_BYTES,
    ArtifactSpec,
    AttemptKey,
    Ended,
    EndReason,
    RunSpec,
)


@pytest.fixture
def files() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


def run_all(side: OtherSide, machine: Machine, specs: dict[str, RunSpec]) -> dict[str, Ended]:
    """Run these at once; their ends by name."""
    keys = {name: AttemptKey(number, 1) for number, name in enumerate(specs, 1)}
    machine.start()
    side.offer({keys[name]: spec for name, spec in specs.items()}, publish=False)
    for key in keys.values():
        side.publish([key])

    def ended() -> dict[str, Ended] | None:
        ends = {name: end for name, key in keys.items() if (end := side.ended(key))}
        return ends if len(ends) == len(specs) else None

    return wait_until(ended, 60, dump=machine.dump)


def artifact(url: str, name: str, **changes: object) -> ArtifactSpec:
    return ArtifactSpec(url=url, filename=name, **changes)  # type: ignore[arg-type]


def with_artifact(files: FileServer, name: str, data: bytes, script: str = "true") -> RunSpec:
    url = files.add(f"{len(files.files)}/{name}", data)
    return shell(script, artifacts=(artifact(url, name),), disk_mb=10)


def test_artifacts_are_there_before_the_first_task_s89_s90(
    side: OtherSide, machine: Machine, files: FileServer
) -> None:
    """U13, W29, W30."""
    artifacts = (
        artifact(files.add("a.tgz", GOOD["A.TGZ"]()), "a.tgz"),
        artifact(files.add("b.gz", gzip.compress(b"plain\n")), "b.gz"),
        artifact(files.add("go", b"#!/bin/sh\nid -u\n"), "go", executable=True),
    )
    files.breaks = [10]
    script = "set -e; cat pack/a.txt; pack/bin/run.sh; cat b; ./go; ls; stat -c %u go"

    ends = run_all(side, machine, {"good": shell(script, artifacts=artifacts)})

    assert ends["good"].reason is EndReason.FINISHED, f"{ends}{machine.dump()}"
    lines = side.log(ends["good"].key).decode().split()
    uids = {str(uid) for uid in machine.blocks[0].uids} if os.getuid() == 0 else {str(os.getuid())}
    assert lines[:3] == ["hello", "ran", "plain"]
    assert set(lines[3:]) - uids == {"b", "go", "pack"}
    assert len(set(lines[3:]) & uids) == 1
    assert (ends["good"].stage_in_s or 0) > 0


def test_bad_artifacts_end_their_job_and_nothing_else(
    side: OtherSide, machine: Machine, files: FileServer
) -> None:
    """Each attack on a real node: refused, the reason told, no task begun, and the node takes the next job."""
    attacks = ("zip slip", "link out", "hard link absolute", "device", "cut")
    specs = {name: with_artifact(files, ATTACKS[name][0], ATTACKS[name][1]()) for name in attacks}
    specs["bomb"] = with_artifact(files, *(BOMBS["zip bomb"][0], BOMBS["zip bomb"][1]()))
    specs["large"] = with_artifact(files, "large", bytes(11 << 20))
    missing = artifact(files.url("missing?signature=hidden"), "missing")
    specs["missing"] = shell("true", artifacts=(missing,))
    specs["good"] = with_artifact(files, "a.zip", GOOD["a.zip"](), "cat pack/a.txt")

    ends = run_all(side, machine, specs)

    reasons = {name: end.reason for name, end in ends.items()}
    assert reasons == dict.fromkeys(attacks, EndReason.UNPACK) | {
        "bomb": EndReason.DISK,
        "large": EndReason.DISK,
        "missing": EndReason.STAGE_IN,
        "good": EndReason.FINISHED,
    }
    for name in {*attacks, "bomb", "large", "missing"}:
        assert ends[name].detail, name
        assert not ends[name].tasks, name
        assert not side.started(ends[name].key), name
    assert "hidden" not in ends["missing"].detail + machine.dump()
    assert side.log(ends["good"].key) == b"hello\n"


def test_outputs_are_uploaded_also_of_badly_ended_jobs_s91_u15_u16(
    side: OtherSide, machine: Machine
) -> None:
    big = OUTPUT_PIECE_BYTES + 5
    wanted = {"output_files": ("*.txt", "empty"), "output_dirs": ("out",)}
    script = (
        f"echo a > a.txt; head -c {big} /dev/zero > b.txt; : > empty; mkdir out; echo c > out/c"
    )
    side.output_refusals = [Refusal(503), Refusal(409, "0")]

    ends = run_all(
        side,
        machine,
        {
            "well": shell(script, **wanted),
            "badly": shell("echo x > x.txt; exit 3", **wanted),
            "late": shell("echo y > y.txt; sleep 100", walltime_s=0.5, **wanted),
            "none": shell("true", output_files=("nothing",)),
        },
    )

    assert {name: end.reason for name, end in ends.items()} == {
        "well": EndReason.FINISHED,
        "badly": EndReason.FINISHED,
        "late": EndReason.WALLTIME,
        "none": EndReason.OUTPUT_MISSING,
    }
    well = {name: data for (key, name), data in side.outputs.items() if key == ends["well"].key}
    assert set(well) == {"a.txt", "b.txt", "empty", "out/"}
    assert (well["a.txt"], len(well["b.txt"]), well["empty"]) == (b"a\n", big, b"")
    with tarfile.open(fileobj=io.BytesIO(well["out/"])) as tar:
        assert tar.getnames() == ["out", "out/c"]
    assert side.outputs[ends["badly"].key, "x.txt"] == b"x\n"
    assert side.outputs[ends["late"].key, "y.txt"] == b"y\n"
    assert (ends["well"].stage_out_s or 0) > 0


@pytest.mark.parametrize(
    ("status", "reason"),
    [(413, EndReason.OUTPUT_TOO_LARGE), (403, EndReason.STAGE_OUT)],
)
def test_refused_output_fails_a_job_that_ended_well(
    side: OtherSide, machine: Machine, status: int, reason: EndReason
) -> None:
    side.output_refusals = [Refusal(status)]

    ends = run_all(side, machine, {"job": shell("echo a > a", output_files=("a",))})

    assert ends["job"].reason is reason
    assert ends["job"].tasks[0].exit_code == 0


def test_outputs_of_an_earlier_task_are_kept_when_a_later_one_cannot_start(
    side: OtherSide, machine: Machine
) -> None:
    tasks = (task("/bin/sh", "-c", "echo a > a"), task("true", runtime="unknown"))
    spec = RunSpec(tasks=tasks, output_files=("a",), memory_mb=64, disk_mb=64)

    ends = run_all(side, machine, {"job": spec})

    assert ends["job"].reason is EndReason.RUNTIME_MISSING
    assert side.outputs[ends["job"].key, "a"] == b"a\n"
