"""Show 8: what a job costs with 10^2 to 10^5 finished ones in the history."""

from tests.bench.filling import History
from tests.bench.options import Options
from tests.bench.rig import Drain, Rig, job_document

DOCUMENT = job_document("/bin/true")
LEVELS = (100, 1000, 10_000, 100_000)
USERS = 10


def run(options: Options) -> None:
    jobs = options.count(500, 20)
    levels = LEVELS + ((1_000_000,) if options.full else ())
    with Rig(options.room / "rig") as rig:
        rig.warm_up(DOCUMENT)
        [[ended]] = rig.sql("SELECT max(id) FROM jobs_job")
        history = History(rig=rig, ended=ended, waiting=0)
        drains: dict[int, Drain] = {}
        for level in levels:
            history.grow(users=USERS, finished=level, pending=0)
            rig.run_pending(DOCUMENT, jobs // 4, 240)
            drains[level] = rig.run_pending(DOCUMENT, jobs, 240)
            _record(options, drains)


def _record(options: Options, drains: dict[int, Drain]) -> None:
    """After each level, so that a run that is cut short has told what it saw."""
    costs = {level: sum(drain.cpu_ms().values()) for level, drain in drains.items()}
    database = {level: drain.cpu_ms()["postgres"] for level, drain in drains.items()}
    rates = {level: drain.rate for level, drain in drains.items()}
    curves = {
        "CPU per job against finished jobs": (costs, "ms"),
        "CPU per job of PostgreSQL against finished jobs": (database, "ms"),
        "rate against finished jobs": (rates, "jobs/s"),
    }
    for name, (values, unit) in curves.items():
        curve = [(float(level), round(value, 2)) for level, value in values.items()]
        options.record.add(
            name, curve[-1][1], unit, series=curve, note=f"at {max(values):,} finished"
        )
    first, *_, last = costs.values() if len(costs) > 1 else [*costs.values()] * 2
    options.record.add("CPU per job, last level against first", last / first, "x", goal="<1.25")
