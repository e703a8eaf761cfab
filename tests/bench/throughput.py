"""Show 1: a backlog of trivial jobs until the last one's terminal state is stored, beside the peers, in turn."""

from contextlib import ExitStack

from tests.bench.figures import Recorder
from tests.bench.options import Options
from tests.bench.peers.bare import build_load, exec_rate
from tests.bench.peers.celery_peer import CeleryPeer
from tests.bench.peers.hyperqueue_peer import HyperQueuePeer
from tests.bench.rig import Drain, Rig, job_document

ROUNDS = 5
GOAL = ">=0.25"
FLAT_GOAL = ">=0.8"
DOCUMENT = job_document("/bin/true")

Rates = dict[str, list[tuple[float, float]]]


def run(options: Options) -> None:
    small = options.count(1000, 100)
    with Rig(options.room / "rig") as rig, ExitStack() as peers:
        load = build_load(options.room)
        celery = peers.enter_context(CeleryPeer(options.room))
        hyperqueue = _hyperqueue(options, peers, load)
        rig.warm_up(DOCUMENT)
        drains: list[Drain] = []
        rates: Rates = {}
        floors = []
        for _ in range(ROUNDS):
            floors.append(exec_rate(load, small))
            drains.append(rig.run_pending(DOCUMENT, small, 240))
            if hyperqueue:
                rates.setdefault("HyperQueue", []).append(hyperqueue.rate(small))
            for per_message, name in ((1, "bare Celery"), (10, "bare Celery, ten per message")):
                rates.setdefault(name, []).append(celery.rate(small, per_message))
        _record_ours(options.record, f"{small:,} jobs", floors, drains)
        _record_peers(options.record, floors, rates)
        _run_large(options, rig, load)


def _hyperqueue(options: Options, peers: ExitStack, load: tuple[str, ...]) -> HyperQueuePeer | None:
    try:
        return peers.enter_context(HyperQueuePeer(options.room, load))
    except (RuntimeError, OSError) as error:
        options.record.add("HyperQueue", None, "jobs/s", note=f"not run: {str(error)[-200:]}")
        return None


def _run_large(options: Options, rig: Rig, load: tuple[str, ...]) -> None:
    large = options.count(10_000, 1000)
    before = exec_rate(load, 2000)
    drain = rig.run_pending(DOCUMENT, large, 600)
    floor = (before + exec_rate(load, 2000)) / 2
    _record_ours(options.record, f"{large:,} jobs", [floor], [drain])
    thousands = drain.rate_per_thousand()
    options.record.add(
        f"{large:,} jobs, rate over each thousand",
        min(thousands),
        "jobs/s",
        low=min(thousands),
        high=max(thousands),
        series=[(number + 1, round(rate, 1)) for number, rate in enumerate(thousands)],
    )
    options.record.add(
        f"{large:,} jobs, last thousand against the first",
        thousands[-1] / thousands[0],
        "x",
        goal=FLAT_GOAL,
    )


def _record_ours(record: Recorder, name: str, floors: list[float], drains: list[Drain]) -> None:
    record.rounds(f"{name}, bare exec, 2 processes", floors, "jobs/s")
    record.rounds(name, [drain.rate for drain in drains], "jobs/s")
    shares = [drain.rate / floor for drain, floor in zip(drains, floors, strict=True)]
    record.rounds(f"{name}, share of bare exec", shares, "x", goal=GOAL)
    parts = [drain.cpu_ms() for drain in drains]
    for part in parts[0]:
        record.rounds(f"{name}, CPU per job: {part}", [p[part] for p in parts], "ms")
    record.rounds(f"{name}, CPU per job: all", [sum(p.values()) for p in parts], "ms")


def _record_peers(record: Recorder, floors: list[float], rates: Rates) -> None:
    for name, rounds in rates.items():
        record.rounds(name, [rate for rate, _ in rounds], "jobs/s")
        shares = [rate / floor for (rate, _), floor in zip(rounds, floors, strict=True)]
        record.rounds(f"{name}, share of bare exec", shares, "x")
        record.rounds(f"{name}, CPU per job: all", [cpu for _, cpu in rounds], "ms")
