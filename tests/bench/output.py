"""Show 5: output of jobs: many followers of a slow one, and what large outputs cost and disturb."""

import hashlib
import json
import subprocess
import sys
import threading
import time

from tests.bench import meter
from tests.bench.calls import Caller
from tests.bench.latency import Times, run_one
from tests.bench.options import Options
from tests.bench.peers.bare import build_load
from tests.bench.rig import USER, Rig, job_document
from tests.stack import PROJECT

LINES_PER_S = 20
SETTLE_S = 5
FOLLOW_S = 8
BLOCK = bytes(10 if i % 64 == 63 else 97 + i % 23 for i in range(65536))
"""What `load flood` repeats."""


def run(options: Options) -> None:
    marks = options.room / "marks"
    marks.mkdir(mode=0o777)
    marks.chmod(0o1777)
    with Rig(options.room / "rig") as rig:
        load = build_load(options.room)
        _follow(options, rig, load)
        _flood(options, rig, load, options.count(100_000_000, 1_000_000))
        _disturb(
            options,
            rig,
            load,
            options.count(1_000_000_000 if options.full else 300_000_000, 2_000_000),
        )


def _follow(options: Options, rig: Rig, load: tuple[str, ...]) -> None:
    count = options.count(200, 10)
    seconds = SETTLE_S + FOLLOW_S
    words = ("tick", str(LINES_PER_S), str(seconds))
    job = rig.submit(job_document(load[0], *load[1:], *words))
    token = rig.stack.token(USER)
    before = rig.spent()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.bench.followers"),
            *(str(rig.stack.port), token, str(job), str(count)),
        ],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + 60,
    )
    spent = meter.difference(rig.spent(), before)
    found = json.loads(done.stdout)
    record, name = options.record, f"{count} followers of {LINES_PER_S} lines/s"
    record.latencies(f"{name}: written to seen", found["late_s"], p95="<300")
    lost = sum(LINES_PER_S * seconds - lines for lines in found["lines"])
    record.add(f"{name}: lines lost or twice", abs(lost), "", goal="<1")
    record.add(f"{name}: CPU of the API", 100 * spent["api"] / seconds, "% of a core")


def _flood(options: Options, rig: Rig, load: tuple[str, ...], size: int) -> None:
    name = f"{size / 1e6:.0f} MB through a job"
    before, begun = rig.spent(), time.monotonic()
    job = rig.submit(job_document(load[0], *load[1:], "flood", str(size)))
    rig.wait_drained(300)
    took = time.monotonic() - begun
    spent = meter.difference(rig.spent(), before)
    node_s = spent["node worker"] + spent["shims and jobs"]
    record = options.record
    note = "the job's own writes included"
    record.add(f"{name}: CPU of the node", node_s, "s", goal="<2", note=note)
    record.add(f"{name}: CPU of all parts", sum(spent.values()), "s")
    record.add(f"{name}: time", took, "s")
    record.add(f"{name}: bytes lost or changed", _difference(rig, job, size), "", goal="<1")


def _difference(rig: Rig, job: int, size: int) -> int:
    """0 when what is stored is what was written; else by how much its length differs, or 1."""
    digest, expected, got = hashlib.sha256(), hashlib.sha256(), 0
    with rig.stack.client(USER) as client, client.stream("GET", f"/jobs/{job}/stdout") as answer:
        for part in answer.iter_bytes():
            digest.update(part)
            got += len(part)
    for start in range(0, size, len(BLOCK)):
        expected.update(BLOCK[: min(len(BLOCK), size - start)])
    return abs(size - got) or int(digest.digest() != expected.digest())


def _disturb(options: Options, rig: Rig, load: tuple[str, ...], size: int) -> None:
    """Other jobs' start latency and the parts' memory while a large output passes through the other slot."""
    name = f"beside {size / 1e9:.1f} GB of output"
    caller = Caller(rig.stack.port, rig.stack.token(USER))
    marks, alone, beside = options.room / "marks", Times(), Times()
    for number in range(options.count(20, 3)):
        run_one(caller, load, marks / f"alone-{number}", alone)
    idle = rig.pss_mb()
    flooding = job_document(load[0], *load[1:], "flood", str(size), labels={"big": "1"})
    job = rig.submit(flooding)
    peaks: dict[str, float] = {}
    over = threading.Event()
    watching = threading.Thread(target=_watch, args=(rig, peaks, over))
    watching.start()
    number = 0
    deadline = time.monotonic() + 120
    try:
        while rig.sql("SELECT ended_at FROM jobs_job WHERE id = %s", job) == [(None,)]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{size} bytes of output take longer than 120 s")
            number += 1
            run_one(caller, load, marks / f"beside-{number}", beside)
    finally:
        over.set()
        watching.join()
    caller.close()
    options.record.latencies(f"{name}: submit to start", beside.started)
    options.record.latencies("the same without it: submit to start", alone.started)
    for part in ("node", "api", "control", "redis"):
        growth = peaks.get(part, idle[part]) - idle[part]
        options.record.add(f"{name}: growth of PSS, {part}", growth, "MB")


def _watch(rig: Rig, peaks: dict[str, float], over: threading.Event) -> None:
    while not over.wait(0.5):
        for part, size in rig.pss_mb().items():
            peaks[part] = max(size, peaks.get(part, 0.0))
