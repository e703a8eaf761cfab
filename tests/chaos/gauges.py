"""What long-lived processes hold: memory, descriptors, threads, sampled over time, and whether it grows.

A rise is judged against the noise of its own samples, by a straight line through them.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

KINDS = MEMORY, FILES, THREADS = "memory", "files", "threads"
LEAST_RISE: Mapping[str, float] = {MEMORY: 2.0, FILES: 3.0, THREADS: 2.0}
"""MB, descriptors, threads over the whole time: less is not called a rise, whatever the noise."""

NOISE = 2.0
"""A rise beyond the spread of the samples around their line, times this, is one."""


@dataclass(frozen=True)
class Sample:
    """One look at one process. `memory`: proportional set size in MB."""

    at_s: float
    memory: float
    files: int
    threads: int


@dataclass(frozen=True)
class Trend:
    """A line through samples: where it begins, how much it rises from first to last, what is spread around it."""

    begin: float
    rise: float
    spread: float

    def grows(self, kind: str) -> bool:
        return self.rise > max(LEAST_RISE[kind], NOISE * self.spread)


@dataclass
class Gauges:
    """Samples of each process, by its part and pid."""

    samples: dict[tuple[str, int], list[Sample]] = field(default_factory=dict)

    def look(self, at_s: float, parts: Iterable[tuple[str, int]]) -> None:
        for part, pid in parts:
            with suppress(OSError, ValueError, IndexError):
                self.samples.setdefault((part, pid), []).append(_sample(at_s, pid))

    def long_lived(self, *, since_s: float, until_s: float) -> dict[tuple[str, int], list[Sample]]:
        """Those that lived from one time to the other, with their samples between."""
        found = {}
        for key, samples in self.samples.items():
            between = [s for s in samples if since_s <= s.at_s <= until_s]
            if between and between[0].at_s < since_s + 60 and between[-1].at_s > until_s - 60:
                found[key] = between
        return found


def trend(samples: list[Sample], value: Callable[[Sample], float]) -> Trend:
    """Least squares. At least three samples."""
    xs, ys = [s.at_s for s in samples], [value(s) for s in samples]
    slope, at_zero = statistics.linear_regression(xs, ys)
    rest = [y - (at_zero + slope * x) for x, y in zip(xs, ys, strict=True)]
    return Trend(at_zero + slope * xs[0], slope * (xs[-1] - xs[0]), statistics.pstdev(rest))


def _sample(at_s: float, pid: int) -> Sample:
    room = Path(f"/proc/{pid}")
    lines = (room / "smaps_rollup").read_text().splitlines()
    [kilobytes] = [int(line.split()[1]) for line in lines if line.startswith("Pss:")]
    threads = len(list((room / "task").iterdir()))
    return Sample(at_s, kilobytes / 1024, len(list((room / "fd").iterdir())), threads)
