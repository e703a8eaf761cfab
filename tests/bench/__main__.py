"""`make bench [ONLY=name] [N=…] [FULL=1] [KEEP=1]`: measures beside the peers, one line of JSON per figure.

Each benchmark runs in a process of its own that is killed at its timeout; the others go on, and what was measured until
then is kept. Nothing is left running. Figures: `.bench/figures.jsonl`.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from prominence.embedded.processes import signal_group
from tests.bench.figures import Recorder, read_figures
from tests.bench.plan import END_TIMEOUT_S, FULL_FACTOR, TIMEOUTS_S
from tests.bench.report import keep, table
from tests.bench.state import KEPT, STATE
from tests.bench.surroundings import surroundings
from tests.processes import kill_processes_of
from tests.stack import PROJECT


def main() -> int:
    arguments = _parser().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    STATE.mkdir(exist_ok=True)
    figures = STATE / "figures.jsonl"
    names = arguments.only.split(",") if arguments.only else list(TIMEOUTS_S)
    if unknown := set(names) - set(TIMEOUTS_S):
        sys.stderr.write(f"unknown {', '.join(sorted(unknown))}; known: {', '.join(TIMEOUTS_S)}\n")
        return 2
    figures.unlink(missing_ok=True)
    around = STATE / "surroundings.json"
    around.write_text(json.dumps(surroundings(), indent=1, ensure_ascii=False))
    failed = [name for name in names if not _run(name, figures, arguments)]
    found = read_figures(figures)
    sys.stdout.write(table(found, read_figures(KEPT / "figures.jsonl")))
    if arguments.keep:
        keep(figures, around)
    sys.stdout.write(f"not finished: {', '.join(failed)}\n" if failed else "")
    return 1 if failed else 0


def _run(name: str, figures: Path, arguments: argparse.Namespace) -> bool:
    """One benchmark to its end or its timeout; then nothing of it runs. False: it did not finish."""
    room = Path(tempfile.mkdtemp(prefix="prominence-bench-"))
    room.chmod(0o755)  # PostgreSQL and the jobs run as other users
    full = "1" if arguments.full else "0"
    words = [name, str(room), str(figures), str(arguments.scale), full]
    timeout_s = TIMEOUTS_S[name] * (FULL_FACTOR if arguments.full else 1)
    sys.stdout.write(f"{name} …\n")
    sys.stdout.flush()
    begun = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.child", *words],
        cwd=PROJECT,
        env=os.environ | {"PROMINENCE_TEST_BACKEND": "production"},
        start_new_session=True,
    )
    code: int | None = None
    try:
        code = child.wait(timeout_s)
    except subprocess.TimeoutExpired:
        Recorder(name, figures).add("whole benchmark", None, "", note=f"over {timeout_s:.0f} s")
    finally:
        _clean(child, room)
    if code:
        Recorder(name, figures).add("whole benchmark", None, "", note=f"ended with {code}")
    sys.stdout.write(f"{name}: {time.monotonic() - begun:.0f} s\n")
    return code == 0


def _clean(child: "subprocess.Popen[bytes]", room: Path) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            signal_group(child.pid, signal.SIGKILL)
            child.wait()
    kill_processes_of(room)
    shutil.rmtree(room, ignore_errors=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", default="", help=f"some of: {','.join(TIMEOUTS_S)}")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full numbers")
    parser.add_argument("--full", action="store_true", help="the long parts too")
    parser.add_argument("--keep", action="store_true", help="write docs/performance.md")
    return parser


if __name__ == "__main__":
    sys.exit(main())
