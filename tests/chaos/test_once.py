"""Each fault once, on PostgreSQL and Redis: `make chaos` does the long work."""

import subprocess
import sys

import pytest

from tests.chaos.system import PROJECT, outer_environment
from tests.servers import BACKEND, PRODUCTION

JOBS = 60


@pytest.mark.skipif(BACKEND != PRODUCTION, reason="the harness runs PostgreSQL and Redis")
def test_each_fault_once_breaks_no_rule() -> None:
    """In a process of its own, because it leaves the network."""
    words = [sys.executable, "-m", "tests.chaos", "--once", "--jobs", str(JOBS)]
    done = subprocess.run(
        words,
        env=outer_environment() | {"PROMINENCE_TEST_BACKEND": PRODUCTION},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
