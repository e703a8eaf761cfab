"""Runs one benchmark, in a process that its caller can kill: `NAME ROOM FIGURES SCALE FULL`."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path

from tests.bench import (
    containers,
    growth,
    history,
    latency,
    memory,
    output,
    post,
    profile,
    throughput,
)
from tests.bench.figures import Recorder
from tests.bench.options import Options

BENCHMARKS: dict[str, Callable[[Options], None]] = {
    "throughput": throughput.run,
    "latency": latency.run,
    "post": post.run,
    "history": history.run,
    "output": output.run,
    "containers": containers.run,
    "memory": memory.run,
    "growth": growth.run,
    "profile": profile.run,
}


def main(name: str, room: str, figures: str, scale: str, full: str) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleaned up, as with Ctrl-C
    record = Recorder(name, Path(figures))
    options = Options(room=Path(room), record=record, scale=float(scale), full=full == "1")
    BENCHMARKS[name](options)


if __name__ == "__main__":
    main(*sys.argv[1:])
