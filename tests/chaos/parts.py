"""The harness's own supervisor: parts that end are started again, later each time.

Owns the processes it started. Must be used from the main thread (see `prominence.embedded.processes`).
"""

import logging
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from prominence.embedded.processes import Command, signal_group, spawn

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 3.0
STEADY_AFTER_S = 10.0
END_TIMEOUT_S = 10.0


@dataclass
class Part:
    """One process. `held`: it is not to be started again for now."""

    name: str
    command: Command
    process: subprocess.Popen[bytes] | None = None
    pause_s: float = FIRST_PAUSE_S
    started_at: float = 0.0
    start_at: float = 0.0
    starts: int = 0
    held: bool = False


@dataclass
class Keeper:
    """Keeps parts going; `step` often."""

    logs: Path
    parts: dict[str, Part] = field(default_factory=dict)

    def add(self, name: str, command: Command) -> None:
        self.parts[name] = Part(name, command)
        self._start(self.parts[name])

    def remove(self, name: str) -> None:
        """Forget a part that the caller has killed."""
        part = self.parts.pop(name)
        if part.process:
            part.process.wait(END_TIMEOUT_S)

    def step(self) -> None:
        """Note who has ended, start who is due."""
        for part in self.parts.values():
            if part.process and part.process.poll() is not None:
                self._note_end(part)
            if not part.process and not part.held and time.monotonic() >= part.start_at:
                self._start(part)

    def hold(self, name: str, held: bool) -> None:
        self.parts[name].held = held

    def pid(self, name: str) -> int | None:
        """None while it does not run."""
        process = self.parts[name].process
        return process.pid if process and process.poll() is None else None

    def send(self, name: str, number: signal.Signals) -> bool:
        """Signal its main process; False when there is none."""
        pid = self.pid(name)
        if pid is None:
            return False
        os.kill(pid, number)
        return True

    def end(self, name: str, number: signal.Signals) -> None:
        """End a part for good."""
        part = self.parts.pop(name)
        if part.process is None:
            return
        for each in (signal.SIGCONT, number):
            if part.process.poll() is None:
                part.process.send_signal(each)
        try:
            part.process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            signal_group(part.process.pid, signal.SIGKILL)
            part.process.wait(END_TIMEOUT_S)

    def _start(self, part: Part) -> None:
        part.process = spawn(part.command, self.logs / f"{part.name}.log")
        part.started_at = time.monotonic()
        part.starts += 1

    def _note_end(self, part: Part) -> None:
        lived_s = time.monotonic() - part.started_at
        part.pause_s = (
            FIRST_PAUSE_S if lived_s > STEADY_AFTER_S else min(2 * part.pause_s, LONGEST_PAUSE_S)
        )
        part.start_at = time.monotonic() + part.pause_s
        code = part.process.returncode if part.process else None
        logger.info("%s ended with %s after %.1f s", part.name, code, lived_s)
        part.process = None
