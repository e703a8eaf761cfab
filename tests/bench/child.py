"""Runs one benchmark, in a process that its caller can kill: `NAME ROOM FIGURES SCALE FULL`."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path

from tests.bench import throughput
from tests.bench.figures import Recorder
from tests.bench.options import Options

BENCHMARKS: dict[str, Callable[[Options], None]] = {
    "throughput": throughput.run,
}


def main(name: str, room: str, figures: str, scale: str, full: str) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleaned up, as with Ctrl-C
    record = Recorder(name, Path(figures))
    options = Options(room=Path(room), record=record, scale=float(scale), full=full == "1")
    BENCHMARKS[name](options)


if __name__ == "__main__":
    main(*sys.argv[1:])
