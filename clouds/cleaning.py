"""What a node says, made safe to store: bounds and texts that any database takes.

Pure. A node is not trusted, and an honest one may pass on odd bytes of a program's error message; neither may stop
what other nodes say from being stored.
"""

from collections.abc import Sequence

from worker.protocol import (
    AttemptKey,
    Claimed,
    Ended,
    Event,
    LogEnd,
    Started,
    TaskEnded,
    TaskResult,
)

TEXT = 2000
TAIL_BYTES = 8 << 10
BIG = 1 << 53
LONG_S = 1e9  # 30 years
MAXIMUM_TASKS = 100
MAXIMUM_KEY = (2**63 - 1, 2**31 - 1, 2**31 - 1)


def clean_text(text: str, length: int = TEXT) -> str:
    """No NUL, which PostgreSQL refuses, and no more than `length` characters."""
    return text[:length].replace("\0", "\ufffd")


def clean_count(number: int | None) -> int | None:
    return None if number is None else min(max(number, 0), BIG)


def clean_seconds(seconds: float | None) -> float | None:
    """Image pulls use -1 for "from a cache"."""
    return None if seconds is None else min(max(seconds, -1.0), LONG_S)


def is_key(key: AttemptKey) -> bool:
    """Could this be an attempt at all?"""
    parts = (key.job, key.attempt, key.rank)
    return all(0 <= part <= most for part, most in zip(parts, MAXIMUM_KEY, strict=True))


def clean_event(event: Event) -> Event:
    """The same event, harmless."""
    match event:
        case Claimed():
            return event
        case Started():
            return Started(seq=event.seq, key=event.key, ago_s=clean_seconds(event.ago_s) or 0.0)
        case TaskEnded():
            return TaskEnded(
                seq=event.seq, key=event.key, task=event.task, result=_task(event.result)
            )
        case Ended():
            return Ended(
                seq=event.seq,
                key=event.key,
                reason=event.reason,
                detail=clean_text(event.detail),
                tasks=_tasks(event.tasks),
                wall_s=clean_seconds(event.wall_s),
                max_memory_kb=clean_count(event.max_memory_kb),
                stage_in_s=clean_seconds(event.stage_in_s),
                stage_out_s=clean_seconds(event.stage_out_s),
                stdout=_log(event.stdout),
                stderr=_log(event.stderr),
                ago_s=clean_seconds(event.ago_s) or 0.0,
            )


def bare_end(event: Ended) -> Ended:
    """The same end without anything that could be wrong with it."""
    return Ended(seq=event.seq, key=event.key, reason=event.reason)


def _tasks(tasks: Sequence[TaskResult]) -> tuple[TaskResult, ...]:
    return tuple(_task(task) for task in tasks[:MAXIMUM_TASKS])


def _task(task: TaskResult) -> TaskResult:
    code = task.exit_code
    return TaskResult(
        exit_code=None if code is None else max(-BIG, min(code, BIG)),
        image_pull_s=clean_seconds(task.image_pull_s),
        image_status=clean_text(task.image_status, 20),
        image_digest=clean_text(task.image_digest, 80),
        wall_s=clean_seconds(task.wall_s),
        cpu_s=clean_seconds(task.cpu_s),
        max_rss_kb=clean_count(task.max_rss_kb),
        retries=clean_count(task.retries) or 0,
    )


def _log(end: LogEnd) -> LogEnd:
    """A tail longer than agreed is not taken: the log counts as cut there."""
    fits = len(end.tail) <= TAIL_BYTES
    return LogEnd(
        size=clean_count(end.size) or 0,
        stored=clean_count(end.stored) or 0,
        tail=end.tail if fits else b"",
        complete=end.complete and fits,
    )
