"""`python -m tests.halves`: the test suite on both back ends at once, as `make test` runs it.

Most tests wait for processes more than they compute, so two halves side by side take little longer than one. The
embedded half (SQLite, Valkey) runs everything and prints as it goes; the production half (PostgreSQL, Redis) runs what
meets a database or Redis, and prints when it is done. Exit code 1 when either failed.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

PROJECT = Path(__file__).resolve().parents[1]

# Only for production: the chaos schedule, the benchmarks, loops in processes of their own. Not for production: what
# meets neither a database nor Redis, or runs on SQLite and Valkey anyway.
LEFT_OUT = {
    "embedded": ["chaos", "bench", "e2e/test_health.py"],
    "production": [
        *("unit", "model", "runtimes", "worker"),
        *("integration/test_protocol_machine.py", "e2e/test_up.py"),
    ],
}


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryFile() as later:
        halves = [_start("production", later), _start("embedded", None)]
        try:
            codes = [half.wait() for half in reversed(halves)]
        except KeyboardInterrupt:
            for half in halves:
                half.terminate()
            codes = [half.wait() for half in halves]
        later.seek(0)
        sys.stdout.buffer.write(later.read())
        sys.stdout.flush()
    return 1 if any(codes) else 0


def _start(backend: str, output: IO[bytes] | None) -> "subprocess.Popen[bytes]":
    """One half. A session of its own: what ends this process does not end a half in the middle of its tidying."""
    left_out = [f"--ignore=tests/{name}" for name in LEFT_OUT[backend]]
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "tests", *left_out],
        cwd=PROJECT,
        env=os.environ | {"PROMINENCE_TEST_BACKEND": backend},
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        start_new_session=True,
    )


if __name__ == "__main__":
    sys.exit(main())
