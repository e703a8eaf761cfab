"""A benchmark from beginning to end, so that the instrument does not rot: `make bench` does the real work."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.figures import Figure, read_figures
from tests.bench.report import table
from tests.servers import BACKEND, PRODUCTION
from tests.stack import PROJECT


@pytest.mark.timeout(300)
@pytest.mark.skipif(BACKEND != PRODUCTION, reason="benchmarks run PostgreSQL and Redis")
def test_a_small_benchmark_leaves_its_figures(room: Path) -> None:
    figures = room / "figures.jsonl"
    argv = [sys.executable, "-m", "tests.bench.child", "memory", str(room / "bench")]
    (room / "bench").mkdir(mode=0o755)
    subprocess.run(
        [*argv, str(figures), "0.001", "0"],
        cwd=PROJECT,
        env=os.environ | {"PROMINENCE_TEST_BACKEND": PRODUCTION},
        check=True,
        timeout=280,
    )
    found = {figure.name: figure for figure in read_figures(figures)}
    assert found["PSS idle: node"].value
    assert len(found["PSS after jobs: api and control"].series) > 1
    assert "goal <80" in table(list(found.values()), [])


def test_goals_are_judged_in_their_direction() -> None:
    def reached(value: float, goal: str) -> bool | None:
        return Figure(bench="b", name="n", value=value, unit="ms", goal=goal).is_reached

    assert [reached(24, "<25"), reached(25, "<25"), reached(0.3, ">=0.25")] == [True, False, True]
    assert reached(1, "") is None
