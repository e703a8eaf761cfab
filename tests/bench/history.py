"""Show 4: what a million finished and 100,000 pending jobs do to lists, describe and the scheduler's wake-up."""

import time
from collections.abc import Mapping
from random import Random

from tests.bench.calls import Caller
from tests.bench.figures import percentile
from tests.bench.filling import PER_USER, History
from tests.bench.options import Options
from tests.bench.rig import SLOTS, USER, Rig, job_document

SMALL = 10_000
SAMPLES = 200
WARM = 20
READERS = 50
WAKES = 30
LABELS = {"app": "bench", "sweep": "s0"}
UNFITTING = {"cpus": SLOTS, "memory": 1, "disk": 1, "nodes": 1}
"""The whole node, which another job has a slot of: these wait for good."""

PATHS: Mapping[str, str] = {
    "GET /jobs": "/jobs",
    "GET /jobs?completed=true&num=20": "/jobs?completed=true&num=20",
    "GET /jobs?constraint=": "/jobs?constraint=sweep=s3",
    "GET /jobs?completed=true&num=20&constraint=": "/jobs?completed=true&num=20&constraint=sweep=s3",
    "GET /jobs/{id}": "/jobs/{id}",
}


def run(options: Options) -> None:
    large = options.count(1_000_000, 2 * SMALL)
    with Rig(options.room / "rig") as rig:
        history = _begin(rig)
        figures = {}
        for finished in (SMALL, large):
            begun = time.monotonic()
            history.grow(users=finished // PER_USER, finished=finished, pending=finished // 10)
            options.record.add(f"{finished:,} finished: filled in", time.monotonic() - begun, "s")
            figures[finished] = _measure(options, rig, history)
        for name in PATHS:
            ratio = figures[large][name] / figures[SMALL][name]
            options.record.add(f"{name}, p95, large against small", ratio, "x", goal="<1.5")


def _begin(rig: Rig) -> History:
    """One job of each sort, as the system itself makes them."""
    ended = rig.submit(job_document("/bin/echo", "hello", labels=LABELS))
    rig.wait_drained()
    blocker = rig.submit(job_document("/bin/sleep", "3600"), user="bob")
    rig.stack.wait_status(blocker, "running", user="bob")
    waiting = rig.submit(job_document("/bin/true", labels=LABELS, resources=UNFITTING))
    return History(rig=rig, ended=ended, waiting=waiting)


def _measure(options: Options, rig: Rig, history: History) -> dict[str, float]:
    """p95 of each path in seconds; everything is recorded with the size in its name."""
    size = f"{history.finished:,} finished"
    is_large = history.finished > SMALL
    readers, random, found = _readers(rig, history), Random(1), {}
    for name, path in PATHS.items():
        times = []
        for _ in range(SAMPLES + WARM):
            caller, jobs = random.choice(readers)
            wanted = path.format(id=random.choice(jobs))
            begun = time.perf_counter()
            caller.get(wanted)
            times.append(time.perf_counter() - begun)
        goal = "<30" if is_large else ""
        options.record.latencies(f"{size}: {name}", times[WARM:], p95=goal)
        found[name] = percentile(times[WARM:], 95)
    for caller, _ in readers:
        caller.close()
    _measure_wake(options, rig, size)
    return found


def _readers(rig: Rig, history: History) -> list[tuple[Caller, list[int]]]:
    """Users with some of their jobs; those that came last, who own as many jobs at each size."""
    names = history.last_users(READERS)
    tokens = rig.ask_inside("tokens", *names)
    readers = []
    for name, token in zip(names, tokens, strict=True):
        rows = rig.sql(
            "SELECT j.id FROM jobs_job j JOIN auth_user u ON u.id = owner_id WHERE username = %s "
            "AND status = 'completed' LIMIT 100",
            name,
        )
        readers.append((Caller(rig.stack.port, token), [row[0] for row in rows]))
    return readers


def _measure_wake(options: Options, rig: Rig, size: str) -> None:
    """A scheduler of our own in place of the control plane's."""
    rig.run_control("ingest,outbox,reconciler")
    token = rig.stack.token(USER)
    for name, cpus in (("that can start", "1"), ("that cannot", str(UNFITTING["cpus"]))):
        took = rig.ask_inside("wake", str(rig.stack.port), token, str(WAKES), cpus)
        options.record.latencies(
            f"{size}: scheduler wake with one new job {name}", took["wall"], p50="<5"
        )
        cpu_ms = 1e3 * sum(took["cpu"]) / len(took["cpu"])
        options.record.add(f"{size}: CPU of a wake, job {name}", cpu_ms, "ms")
        options.record.add(f"{size}: scheduler start", took["start"][0], "s")
    rig.run_control("")
