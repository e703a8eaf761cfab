"""Where a job's milliseconds go: stacks sampled in each process while a backlog is worked off, and jobs are posted.

CPU per job of a process (from /proc) is shared out over its threads and functions by the samples of py-spy, which lives
in the peers' environment. Stacks are kept as `.bench/profiles/PART.txt`, one "stack count" a line.
"""

import json
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench import meter
from tests.bench.calls import Caller
from tests.bench.options import Options
from tests.bench.peers.hyperqueue_peer import peers_environment
from tests.bench.rig import USER, Rig, job_document
from tests.bench.state import STATE

DOCUMENT = job_document("/bin/true")
RATE_HZ = 200
TOP = 12
OURS = re.compile(r"(?:clouds|jobs|worker|prominence|workflows)/\S+\.py")
THREAD = re.compile(r"thread \((?:0x)?[0-9a-f]+\): (.*)", re.IGNORECASE)


def run(options: Options) -> None:
    posts, jobs = options.count(1000, 50), options.count(2000, 100)
    profiles = STATE / "profiles"
    shutil.rmtree(profiles, ignore_errors=True)
    profiles.mkdir(parents=True)
    with Rig(options.room / "rig") as rig:
        rig.warm_up(DOCUMENT)
        with rig.held_scheduler(), _sampled({"api": rig.stack.pid("api")}, profiles):
            api_s = _post(rig, posts)
        rig.wait_drained(240)
        _tell(options, "api", profiles, 1e3 * api_s / posts)
        parts = {"control": rig.stack.pid("control"), "node worker": rig.stack.pid("node-1")}
        with _sampled(parts, profiles):
            drain = rig.run_pending(DOCUMENT, jobs, 300)
        for part in parts:
            _tell(options, part, profiles, drain.cpu_ms()[part])


def _post(rig: Rig, count: int) -> float:
    """CPU seconds of the API for so many jobs."""
    caller = Caller(rig.stack.port, rig.stack.token(USER))
    body = json.dumps(DOCUMENT).encode()
    before = meter.cpu_s(rig.stack.pid("api"))
    for _ in range(count):
        caller.post_job(body)
    caller.close()
    return meter.cpu_s(rig.stack.pid("api")) - before


@contextmanager
def _sampled(parts: dict[str, int], profiles: Path) -> Iterator[None]:
    """Sample these processes for as long as the body takes."""
    program = str(peers_environment() / "bin" / "py-spy")
    with ExitStack() as stack:
        for part, pid in parts.items():
            argv = [program, "record", "-p", str(pid), "-r", str(RATE_HZ), "-d", "600"]
            argv += ["-f", "raw", "--threads", "--nonblocking", "-o", str(profiles / f"{part}.txt")]
            log = stack.enter_context((profiles / f"{part}.log").open("w"))
            process = subprocess.Popen(argv, stdout=log, stderr=log)
            stack.callback(process.wait, 60)
            stack.callback(process.send_signal, signal.SIGINT)
        yield


def _tell(options: Options, part: str, profiles: Path, cpu_ms: float) -> None:
    """Threads of a process, and the functions of ours in whose calls most time went, as ms per job."""
    path = profiles / f"{part}.txt"
    stacks = (
        [line.rsplit(" ", 1) for line in path.read_text().splitlines()] if path.exists() else []
    )
    total = sum(int(count) for _, count in stacks)
    options.record.add(f"{part}: CPU per job, sampled", cpu_ms, "ms", samples=total)
    if not total:
        return
    threads, functions = Counter[str](), Counter[str]()
    for stack, count in stacks:
        frames = stack.split(";")
        threads[_thread(frames)] += int(count)
        for frame in {_short(frame) for frame in frames if OURS.search(frame)}:
            functions[frame] += int(count)
    for name, count in threads.most_common(TOP):
        options.record.add(f"{part}: thread {name}", cpu_ms * count / total, "ms")
    for name, count in functions.most_common(TOP):
        options.record.add(f"{part}: in {name}", cpu_ms * count / total, "ms")


def _thread(frames: list[str]) -> str:
    found = THREAD.match(frames[0])
    name = found[1] if found else frames[0]
    return re.sub(r"[-_]?\d+(?:_\d+)?(?: \(.*\))?$", "", name) or "main"


def _short(frame: str) -> str:
    """`function (room/module.py)` without the line."""
    name, _, place = frame.partition(" (")
    found = OURS.search(place)
    return f"{name} ({found[0] if found else place})"
