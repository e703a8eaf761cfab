"""The soak's result as text and picture."""

import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import mean

from tests.bench.pictures import Point, curves
from tests.chaos.gauges import KINDS, Gauges, Trend
from tests.chaos.report import revision

HEADING = "## The soak"
ROLES = ("api", "scheduler", "ingest", "control", "node worker", "node spawner")
SPOTS = 12
"""Points of each curve: means of what was sampled between two."""


@dataclass(frozen=True)
class Result:
    """What a soak found. `grown`: what rose beyond its noise; `left`: processes that were left at the end."""

    minutes: float
    seed: int
    jobs: int
    attempts: int
    faults: Mapping[str, int]
    violations: Mapping[str, int]
    trends: Mapping[str, Mapping[str, Trend]]
    grown: list[str]
    left: list[str]


def section(result: Result) -> str:
    """For the document."""
    broken = ", ".join(f"{count} {rule}" for rule, count in sorted(result.violations.items()))
    first = (
        f"`make soak MINUTES={result.minutes:g}`, {datetime.now(UTC):%Y-%m-%d}, commit {revision()}, "
        f"seed {result.seed}; load of the machine at the end {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores."
    )
    lines = [
        first,
        "",
        f"{result.jobs} jobs in {result.attempts} attempts, {sum(result.faults.values())} faults. "
        f"Violations of the card's rules: {broken or 'none'}. "
        f"Processes left at the end: {', '.join(result.left) or 'none'}. "
        f"Grown beyond noise: {', '.join(result.grown) or 'nothing'}.",
        "",
        "In the first third all faults happen; afterwards only such as leave these processes alive. From then on,",
        "after a warm-up of a tenth, a straight line through samples every 5 s: where it begins, + how much it rises",
        "to the end, ± how far samples are spread around it (memory: PSS in MB).",
        "",
        "| process | memory | descriptors | threads |",
        "|---|---|---|---|",
    ]
    for part, trends in result.trends.items():
        cells = [
            f"{t.begin:.1f} {t.rise:+.1f} ± {t.spread:.1f}" for t in map(trends.get, KINDS) if t
        ]
        lines.append(f"| {part} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "![memory over time](soak.svg)", ""])


def draw(gauges: Gauges, length_s: float) -> str:
    """Memory by kind of process over the whole time."""
    step_s = length_s / SPOTS
    sums: dict[tuple[str, int], list[float]] = defaultdict(list)
    for (part, _), samples in gauges.samples.items():
        for sample in samples:
            sums[_role(part), min(SPOTS - 1, int(sample.at_s / step_s))].append(sample.memory)
    lines: dict[str, list[Point]] = {
        role: [
            (round((spot + 0.5) * step_s / 60, 1), mean(sums[role, spot]))
            for spot in range(SPOTS)
            if (role, spot) in sums
        ]
        for role in ROLES
    }
    kept = {role: line for role, line in lines.items() if line}
    return curves("Memory of a process (mean of its kind)", "minutes", "MB", kept)


def _role(part: str) -> str:
    if part.endswith("spawner"):
        return "node spawner"
    return "node worker" if part.startswith("node-") else part
