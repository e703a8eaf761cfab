"""Show 3: POST /jobs, eight clients against one API process: the rate, and latency at half of it."""

import json
import threading
import time
from collections.abc import Iterable

from tests.bench import meter
from tests.bench.calls import Caller
from tests.bench.options import Options
from tests.bench.rig import USER, Rig, job_document

CLIENTS = 8
ROUNDS = 3
PAUSE_S = 1.0
BODY = json.dumps(job_document("/bin/true")).encode()


def run(options: Options) -> None:
    """No node: the jobs stay pending, so that nothing else works."""
    round_s = max(0.5, 5 * options.scale)
    with Rig(options.room / "rig", nodes=0) as rig:
        callers = [Caller(rig.stack.port, rig.stack.token(USER)) for _ in range(CLIENTS)]
        _post_freely(callers, 1.0)
        rates, costs = [], []
        for _ in range(ROUNDS):
            before = rig.spent()
            rates.append(len(_post_freely(callers, round_s)) / round_s)
            spent = meter.difference(rig.spent(), before)
            costs.append({part: 1e3 * s / (rates[-1] * round_s) for part, s in spent.items()})
            threading.Event().wait(PAUSE_S)
        half = sorted(rates)[len(rates) // 2] / 2
        paced = _post_paced(callers, half, 2 * round_s)
        for caller in callers:
            caller.close()
    note = "no node: what the clients themselves cost is on the same machine"
    options.record.rounds("POST /jobs, 8 clients", rates, "jobs/s", goal=">=400", note=note)
    for part in costs[0]:
        options.record.rounds(f"CPU per POST: {part}", [c[part] for c in costs], "ms")
    options.record.latencies(f"POST at {half:.0f}/s", paced, p95="<40")


def _post_freely(callers: list[Caller], seconds: float) -> list[float]:
    """Each client posts as fast as it is answered."""
    end = time.monotonic() + seconds

    def due_times() -> Iterable[float]:
        while (now := time.monotonic()) < end:
            yield now

    return _post(callers, [due_times() for _ in callers])


def _post_paced(callers: list[Caller], rate: float, seconds: float) -> list[float]:
    """Posts come when they are due, whether earlier ones were answered or not, up to one per client."""
    begun, step = time.monotonic() + 0.05, 1 / rate
    count = round(rate * seconds)
    plans = [
        [begun + number * step for number in range(first, count, len(callers))]
        for first in range(len(callers))
    ]
    return _post(callers, plans)


def _post(callers: list[Caller], plans: Iterable[Iterable[float]]) -> list[float]:
    """Latencies, each from the time at which the request was due."""
    latencies: list[float] = []
    failures: list[BaseException] = []

    def work(caller: Caller, plan: Iterable[float]) -> None:
        try:
            for due in plan:
                time.sleep(max(0.0, due - time.monotonic()))
                caller.post_job(BODY)
                latencies.append(time.monotonic() - due)
        except BaseException as error:  # noqa: BLE001 told below, by the thread that can
            failures.append(error)

    threads = [
        threading.Thread(target=work, args=pair, daemon=True)
        for pair in zip(callers, plans, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return latencies
