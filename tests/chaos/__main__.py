"""`make chaos RUNS=20`: schedule after schedule, one line each. Goes on where the last call ended.

State and stories are in `.chaos/`; `--fresh` forgets them. Exit code 1 when a rule was broken.
"""

import argparse
import logging
import shutil
import signal
import sys
import tempfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from tests.chaos.cable import leave_network
from tests.chaos.checker import Card, check
from tests.chaos.mutants import MUTANTS
from tests.chaos.report import Record, add_record, read_records, revision, write_card
from tests.chaos.schedule import Schedule
from tests.chaos.story import tell
from tests.chaos.system import PROJECT, World

STATE = PROJECT / ".chaos"


def main() -> int:
    arguments = _parser().parse_args()
    logging.basicConfig(level=logging.WARNING)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # nothing is left behind
    if arguments.once or arguments.mutant:
        return _run_once(arguments.seed, arguments.jobs, arguments.mutant)
    if arguments.fresh:
        shutil.rmtree(STATE, ignore_errors=True)
    state = STATE / "state.jsonl"
    done = {(record.seed, record.jobs) for record in read_records(state)}
    seeds = range(arguments.seed, arguments.seed + arguments.runs)
    wanted = [seed for seed in seeds if (seed, arguments.jobs) not in done]
    if wanted:
        _run_all(wanted, arguments.jobs, state)
    records = [r for r in read_records(state) if r.seed in seeds and r.jobs == arguments.jobs]
    if not arguments.no_report:
        write_card(records)
    dirty = [record for record in records if record.violations]
    sys.stdout.write(f"{len(records)} schedules, {len(records) - len(dirty)} clean\n")
    return 1 if dirty else 0


def _run_once(seed: int, jobs: int, mutant: str) -> int:
    """Each fault once, or what a mutant does not stand; nothing is kept, and what went wrong is printed."""
    kinds = MUTANTS[mutant][1] if mutant else frozenset()
    room = Path(tempfile.mkdtemp(prefix="prominence-chaos-"))
    stories = room / "stories"
    try:
        with World(room, cabled=leave_network(), mutant=mutant) as world:
            schedule = Schedule(
                world, room / f"seed{seed}", seed, jobs, once=not mutant, kinds=kinds
            )
            record = run_one(schedule, stories)
        sys.stdout.write(f"{record.line()}\n")
        for told in sorted(stories.rglob("violations")):
            sys.stdout.write(told.read_text())
        if record.violations:
            shutil.copytree(stories, STATE / "once", dirs_exist_ok=True)
    finally:
        shutil.rmtree(room, ignore_errors=True)
    return 1 if record.violations else 0


def _run_all(seeds: list[int], jobs: int, state: Path) -> None:
    room = Path(tempfile.mkdtemp(prefix="prominence-chaos-"))
    try:
        with World(room, cabled=leave_network()) as world:
            for seed in seeds:
                record = run_one(Schedule(world, room / f"seed{seed}", seed, jobs), STATE)
                add_record(state, record)
                sys.stdout.write(f"{record.line()}\n")
                sys.stdout.flush()
    finally:
        shutil.rmtree(room, ignore_errors=True)


def run_one(schedule: Schedule, stories: Path) -> Record:
    """One schedule from its beginning to the end of its last process."""
    try:
        schedule.run()
        card = check(schedule)
        tell(schedule, card, stories / f"seed-{schedule.seed}")
    finally:
        schedule.close()
    shutil.rmtree(schedule.room, ignore_errors=True)
    return _record(schedule, card)


def _record(schedule: Schedule, card: Card) -> Record:
    return Record(
        seed=schedule.seed,
        jobs=schedule.jobs,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=revision(),
        submitted=len(card.jobs),
        attempts=card.attempts,
        statuses=card.statuses,
        faults=dict(schedule.faults),
        violations=dict(Counter(violation.rule for violation in card.violations)),
        cut_logs=card.cut_logs,
        fault_s=round(schedule.fault_s, 1),
        drain_s=round(schedule.drain_s, 1),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=1, help="how many schedules")
    parser.add_argument("--seed", type=int, default=1, help="of the first one")
    parser.add_argument("--jobs", type=int, default=300, help="in each")
    parser.add_argument("--once", action="store_true", help="each fault once, in a minute or two")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), default="", help="see mutants.py")
    parser.add_argument("--fresh", action="store_true", help="forget what was run before")
    parser.add_argument("--no-report", action="store_true", help="leave the documentation alone")
    return parser


if __name__ == "__main__":
    sys.exit(main())
