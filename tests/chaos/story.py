"""What happened, on disk: one directory a schedule, with the whole story of each job that broke a rule."""

import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.checker import Card, JobFacts, Violation, journal_rows
from tests.chaos.schedule import Schedule


def tell(schedule: Schedule, card: Card, target: Path) -> None:
    """Everything about a schedule that went wrong; a timeline only when it did not."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    (target / "timeline").write_text("\n".join(schedule.timeline) + "\n")
    if not card.violations:
        return
    lines = [f"{v.rule:9} {v.job or '':>6} {v.text}" for v in card.violations]
    (target / "violations").write_text("\n".join(lines) + "\n")
    shutil.copytree(schedule.system.logs, target / "log")
    shutil.copy(schedule.notes.path, target / "notes")
    by_job: dict[int, list[Violation]] = defaultdict(list)
    for violation in card.violations:
        if violation.job in card.jobs:
            by_job[violation.job].append(violation)
    for number, violations in by_job.items():
        text = "\n".join(_story(schedule, card.jobs[number], violations))
        (target / f"job-{number}").write_text(text + "\n")


def _story(schedule: Schedule, job: JobFacts, violations: list[Violation]) -> Iterator[str]:
    yield f"job {job.id} {job.name}: {job.status}, attempt {job.attempt}"
    yield from (f"  broke {v.rule}: {v.text}" for v in violations)
    yield f"plan: {schedule.plans[job.name]}"
    yield f"deleted by its user: {job.id in schedule.users.deleted}"
    yield "events (before, after, attempt, reason, seconds since boot):"
    yield from (f"  {event}" for event in job.events)
    yield "attempts:"
    yield from (f"  {number}: {row}" for number, row in job.attempts.items())
    yield "notes:"
    yield from (f"  {note}" for note in job.notes)
    yield "job row:"
    [row] = schedule.system.query("SELECT row_to_json(j) FROM jobs_job j WHERE id = %s", job.id)
    yield f"  {row[0]}"
    yield from _journals(schedule, job)
    yield from _log_lines(schedule, job)


def _journals(schedule: Schedule, job: JobFacts) -> Iterator[str]:
    yield "journals:"
    for node in schedule.system.nodes.values():
        for path in sorted(node.data.glob("life-*/journal.db")):
            for key, state in journal_rows(path):
                if key.startswith(f"{job.id}."):
                    yield f"  {node.name} {path.parent.name}: {key} {state}"
        for path in sorted(node.data.glob(f"life-*/jobs/{job.id}.*/*")):
            if path.is_file() and path.stat().st_size < 2000:
                content = path.read_text(errors="replace")
                yield f"  {node.name} {path.parent.name}/{path.name}: {content}"


def _log_lines(schedule: Schedule, job: JobFacts) -> Iterator[str]:
    for log in sorted(schedule.system.logs.glob("*.log")):
        words = (f" {job.id}.", f"job {job.id} ", f"job={job.id},")
        with log.open(errors="replace") as lines:
            yield from (
                f"{log.name}: {line.rstrip()}"
                for line in lines
                if any(word in line for word in words)
            )
