"""One quick schedule, so that the harness itself does not rot: `make chaos` does the real work."""

from pathlib import Path

import pytest

from tests.chaos.__main__ import run_one
from tests.chaos.system import World
from tests.servers import BACKEND, PRODUCTION


@pytest.mark.skipif(BACKEND != PRODUCTION, reason="the harness runs PostgreSQL and Redis")
def test_a_short_schedule_breaks_no_rule(room: Path) -> None:
    with World(room) as world:
        record = run_one(world, seed=2, jobs=30, stories=room / "stories")
    told = [path.read_text() for path in sorted((room / "stories").rglob("violations"))]
    assert not record.violations, told
