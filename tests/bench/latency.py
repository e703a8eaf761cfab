"""Show 2: one job at a time on an idle node: submit to start, end to the client's knowledge, beside the peers."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from jobs.states import TERMINAL
from tests.bench.calls import Caller, state_of
from tests.bench.options import Options
from tests.bench.peers.bare import build_load
from tests.bench.peers.celery_peer import CeleryPeer
from tests.bench.peers.hyperqueue_peer import HyperQueuePeer
from tests.bench.peers.slurm_peer import SlurmPeer
from tests.bench.rig import USER, Rig, job_document

ROUNDS = 5
RUN_MS = "150"
"""How long each job runs: its follower is connected well before its end."""


@dataclass
class Times:
    """Seconds."""

    answered: list[float] = field(default_factory=list)
    started: list[float] = field(default_factory=list)
    start_seen: list[float] = field(default_factory=list)
    end_seen: list[float] = field(default_factory=list)


def run(options: Options) -> None:
    per_round = options.count(30, 3)
    times, others = Times(), dict[str, list[float]]()
    marks = options.room / "marks"
    marks.mkdir(mode=0o777)
    marks.chmod(0o1777)
    with Rig(options.room / "rig") as rig, ExitStack() as stack:
        load = build_load(options.room)
        peers = _peers(options, stack, load, marks)
        caller = Caller(rig.stack.port, rig.stack.token(USER))
        for number in range(3):
            run_one(caller, load, marks / f"warm-{number}", Times())
        for turn in range(ROUNDS):
            for number in range(per_round):
                run_one(caller, load, marks / f"ours-{turn}-{number}", times)
            for name, (ask, share) in peers.items():
                count = max(1, round(per_round * share))
                others.setdefault(name, []).extend(ask() for _ in range(count))
        caller.close()
    record = options.record
    record.latencies("submit to start", times.started, p50="<25", p95="<80")
    record.latencies("submit to answer", times.answered)
    record.latencies("start to seen by a follower", times.start_seen)
    record.latencies("end to seen by a follower", times.end_seen, p50="<20", p95="<60")
    for name, values in others.items():
        record.latencies(f"submit to start, {name}", values)


def run_one(caller: Caller, load: tuple[str, ...], mark: Path, times: Times) -> None:
    document = job_document(load[0], *load[1:], "stamp", str(mark), RUN_MS)
    begun = time.time()
    job = caller.submit(document)
    times.answered.append(time.time() - begun)
    seen: dict[str, float] = {}
    for at, event in caller.events(job):
        seen.setdefault(state_of(event), at)
    [end_seen] = [at for status, at in seen.items() if status in TERMINAL]
    start, end = (int(word) / 1e9 for word in mark.read_text().split())
    times.started.append(start - begun)
    times.end_seen.append(end_seen - end)
    if "running" in seen:
        times.start_seen.append(seen["running"] - start)


Peer = tuple[Callable[[], float], float]


def _peers(
    options: Options, stack: ExitStack, load: tuple[str, ...], marks: Path
) -> dict[str, Peer]:
    """How to measure each peer's latency once, and how often against ours."""
    celery = stack.enter_context(CeleryPeer(options.room))
    numbers = iter(range(1_000_000))

    def ask_celery() -> float:
        mark = marks / f"celery-{next(numbers)}"
        return celery.start_latency([*load, "stamp", str(mark), "0"], mark)

    peers: dict[str, Peer] = {"bare Celery": (ask_celery, 0.5)}
    try:
        hyperqueue = stack.enter_context(HyperQueuePeer(options.room, load))
        peers["HyperQueue"] = (hyperqueue.start_latency, 0.1)
    except (RuntimeError, OSError) as error:
        note = f"not run: {str(error)[-200:]}"
        options.record.add("submit to start, HyperQueue", None, "ms", note=note)
    slurm = SlurmPeer(load, marks)
    if slurm.is_there():
        peers["Slurm"] = (slurm.start_latency, 0.1)
    else:
        options.record.add("submit to start, Slurm", None, "ms", note="not run: not installed")
    return peers
