"""One measured number, and a file of them: a JSON line each, written the moment it is known."""

import json
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """`low` and `high`: the spread over the rounds. `goal`: such as "<25" or ">=0.25"; none: for comparison only.

    `series`: points (x, y) of a curve. `note`: what a reader must know to use the number.
    """

    bench: str
    name: str
    value: float | None
    unit: str
    low: float | None = None
    high: float | None = None
    samples: int = 1
    goal: str = ""
    note: str = ""
    series: list[tuple[float, float]] = field(default_factory=list)
    load: float = field(default_factory=lambda: round(os.getloadavg()[0], 2))

    @property
    def key(self) -> str:
        return f"{self.bench}: {self.name}"

    @property
    def is_reached(self) -> bool | None:
        """None: there is no goal, or nothing was measured."""
        if not self.goal or self.value is None:
            return None
        sign = ">=" if self.goal.startswith(">=") else "<"
        limit = float(self.goal.removeprefix(sign))
        return self.value >= limit if sign == ">=" else self.value < limit


@dataclass(slots=True)
class Recorder:
    """Appends the figures of one benchmark to a file."""

    bench: str
    path: Path

    def add(self, name: str, value: float | None, unit: str, **more: Any) -> None:
        """Write one figure. `value` None: it could not be measured; the note says why."""
        for key in ("low", "high"):
            if more.get(key) is not None:
                more[key] = rounded(more[key])
        figure = Figure(bench=self.bench, name=name, value=rounded(value), unit=unit, **more)
        with self.path.open("a") as file:
            file.write(f"{json.dumps(asdict(figure), ensure_ascii=False)}\n")

    def rounds(self, name: str, values: Sequence[float], unit: str, **more: Any) -> None:
        """The median of several rounds with its spread."""
        if values:
            more = {"low": min(values), "high": max(values), "samples": len(values)} | more
            self.add(name, statistics.median(values), unit, **more)

    def latencies(
        self, name: str, values_s: Sequence[float], *, p50: str = "", p95: str = "", note: str = ""
    ) -> None:
        """p50 and p95 of a sample of seconds, in milliseconds, with their goals."""
        for number, goal in ((50, p50), (95, p95)):
            value = percentile(values_s, number) * 1e3 if values_s else None
            self.add(f"{name}, p{number}", value, "ms", samples=len(values_s), goal=goal, note=note)


def read_figures(path: Path) -> list[Figure]:
    """All figures of a file, also of one that is still being written; the last of each key wins."""
    found: dict[str, Figure] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            figure = Figure(**json.loads(line))
            found[figure.key] = figure
    return list(found.values())


def percentile(values: Iterable[float], number: float) -> float:
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(number / 100 * (len(ordered) - 1)))]


def rounded(value: float | None) -> float | None:
    """Four digits are more than any of these measurements holds."""
    return None if value is None else float(f"{value:.4g}")
