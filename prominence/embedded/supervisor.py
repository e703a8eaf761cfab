"""Keeps a set of child processes running: start, readiness, restart with back-off, ordered end.

Owns the children; knows nothing of what they do. Single-threaded: everything happens in `step`, between signals.
"""

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from prominence.embedded.processes import (
    Command,
    adopt_orphans,
    descendants,
    reap,
    signal_group,
    spawn,
)

logger = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.1
LONGEST_BACKOFF_S = 30.0
STEADY_AFTER_S = 60.0
TICK_S = 0.1
LOG_BYTES = 32 << 20
LOGS_EVERY_S = 5.0
STARTS_BEFORE_READY = 5
TAIL_LINES = 15
ENDING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
WAITED_FOR = ENDING | {signal.SIGCHLD}


class PartFailedError(Exception):
    """A part did not become ready, or its set-up command failed; the text says which and where its log is."""


class EndRequestedError(Exception):
    """SIGINT, SIGTERM or SIGHUP came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A child to keep running.

    tier: lower ones start first and end last.  is_ready: cheap, may be called often.
    owns_group: what it leaves in its process group is killed when it ends (a node's jobs are not).
    """

    name: str
    command: Command
    is_ready: Callable[[], bool]
    tier: int
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout_s: float = 10.0
    owns_group: bool = True


@dataclass(slots=True)
class Backoff:
    """How long to wait before the next start: doubles with each short life, starts over after a long one."""

    delay_s: float = FIRST_BACKOFF_S

    def after(self, lifetime_s: float) -> float:
        """The wait after a life of `lifetime_s`."""
        if lifetime_s >= STEADY_AFTER_S:
            self.delay_s = FIRST_BACKOFF_S
        delay = self.delay_s
        self.delay_s = min(2 * delay, LONGEST_BACKOFF_S)
        return delay


@dataclass(slots=True)
class _Child:
    part: Part
    backoff: Backoff = field(default_factory=Backoff)
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_at: float = 0.0  # when to start again, while there is no process
    log_seen: int = 0
    starts: int = 0


class Supervisor:
    """Runs parts until told to end. Blocks the signals it waits for; use as a context manager."""

    def __init__(
        self, *, logs: Path, pids: Path, verbose: bool = False, log_bytes: int = LOG_BYTES
    ) -> None:
        self._logs = logs
        self._pids = pids
        self._verbose = verbose
        self._log_bytes = log_bytes
        self._logs_due = 0.0
        self._children: dict[str, _Child] = {}

    def __enter__(self) -> "Supervisor":
        signal.pthread_sigmask(signal.SIG_BLOCK, WAITED_FOR)
        adopt_orphans()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def run_once(self, name: str, command: Command) -> int:
        """Run a command to its end and return its exit code; EndRequestedError ends it early."""
        process = spawn(command, self.log_of(name))
        while True:
            for pid, code in reap():
                if pid == process.pid:
                    process.returncode = code
                    return code
            try:
                self._wait_for_signal(TICK_S)
            except EndRequestedError:
                signal_group(process.pid, signal.SIGTERM)
                raise

    def start(self, *parts: Part) -> None:
        """Begin to keep these running; does not wait for them."""
        for part in parts:
            child = self._children[part.name] = _Child(part)
            child.log_seen = _begin_log(self.log_of(part.name))
            self._spawn(child)

    def wait_ready(self, *parts: Part, timeout_s: float) -> None:
        """Return when all of these are ready.

        Raises PartFailedError after `timeout_s` or some vain starts, and EndRequestedError.
        """
        deadline = time.monotonic() + timeout_s
        waiting = list(parts)
        while waiting := [part for part in waiting if not part.is_ready()]:
            vain = [p for p in waiting if self._children[p.name].starts > STARTS_BEFORE_READY]
            if vain or time.monotonic() > deadline:
                self._give_up((vain or waiting)[0])
            self.step()

    def run(self) -> NoReturn:
        """Keep everything running until EndRequestedError."""
        while True:
            self.step()

    def step(self) -> None:
        """Wait for a signal, for at most a tick; then restart what ended and is due."""
        self._wait_for_signal(TICK_S)
        self._note_ends()
        for child in self._children.values():
            if child.process is None and time.monotonic() >= child.start_at:
                self._spawn_again(child)
        self._echo_logs()
        self._bound_logs()

    def stop(self) -> None:
        """End all parts, the highest tier first, and whatever process is left below this one. Idempotent."""
        children, self._children = list(self._children.values()), {}
        for tier in sorted({child.part.tier for child in children}, reverse=True):
            self._stop_tier([child for child in children if child.part.tier == tier])
        self._kill_leftovers()
        for child in children:
            self._pid_file(child.part).unlink(missing_ok=True)

    def log_of(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def _wait_for_signal(self, timeout_s: float) -> None:
        received = signal.sigtimedwait(WAITED_FOR, timeout_s)
        if received and received.si_signo in ENDING:
            raise EndRequestedError(signal.Signals(received.si_signo).name)

    def _spawn(self, child: _Child) -> None:
        child.started_at = time.monotonic()
        child.starts += 1
        try:
            child.process = spawn(child.part.command, self.log_of(child.part.name))
        except OSError as error:
            raise PartFailedError(f"{child.part.name}: {error}") from error
        try:
            self._pid_file(child.part).write_text(f"{child.process.pid}\n")
        except OSError as error:  # a full disk: the file is for people, the part runs
            logger.warning("%s: its process id cannot be noted: %s", child.part.name, error)

    def _spawn_again(self, child: _Child) -> None:
        """What worked once is tried again: there may be no room on the disk, or for a process, just now."""
        try:
            self._spawn(child)
        except (PartFailedError, OSError) as error:
            delay = child.backoff.after(0.0)
            child.start_at = time.monotonic() + delay
            logger.warning("%s: %s; it starts again in %.1f s", child.part.name, error, delay)

    def _note_ends(self) -> None:
        by_pid = {child.process.pid: child for child in self._children.values() if child.process}
        for pid, code in reap():
            if pid in by_pid:
                self._note_end(by_pid[pid], code)

    def _note_end(self, child: _Child, code: int) -> None:
        process, child.process = child.process, None
        if process is None:
            return
        process.returncode = code
        if child.part.owns_group:
            signal_group(process.pid, signal.SIGKILL)
        delay = child.backoff.after(time.monotonic() - child.started_at)
        child.start_at = time.monotonic() + delay
        logger.warning(
            "%s ended %s; it starts again in %.1f s (log: %s)",
            child.part.name,
            _describe_end(code),
            delay,
            self.log_of(child.part.name),
        )

    def _stop_tier(self, children: Sequence[_Child]) -> None:
        """Ask all of a tier to end, wait, and kill what did not."""
        running = [child for child in children if child.process]
        for child in running:
            _send(child, child.part.stop_signal)
        deadline = time.monotonic() + max((c.part.stop_timeout_s for c in running), default=0.0)
        while running and time.monotonic() < deadline:
            running = self._still_running(running)
            if running:
                signal.sigtimedwait({signal.SIGCHLD}, TICK_S)
        for child in running:
            logger.warning("%s did not end in time and is killed", child.part.name)
            _send(child, signal.SIGKILL)

    def _still_running(self, children: Sequence[_Child]) -> list[_Child]:
        ended = dict(reap())
        for child in children:
            if child.process and child.process.pid in ended:
                child.process.returncode = ended[child.process.pid]
                signal_group(child.process.pid, signal.SIGKILL)
        return [child for child in children if child.process and child.process.pid not in ended]

    def _kill_leftovers(self) -> None:
        """Kill every process below this one until there is none: orphans of killed parts were adopted."""
        while below := descendants(os.getpid()):
            for pid in below:
                _kill(pid)
            signal.sigtimedwait({signal.SIGCHLD}, TICK_S)
            list(reap())
        list(reap())

    def _give_up(self, part: Part) -> NoReturn:
        log = self.log_of(part.name)
        tail = "".join(log.read_text(errors="replace").splitlines(keepends=True)[-TAIL_LINES:])
        raise PartFailedError(f"{part.name} did not become ready; the end of {log}:\n{tail}")

    def _pid_file(self, part: Part) -> Path:
        return self._pids / f"{part.name}.pid"

    def _echo_logs(self) -> None:
        """With --verbose: new log lines on stderr, each with the part's name in front."""
        if not self._verbose:
            return
        for child in self._children.values():
            with self.log_of(child.part.name).open("rb") as log:
                log.seek(child.log_seen)
                lines, newline, _ = log.read().rpartition(b"\n")
            child.log_seen += len(lines) + len(newline)
            for line in lines.splitlines():
                sys.stderr.write(f"{child.part.name}: {line.decode(errors='replace')}\n")

    def _bound_logs(self) -> None:
        """Now and then, put aside what has grown too long; its writer, which appends, goes on at the beginning."""
        if time.monotonic() < self._logs_due:
            return
        self._logs_due = time.monotonic() + LOGS_EVERY_S
        for child in self._children.values():
            log = self.log_of(child.part.name)
            if log.exists() and log.stat().st_size > self._log_bytes:
                _put_aside(log)
                child.log_seen = 0


def _put_aside(log: Path) -> None:
    """Copy and cut: lines that come in between are lost. Without room for a copy it is only cut, which makes some."""
    aside = log.with_suffix(".log.1")
    try:
        shutil.copyfile(log, aside)
    except OSError:
        aside.unlink(missing_ok=True)
    os.truncate(log, 0)


def _begin_log(log: Path) -> int:
    """Put a log that has grown too long aside, and return the size of what is there."""
    size = log.stat().st_size if log.exists() else 0
    if size > LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
        return 0
    return size


def _send(child: _Child, number: signal.Signals) -> None:
    """Signal the leader only, as it knows how to end its own; the whole group when it has to be killed."""
    if child.process is None:
        return
    if number == signal.SIGKILL:
        signal_group(child.process.pid, number)
    else:
        child.process.send_signal(number)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _describe_end(code: int) -> str:
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
