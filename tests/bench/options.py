"""What every benchmark is told."""

from dataclasses import dataclass
from pathlib import Path

from tests.bench.figures import Recorder


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`scale`: share of the full number of jobs, rows or seconds, from `N`. `full`: the long parts too."""

    room: Path
    record: Recorder
    scale: float = 1.0
    full: bool = False

    def count(self, full_size: int, least: int) -> int:
        return max(least, round(full_size * self.scale))
