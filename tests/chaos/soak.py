"""`make soak MINUTES=30`: jobs and faults at random for long, while what each process holds is watched.

In the first third every fault happens, so processes end often. Afterwards only such as leave processes alive (they
stand still, are cut off, lose what they sent or stored, or their nodes' shims die), and memory, descriptors and
threads of each process that lived to the end must not rise. The rules of `make chaos` hold as well.
"""

import argparse
import logging
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path

from tests.chaos import machine
from tests.chaos.cable import leave_network
from tests.chaos.checker import Card, check
from tests.chaos.gauges import KINDS, Gauges, Trend, trend
from tests.chaos.report import DOCUMENT, replace_section
from tests.chaos.schedule import Schedule
from tests.chaos.soak_report import HEADING, Result, draw, section
from tests.chaos.story import tell
from tests.chaos.system import PROJECT, World
from tests.processes import processes_of
from tests.wait import wait_until

DEADLY = ("killed", "Redis restarted", "Redis away", "PostgreSQL", "rebooted", "lost", "wiped")
"""Words of faults that end processes that are watched, or make them anew."""

LOOK_EVERY_S = 5.0
JOBS_PER_MINUTE = 60
FAULT_EVERY_S = 6.0
LEAST_SAMPLES = 10
STATE = PROJECT / ".chaos"


@dataclass
class Soak(Schedule):
    """A long schedule that watches processes."""

    gauges: Gauges = field(default_factory=Gauges)
    counts: list[tuple[float, int]] = field(default_factory=list)
    _look_at: float = 0.0

    @property
    def calm_from_s(self) -> float:
        """From here on no watched process is ended."""
        return self.length_s / 3

    def _is_wanted(self, name: str, at_s: float) -> bool:
        ends_shims = name in {"shim killed", "events lost", "offers lost"}
        return at_s < self.calm_from_s or ends_shims or not any(word in name for word in DEADLY)

    def _step(self) -> None:
        super()._step()
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_EVERY_S
            self.gauges.look(self._now(), self._watched())
            self.counts.append((self._now(), self._processes()))

    def _watched(self) -> Iterator[tuple[str, int]]:
        for name in self.system.keeper.parts:
            pid = self.system.keeper.pid(name)
            if pid is not None:
                yield name, pid
        for node in self.system.nodes.values():
            yield from ((f"{node.name} spawner", pid) for pid in machine.spawners(node.data))
        if self.system.redis_pid:
            yield "redis", self.system.redis_pid

    def _processes(self) -> int:
        """All of all nodes."""
        return sum(len(machine.processes(node.data)) for node in self.system.nodes.values())


def trends(soak: Soak) -> dict[str, dict[str, Trend]]:
    """Of each process that lived from the end of the warm-up to the end: kind of what it held -> trend."""
    since_s = soak.calm_from_s + 0.1 * soak.length_s
    lived = soak.gauges.long_lived(since_s=since_s, until_s=soak.length_s)
    return {
        part: {kind: trend(samples, attrgetter(kind)) for kind in KINDS}
        for (part, _), samples in sorted(lived.items())
        if len(samples) >= LEAST_SAMPLES
    }


def main() -> int:
    arguments = _parser().parse_args()
    logging.basicConfig(level=logging.WARNING)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # nothing is left behind
    room = Path(tempfile.mkdtemp(prefix="prominence-soak-"))
    jobs = int(JOBS_PER_MINUTE * arguments.minutes)
    try:
        with World(room, cabled=leave_network()) as world:
            soak = Soak(
                world,
                room / f"seed{arguments.seed}",
                arguments.seed,
                jobs,
                length_s=60 * arguments.minutes,
                fault_every_s=FAULT_EVERY_S,
            )
            try:
                soak.run()
                card = check(soak)
                tell(soak, card, STATE / "soak")
            finally:
                soak.close()
            left = machine_leftovers(room)
        return _report(soak, card, left, keep=not arguments.no_report)
    finally:
        shutil.rmtree(room, ignore_errors=True)


def machine_leftovers(room: Path) -> list[str]:
    """Processes that outlive everything that was ended, and had time to end."""
    with suppress(AssertionError):
        wait_until(lambda: not processes_of(room), 20)
    return sorted(processes_of(room).values())


def _report(soak: Soak, card: Card, left: list[str], *, keep: bool) -> int:
    found = trends(soak)
    grown = [
        f"{part}: {kind}"
        for part, kinds in found.items()
        for kind, each in kinds.items()
        if each.grows(kind)
    ]
    result = Result(
        minutes=soak.length_s / 60,
        faults=dict(soak.faults),
        jobs=len(card.jobs),
        attempts=card.attempts,
        violations=dict(Counter(violation.rule for violation in card.violations)),
        trends=found,
        grown=grown,
        left=left,
        seed=soak.seed,
    )
    text, picture = section(result), draw(soak.gauges, soak.length_s)
    STATE.mkdir(exist_ok=True)
    (STATE / "soak.md").write_text(text)
    (STATE / "soak.svg").write_text(picture)
    if keep:
        replace_section(HEADING, text)
        (DOCUMENT.parent / "soak.svg").write_text(picture)
    sys.stdout.write(text)
    return 1 if card.violations or grown or result.left else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="of faults")
    parser.add_argument("--seed", type=int, default=1, help="of jobs and faults")
    parser.add_argument("--no-report", action="store_true", help="leave the documentation alone")
    return parser


if __name__ == "__main__":
    sys.exit(main())
