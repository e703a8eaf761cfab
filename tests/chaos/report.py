"""What was run so far, in a state file, and its summary in `docs/reliability.md`."""

import json
import re
import subprocess
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.chaos.system import LEASE_S, PROJECT

DOCUMENT = PROJECT / "docs" / "reliability.md"
HEADING = "## The card"


@dataclass(frozen=True)
class Record:
    """One schedule that was run to its end."""

    seed: int
    jobs: int
    date: str
    commit: str
    submitted: int
    attempts: int
    statuses: dict[str, int]
    faults: dict[str, int]
    violations: dict[str, int]
    cut_logs: int
    fault_s: float
    drain_s: float

    def line(self) -> str:
        faults = sum(self.faults.values())
        ends = ", ".join(f"{count} {status}" for status, count in sorted(self.statuses.items()))
        broken = ", ".join(f"{count} {rule}" for rule, count in sorted(self.violations.items()))
        return (
            f"seed {self.seed}: {self.submitted} jobs in {self.attempts} attempts, {faults} faults "
            f"in {self.fault_s:.0f} s, {self.drain_s:.0f} s to drain; {ends}; "
            f"{self.cut_logs} logs marked as cut; violations: {broken or 'none'}"
        )


def read_records(state: Path) -> list[Record]:
    if not state.exists():
        return []
    return [Record(**json.loads(line)) for line in state.read_text().splitlines()]


def add_record(state: Path, record: Record) -> None:
    state.parent.mkdir(parents=True, exist_ok=True)
    with state.open("a") as file:
        file.write(json.dumps(asdict(record)) + "\n")


def write_card(records: list[Record], document: Path = DOCUMENT) -> None:
    replace_section(HEADING, _card(records), document)


def replace_section(heading: str, body: str, document: Path = DOCUMENT) -> None:
    """Replace the section in the document, or add it; the rest of it stays."""
    text = document.read_text() if document.exists() else "# Reliability\n"
    section = f"{heading}\n\n{body.strip()}\n"
    pattern = re.compile(rf"^{re.escape(heading)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    if pattern.search(text):
        text = pattern.sub(lambda found: section + ("\n" if found.end() < len(text) else ""), text)
    else:
        text = f"{text.rstrip()}\n\n{section}"
    document.write_text(text)


def revision() -> str:
    """The commit that is checked out."""
    words = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _card(records: list[Record]) -> str:
    faults: Counter[str] = Counter()
    violations: Counter[str] = Counter()
    for record in records:
        faults.update(record.faults)
        violations.update(record.violations)
    dates = sorted(record.date[:10] for record in records)
    rules = ("lost", "twice", "stuck", "path", "late", "log", "capacity", "leftover")
    lines = [
        f"`make chaos`, {dates[0]} to {dates[-1]}, last on commit {records[-1].commit}; "
        f"leases of {LEASE_S:g} s, PostgreSQL, Redis and all processes on one machine of 2 cores.",
        "",
        "| | |",
        "|---|---|",
        f"| schedules | {len(records)} (seeds {_seeds(records)}) |",
        f"| jobs, attempts | {sum(r.submitted for r in records)}, {sum(r.attempts for r in records)} |",
        f"| faults | {sum(faults.values())} |",
        f"| clean schedules | {sum(not r.violations for r in records)} |",
        *(f"| violations: {rule} | {violations[rule]} |" for rule in rules),
        f"| logs of jobs that did not complete, marked as cut | {sum(r.cut_logs for r in records)} |",
        f"| longest time to the last job's end, once faults were over | {max(r.drain_s for r in records):.0f} s |",
        "",
        "Faults by kind: " + ", ".join(f"{name} {n}" for name, n in sorted(faults.items())) + ".",
    ]
    return "\n".join(lines)


def _seeds(records: list[Record]) -> str:
    seeds = sorted({record.seed for record in records})
    if seeds == list(range(seeds[0], seeds[-1] + 1)) and len(seeds) > 2:
        return f"{seeds[0]}-{seeds[-1]}"
    return ", ".join(map(str, seeds))
