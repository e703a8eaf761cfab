"""One job for the admin: document, story, attempts and the ends of its logs, and how states are coloured.

Reads only, with a fixed number of queries. What looks like a secret in the environment is masked.
"""

import codecs
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.utils.safestring import SafeString

from jobs.lanes import lanes
from jobs.models import Attempt, Event, Job, Stream
from jobs.notifications import shown_notifications
from jobs.output import NoOutput, log_state, read_output
from jobs.secret_fields import shown_task
from jobs.states import REASONS, AttemptStatus, Fault, JobStatus, Outcome, Reason
from prominence.admin_format import KB, Colour, duration, label, labels, size

SHOWN_BYTES = 64 << 10
# More of either than a job can have without a mistake: 100 retries and 20 node faults.
MAXIMUM_ROWS = 500
MASK = "••••••"
_SECRET = re.compile(r"secret|passw|token|credential|(?:api|private|access)_?key", re.IGNORECASE)

_STATUS_COLOURS = {
    JobStatus.PENDING: Colour.GREY,
    JobStatus.RUNNING: Colour.BLUE,
    JobStatus.COMPLETED: Colour.GREEN,
    JobStatus.DELETED: Colour.GREY,
    JobStatus.KILLED: Colour.ORANGE,
    JobStatus.FAILED: Colour.RED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEnd:
    """The last bytes of one output stream. `note`: what a reader must know, such as lost bytes."""

    stream: str
    text: str
    size: int
    is_cut: bool
    note: str

    @property
    def caption(self) -> str:
        """How much is shown of how much."""
        if self.is_cut:
            return f"last {size(SHOWN_BYTES)} of {size(self.size)}"
        return size(self.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """What one task of an attempt used; texts for people."""

    number: int
    image: str
    exit_code: object
    wall: str
    cpu: str
    memory: str
    pull: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """One attempt with its places and tasks."""

    attempt: Attempt
    is_current: bool
    status: SafeString
    reason: SafeString | str
    elapsed: str
    places: list[Any]
    tasks: list[TaskRow]


def job_page(job: Job, *, now: datetime) -> dict[str, Any]:
    """The template's context for a job."""
    rows = _attempts(job, now)
    return {
        "job": job,
        "status": status_labels(job),
        "reason": reason_labels(job.reason),
        "elapsed": elapsed(job.started_at, job.ended_at, now),
        "waited": duration((job.started_at or job.ended_at or now) - job.created_at),
        "document": json.dumps(public_document(job.spec), indent=2, ensure_ascii=False),
        "events": _story(job),
        "attempts": rows,
        "lanes": lanes(
            [row.attempt for row in reversed(rows)],
            created=job.created_at,
            ended=job.ended_at,
            now=now,
        ),
        "logs": [log_end(job, stream) for stream in Stream.values],
    }


def status_labels(job: Job) -> SafeString:
    """The status, and beside it what else an operator must not overlook."""
    # The other ends say so by their name.
    ended_badly = job.outcome == Outcome.BADLY and job.status == JobStatus.COMPLETED
    is_going = job.delete_requested_at is not None and job.ended_at is None
    return labels(
        label(job.status, _STATUS_COLOURS[JobStatus(job.status)]),
        label("badly", Colour.RED, "ended badly") if ended_badly else "",
        label("being deleted", Colour.ORANGE) if is_going else "",
    )


def status_label(status: str) -> SafeString | str:
    """A job's status as a word of a story; "" for none."""
    return label(status, _STATUS_COLOURS[JobStatus(status)]) if status else ""


def reason_text(reason: str) -> str:
    """A reason as people read it."""
    return str(Reason(reason).label) or reason if reason else ""


def reason_labels(reason: str) -> SafeString | str:
    """A reason, and whose fault it was if anybody's."""
    if not reason:
        return ""
    meaning = REASONS.get(Reason(reason))
    is_fault = meaning is not None and meaning.fault is not Fault.NONE
    blame = label(f"{meaning.fault}", Colour.ORANGE, "whose fault") if meaning and is_fault else ""
    return labels(reason_text(reason), blame)


def elapsed(started: datetime | None, ended: datetime | None, now: datetime) -> str:
    """How long something has run, up to now if it runs still."""
    if started is None:
        return duration(None)
    return duration(max((ended or now) - started, timedelta()))


def public_document(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The stored form with values of secret-looking variables masked; it never holds contents of input files."""
    tasks = [_public_task(task) for task in spec.get("tasks", ())]
    shown = {**spec, "tasks": tasks}
    return shown | ({"notifications": shown_notifications(spec)} if "notifications" in spec else {})


def _public_task(stored: Mapping[str, Any]) -> dict[str, Any]:
    task = shown_task(stored)
    if not task.get("env"):
        return task
    env = {key: MASK if _SECRET.search(key) else value for key, value in task["env"].items()}
    return {**task, "env": env}


def log_end(job: Job, stream: str) -> LogEnd:
    """The last SHOWN_BYTES of the current attempt's log. Bytes that are no UTF-8 are shown as replacements."""
    state = log_state(job=job, stream=stream)
    start = max(0, state.size - SHOWN_BYTES)
    data = bytearray()
    try:
        for chunk in read_output(job=job, stream=stream, offset=start):
            data += chunk
            if len(data) >= SHOWN_BYTES:  # it may grow while it is read
                break
    except NoOutput:
        data.clear()
    note = "" if state.complete else "some of it was lost"
    return LogEnd(
        stream=stream,
        text=visible(bytes(data[:SHOWN_BYTES])),
        size=state.size,
        is_cut=start > 0,
        note="still being written" if state.live and not note else note,
    )


def visible(data: bytes) -> str:
    """Text for a browser: what cannot be shown becomes a visible sign."""
    return data.decode(errors="replace").translate(_CONTROL)


# NUL and other controls but tab and line ends, as their Unicode pictures.
_CONTROL = {code: 0x2400 + code for code in range(32) if code not in {9, 10, 13}}


def whole_log(job: Job, stream: str) -> Iterator[str]:
    """All of the current attempt's log as text, in pieces; characters that are cut by a piece stay whole."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    try:
        for chunk in read_output(job=job, stream=stream):
            yield decoder.decode(chunk)
    except NoOutput:
        return
    yield decoder.decode(b"", final=True)


def _story(job: Job) -> list[dict[str, Any]]:
    """The job's events in order, ready to show."""
    return [
        {
            "event": event,
            "before": status_label(event.before),
            "after": status_label(event.after),
            "reason": reason_labels(event.reason),
        }
        for event in Event.objects.filter(job=job).order_by("pk")[:MAXIMUM_ROWS]
    ]


def _attempts(job: Job, now: datetime) -> list[AttemptRow]:
    """Newest first: two queries, however many."""
    rows = Attempt.objects.filter(job=job).prefetch_related("placements").order_by("-number")
    return [_attempt_row(job, attempt, now) for attempt in rows[:MAXIMUM_ROWS]]


def _attempt_row(job: Job, attempt: Attempt, now: datetime) -> AttemptRow:
    images = [task.get("image", "") for task in job.spec.get("tasks", ())]
    return AttemptRow(
        attempt=attempt,
        is_current=attempt.number == job.attempt,
        status=attempt_label(attempt.status),
        reason=reason_labels(attempt.reason),
        elapsed=elapsed(attempt.started_at, attempt.ended_at, now),
        places=list(attempt.placements.all()),
        tasks=[
            _task_row(number, images[number] if number < len(images) else "", result)
            for number, result in enumerate(attempt.tasks)
        ],
    )


def attempt_label(status: str) -> SafeString:
    """An attempt's status."""
    return label(status, Colour.BLUE if status == AttemptStatus.RUNNING else Colour.GREY)


def _task_row(number: int, image: str, result: Mapping[str, Any]) -> TaskRow:
    pull_s, rss_kb = result.get("image_pull_s"), result.get("max_rss_kb")
    return TaskRow(
        number=number + 1,
        image=image,
        exit_code=result.get("exit_code", ""),
        wall=duration(result.get("wall_s")),
        cpu=duration(result.get("cpu_s")),
        memory=size(None if rss_kb is None else rss_kb * KB),
        pull="cached" if pull_s is not None and pull_s < 0 else duration(pull_s),
    )
