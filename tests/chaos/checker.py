"""The card's rules, judged from rows, notes, logs and journals alone. Imports nothing of the code under test.

lost      a job that was acknowledged is not there, or one that nobody deleted did not complete
twice     more than one attempt counted, an attempt begun twice, two attempts of a job at work at the same time
stuck     not ended although faults were over
path      a change of state that is not allowed, or not exactly one terminal event
late      a job did something after its end was shown
log       a log that is not what the job printed and is not marked as cut
capacity  counters that differ from a recount
fault     one that was to happen and did not
leftover  outbox rows, live placements, open journal entries, processes; a system that says it is not well
"""

import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations, pairwise
from pathlib import Path
from time import time
from typing import Any

import httpx

from tests.chaos import machine
from tests.chaos.load import Plan
from tests.chaos.schedule import SETTLE_S, Schedule
from tests.chaos.system import LEASE_S

ENDS = {"completed", "deleted", "killed", "failed"}
LEGAL = {
    "": {"pending"},
    "pending": {"running", "deleted", "failed", "killed"},
    "running": {"pending", "completed", "deleted", "failed", "killed"},
}
RAN = {"finished", "exitCode"}
NOTICE_S = 5.0
"""How long a machine may take to end its jobs once it is thawed: busy ones take seconds."""

CLOCK_S = 0.2
"""Jobs read a clock of 10 ms; a transaction's time is that of its beginning."""


@dataclass(frozen=True)
class Violation:
    rule: str
    job: int | None
    text: str


@dataclass(frozen=True)
class Note:
    word: str
    attempt: int
    at: float


@dataclass
class JobFacts:
    """Everything that is known of one job. Times of events in seconds since boot, as jobs note them."""

    id: int
    name: str
    status: str
    attempt: int
    node_faults: int
    events: list[tuple[str, str, int, str, float]] = field(default_factory=list)
    attempts: dict[int, dict[str, Any]] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)


@dataclass
class Card:
    """What the checker found."""

    violations: list[Violation]
    jobs: dict[int, JobFacts]
    statuses: dict[str, int]
    attempts: int
    cut_logs: int


def check(schedule: Schedule) -> Card:
    """Wait until things have settled, then judge."""
    schedule.wait(lambda: not list(_leftovers(schedule)), SETTLE_S)
    jobs = _facts(schedule)
    with schedule.users.client() as client:
        log = _Logs(schedule, client)
        logs = [violation for job in jobs.values() for violation in log.judge(job)]
    violations = [
        *(Violation("fault", None, f"could not be had: {name}") for name in schedule.missing),
        *_lost(schedule, jobs),
        *_doubled(schedule, jobs),
        *(violation for job in jobs.values() for violation in _judge(schedule, job)),
        *logs,
        *_leftovers(schedule),
    ]
    statuses: dict[str, int] = defaultdict(int)
    for job in jobs.values():
        statuses[job.status] += 1
    attempts = sum(len(job.attempts) for job in jobs.values())
    return Card(violations, jobs, dict(statuses), attempts, log.cut)


# ---- facts


def _facts(schedule: Schedule) -> dict[int, JobFacts]:
    query = schedule.system.query
    offset = time() - machine.uptime()

    def moment(at: datetime) -> float:
        return at.timestamp() - offset

    rows = query("SELECT id, name, status, attempt, node_faults FROM jobs_job ORDER BY id")
    jobs = {row[0]: JobFacts(*row) for row in rows}
    for job, before, after, attempt, reason, at in query(
        "SELECT job_id, before, after, attempt, reason, at FROM jobs_event ORDER BY id"
    ):
        jobs[job].events.append((before, after, attempt, reason, moment(at)))
    for job, number, status, reason, node, live, stdout, stderr, out_size, err_size in query(
        "SELECT a.job_id, a.number, a.status, a.reason, p.node_name, p.live, p.stdout_complete, "
        "p.stderr_complete, p.stdout_size, p.stderr_size FROM jobs_attempt a "
        "LEFT JOIN jobs_placement p ON p.attempt_id = a.id ORDER BY a.id"
    ):
        jobs[job].attempts[number] = {
            "status": status,
            "reason": reason,
            "node": node,
            "live": live,
            "stdout": (stdout, out_size),
            "stderr": (stderr, err_size),
        }
    for job, note in _notes(schedule.notes.path):
        if job in jobs:
            jobs[job].notes.append(note)
    return jobs


def _notes(path: Path) -> Iterator[tuple[int, Note]]:
    for line in path.read_text().splitlines():
        if match := re.fullmatch(r"(\w+) (\d+)\.(\d+)\.\d+ ([\d.]+)", line):
            word, job, attempt, at = match.groups()
            yield int(job), Note(word, int(attempt), float(at))


# ---- rules over all jobs


def _lost(schedule: Schedule, jobs: dict[int, JobFacts]) -> Iterator[Violation]:
    users = schedule.users
    for text in users.refused:
        yield Violation("lost", None, f"refused: {text}")
    for name in schedule.plans.keys() - users.acknowledged.keys():
        yield Violation("lost", None, f"{name} was never acknowledged")
    for name, ids in users.acknowledged.items():
        for job in ids:
            if job not in jobs or jobs[job].name != name:
                yield Violation("lost", job, f"{name} was acknowledged and is not there")


def _doubled(schedule: Schedule, jobs: dict[int, JobFacts]) -> Iterator[Violation]:
    """One job for each Idempotency-Key, where the API knows such keys."""
    names = Counter(job.name for job in jobs.values()) if schedule.users.keys_work else {}
    for name, count in names.items():
        if count > 1 and schedule.plans[name].twin:
            yield Violation("twice", None, f"{name}: {count} jobs in spite of a key")


def _leftovers(schedule: Schedule) -> Iterator[Violation]:
    query = schedule.system.query
    for topic, key, tries in query("SELECT topic, key, tries FROM jobs_outbox"):
        job = int(key.partition(".")[0]) if key[:1].isdigit() else None
        yield Violation("leftover", job, f"outbox: {topic} {key}, {tries} tries")
    for job, number, node in query(
        "SELECT a.job_id, a.number, p.node_name FROM jobs_placement p "
        "JOIN jobs_attempt a ON a.id = p.attempt_id WHERE p.live"
    ):
        yield Violation("leftover", job, f"attempt {number} is still live on {node}")
    yield from _capacity(schedule)
    yield from _journals(schedule)
    yield from _processes(schedule)
    if not schedule.system.is_healthy():
        yield Violation("leftover", None, "/health says that something does not work")


def _processes(schedule: Schedule) -> Iterator[Violation]:
    """Of a node without jobs, worker and spawner are left."""
    for node in schedule.system.nodes.values():
        names = sorted(machine.processes(node.data).values())
        if len(names) != 1 or not names[0].startswith("prom-spwn-"):
            yield Violation("leftover", None, f"{node.name} runs {names}")


def _capacity(schedule: Schedule) -> Iterator[Violation]:
    rows = schedule.system.query(
        "SELECT i.id, i.cpus - i.cpus_free, i.memory_mb - i.memory_mb_free, "
        "i.disk_mb - i.disk_mb_free, i.ahead, "
        "coalesce(sum(p.cpus) FILTER (WHERE p.charged), 0), "
        "coalesce(sum(p.memory_mb) FILTER (WHERE p.charged), 0), "
        "coalesce(sum(p.disk_mb) FILTER (WHERE p.charged), 0), "
        "count(p.id) FILTER (WHERE NOT p.charged) FROM clouds_incarnation i "
        "LEFT JOIN jobs_placement p ON p.incarnation = i.id AND p.live GROUP BY i.id"
    )
    for incarnation, *counts in rows:
        if counts[:4] != counts[4:]:
            text = f"incarnation {incarnation}: {counts[:4]} by its counters, {counts[4:]} counted"
            yield Violation("capacity", None, text)


def _journals(schedule: Schedule) -> Iterator[Violation]:
    """Living nodes have reported everything that they ever took on, and took on what was theirs only."""
    living = schedule.system.query(
        "SELECT i.id, n.name FROM clouds_incarnation i JOIN clouds_node n ON n.id = i.node_id "
        "WHERE i.status IN ('ready', 'draining')"
    )
    for incarnation, name in living:
        node = schedule.system.nodes.get(name)
        path = node.data / f"life-{incarnation}" / "journal.db" if node else None
        if path is None or not path.exists():
            yield Violation("leftover", None, f"{name} is ready without a journal {incarnation}")
            continue
        for key, state in journal_rows(path, "WHERE closed = 0"):
            job = int(key.partition(".")[0])
            yield Violation("leftover", job, f"journal of {name}: {key} is {state} and open")


def journal_rows(path: Path, where: str = "") -> list[tuple[str, str]]:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as connection:
            return connection.execute(f"SELECT key, state FROM attempts {where}").fetchall()
    except sqlite3.Error as error:
        return [("0", f"unreadable: {error}")]


# ---- rules over one job


def _judge(schedule: Schedule, job: JobFacts) -> Iterator[Violation]:
    plan = schedule.plans[job.name]
    for text in _path(job):
        yield Violation("path", job.id, text)
    if job.status not in ENDS:
        yield Violation("stuck", job.id, f"is {job.status}, attempt {job.attempt}")
        return
    if job.status != "completed" and not (
        job.status == "deleted" and job.id in schedule.users.deleted
    ):
        yield Violation("lost", job.id, f"ended as {job.status}, which nobody asked for")
    for text in _counted(job, plan):
        yield Violation("twice", job.id, text)
    for text in _overlaps(job, schedule):
        yield Violation("twice", job.id, text)
    for text in _late(job, schedule):
        yield Violation("late", job.id, text)


def _path(job: JobFacts) -> Iterator[str]:
    states = [after for _, after, *_ in job.events]
    if not job.events or job.events[0][0] != "":
        yield "its story does not begin with its submission"
    for (before, after, *_), previous in zip(job.events, ["", *states], strict=False):
        if before != previous or after not in LEGAL.get(before, set()):
            yield f"{previous} then {before or 'nothing'} -> {after}"
    ends = [state for state in states if state in ENDS]
    if job.status in ENDS and ends != [job.status]:
        yield f"is {job.status}, its terminal events are {ends}"
    if any(a[4] > b[4] + CLOCK_S for a, b in pairwise(job.events)):
        yield "events go back in time"


def _counted(job: JobFacts, plan: Plan) -> Iterator[str]:
    """Which attempts counted, and what they did."""
    counted = [n for n, row in job.attempts.items() if row["reason"] in RAN]
    allowed = 1 + (plan.retries if plan.code else 0)
    if len(counted) > allowed:
        yield f"attempts {counted} counted"
    if sorted(job.attempts) != list(range(1, job.attempt + 1)):
        yield f"attempts are {sorted(job.attempts)}, the last is said to be {job.attempt}"
    if job.status == "completed" and counted[-1:] != [job.attempt]:
        yield f"completed by attempt {job.attempt}, but {counted} ran to their end"
    for number in counted:
        words = [note.word for note in job.notes if note.attempt == number]
        if words != ["begin", *["tick"] * plan.steps, "end"]:
            yield f"attempt {number} counts and did {words}, {plan.steps} ticks were asked for"
    for number in {note.attempt for note in job.notes}:
        begun = sum(note.word == "begin" for note in job.notes if note.attempt == number)
        if begun > 1 or number not in job.attempts:
            yield f"attempt {number} began {begun} times; known: {sorted(job.attempts)}"


def _overlaps(job: JobFacts, schedule: Schedule) -> Iterator[str]:
    """At most one at work; but a machine that was frozen has not heard yet that its attempt is over."""
    first: dict[int, float] = {}
    for note in job.notes:
        first[note.attempt] = min(note.at, first.get(note.attempt, note.at))
    for earlier, later in combinations(sorted(first), 2):
        for note in job.notes:
            at_once = note.attempt == earlier and note.at >= first[later]
            if at_once and not _is_just_thawed(job, note, schedule):
                yield f"attempt {earlier} did {note} after {later} began at {first[later]}"


def _late(job: JobFacts, schedule: Schedule) -> Iterator[str]:
    end = job.events[-1][4] + CLOCK_S
    for note in job.notes:
        if note.at > end and not _is_just_thawed(job, note, schedule):
            yield f"{note} after it was {job.status} at {end:.2f}"


def _is_just_thawed(job: JobFacts, note: Note, schedule: Schedule) -> bool:
    """Done by a machine that stood still for two leases and cannot have noticed yet."""
    name = job.attempts.get(note.attempt, {}).get("node")
    nodes = [*schedule.system.nodes.values(), *schedule.system.retired]
    return any(
        thaw - CLOCK_S <= note.at <= thaw + NOTICE_S
        for node in nodes
        if node.name == name
        for thaw in _long_thaws(node.thaws)
    )


def _long_thaws(thaws: list[tuple[float, float]]) -> Iterator[float]:
    """Ends of what was at least two leases; what follows before the end of the one before is noticed counts as one."""
    began, last = 0.0, float("-inf")
    for begin, thaw in thaws:
        began = began if begin < last + NOTICE_S else begin
        last = thaw
        if thaw - began >= 2 * LEASE_S:
            yield thaw


# ---- logs


class _Logs:
    """Reads every log by HTTP."""

    def __init__(self, schedule: Schedule, client: httpx.Client) -> None:
        self._schedule = schedule
        self._client = client
        self.cut = 0

    def judge(self, job: JobFacts) -> Iterable[Violation]:
        if job.status not in ENDS or not job.attempt or job.attempt not in job.attempts:
            return
        plan = self._schedule.plans[job.name]
        key = f"{job.id}.{job.attempt}.0"
        for stream, expected in (("stdout", plan.stdout(key)), ("stderr", plan.stderr(key))):
            complete, size = job.attempts[job.attempt][stream]
            answer = self._client.get(f"/jobs/{job.id}/{stream}")
            if answer.status_code not in {200, 400}:
                yield Violation("log", job.id, f"{stream}: {answer.status_code} {answer.text}")
                continue
            body = answer.content if answer.status_code == 200 else b""
            for text in self._compare(job, body, expected, complete=complete, size=size):
                yield Violation("log", job.id, f"{stream}: {text}")

    def _compare(
        self, job: JobFacts, body: bytes, expected: bytes, *, complete: bool | None, size: int
    ) -> Iterator[str]:
        if complete is None:
            yield f"nobody says whether it is complete; {len(body)} bytes"
        elif not complete:
            self.cut += 1
            if job.status == "completed" and not self._was_full(job):
                yield f"cut at {size} of {len(expected)} bytes although its node ended it well"
        elif len(body) != size:
            yield f"{len(body)} bytes, said to be {size} and complete"
        elif job.status == "completed" and body != expected:
            yield f"{len(body)} bytes, not the {len(expected)} that it printed: {body[-200:]!r}"
        elif not expected.startswith(body):
            yield f"not a beginning of what it printed: {body[-200:]!r}"

    def _was_full(self, job: JobFacts) -> bool:
        node = job.attempts[job.attempt]["node"]
        system = self._schedule.system
        return any(n.was_full for n in (*system.nodes.values(), *system.retired) if n.name == node)
