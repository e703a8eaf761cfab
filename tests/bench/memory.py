"""Show 7: memory (PSS) of each part, idle and after thousands of jobs."""

from tests.bench.options import Options
from tests.bench.rig import Rig, job_document

STEPS = 5
DOCUMENT = job_document("/bin/true")
GOALS = {"api and control": "<300", "node": "<80"}


def run(options: Options) -> None:
    per_step = options.count(2000, 20)
    with Rig(options.room / "rig") as rig:
        rig.warm_up(DOCUMENT)
        seen = [_memory(rig)]
        for _ in range(STEPS):
            rig.run_pending(DOCUMENT, per_step, 240)
            seen.append(_memory(rig))
            _record(options, per_step, seen)


def _memory(rig: Rig) -> dict[str, float]:
    memory = rig.pss_mb()
    control = memory["control"] + memory["control worker"]
    return memory | {"api and control": memory["api"] + control}


def _record(options: Options, per_step: int, seen: list[dict[str, float]]) -> None:
    """After each step, so that a run that is cut short has told what it saw."""
    after = per_step * (len(seen) - 1)
    for part in seen[0]:
        goal = GOALS.get(part, "")
        options.record.add(f"PSS idle: {part}", seen[0][part], "MB", goal=goal)
        curve = [(number * per_step, round(m[part], 1)) for number, m in enumerate(seen)]
        options.record.add(
            f"PSS after jobs: {part}",
            seen[-1][part],
            "MB",
            goal=goal,
            series=curve,
            note=f"{after:,} jobs",
        )
