"""HyperQueue from PyPI, in an environment of its own that is made when it is first needed and kept."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.bench import meter
from tests.bench.state import STATE
from tests.servers import run

VERSION = "0.27.0"
PY_SPY = "0.4.3"
SERVER = Path(__file__).with_name("hyperqueue_server.py")


def peers_environment() -> Path:
    """The virtual environment of what is measured or measures from outside. Raises RuntimeError: not to be had."""
    room = STATE / "peers"
    mark = room / f"complete-{VERSION}-{PY_SPY}"
    if not mark.exists():
        shutil.rmtree(room, ignore_errors=True)
        run([sys.executable, "-m", "venv", room])
        pip = [room / "bin" / "pip", "install", "-q", "--disable-pip-version-check"]
        run([*pip, f"hyperqueue=={VERSION}", f"py-spy=={PY_SPY}"])
        mark.touch()
    return room


class HyperQueuePeer:
    """A context manager."""

    def __init__(self, room: Path, load: tuple[str, ...]) -> None:
        self._room = room / "hyperqueue"
        self._load = load
        self._rounds = 0

    def __enter__(self) -> "HyperQueuePeer":
        self._room.mkdir()
        python = peers_environment() / "bin" / "python"
        self._server = subprocess.Popen(
            [python, SERVER, self._room / "server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self._room / "log").open("w"),
            cwd=self._room,
            text=True,
        )
        if self._answer() != "up":
            raise RuntimeError((self._room / "log").read_text())
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.close()
        try:
            self._server.wait(15)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._server.stdout.close()

    def rate(self, jobs: int) -> tuple[float, float]:
        """Tasks a second of one job with `jobs` tasks, from building it to the last end, and CPU ms a task."""
        before = self._spent()
        took = self._run(jobs)["seconds"]
        return jobs / took, 1e3 * (self._spent() - before) / jobs

    def start_latency(self) -> float:
        """Seconds from the call to the start of a job's only task."""
        return self._run(1)["start"]

    def _run(self, count: int) -> dict[str, float]:
        self._rounds += 1
        mark = self._room / f"mark-{self._rounds}"
        assert self._server.stdin
        command = [count, [*self._load, "stamp", str(mark), "0"], str(mark)]
        self._server.stdin.write(json.dumps(command) + "\n")
        self._server.stdin.flush()
        return dict(self._answer())

    def _answer(self) -> Any:
        assert self._server.stdout
        line = self._server.stdout.readline()
        if not line:
            raise RuntimeError(f"HyperQueue ended:\n{(self._room / 'log').read_text()[-2000:]}")
        return json.loads(line)

    def _spent(self) -> float:
        return sum(map(meter.cpu_s, meter.tree(self._server.pid, meter.children())))
