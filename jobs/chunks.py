"""The counters of chunks: how many of their jobs ended well and badly, and when the first one started.

Kept in the transaction that changes the jobs, so that a count always equals a recount. What a full chunk means for its
workflow is not known here: an outbox row tells the higher room.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from django.db import transaction

from jobs import outbox
from jobs.bulk import update_rows
from jobs.models import Chunk, Event
from jobs.states import TERMINAL, JobStatus, Outcome
from prominence.bus import announce_due


def count(events: Sequence[Event]) -> None:
    """Add these changes of jobs, just written, to the chunks of those jobs. Locks the chunks, by id, after the jobs."""
    begun, well, badly = _tally(events)
    rows = _locked(begun.keys() | well.keys() | badly.keys())
    if not rows:
        return
    started = [chunk for chunk in rows if chunk.pk in begun and chunk.started_at is None]
    ended = [chunk for chunk in rows if chunk.pk in well or chunk.pk in badly]
    for chunk in started:
        chunk.started_at = begun[chunk.pk]
    for chunk in ended:
        chunk.well += well[chunk.pk]
        chunk.badly += badly[chunk.pk]
    changed = list({chunk.pk: chunk for chunk in (*started, *ended)}.values())
    update_rows(changed, ["well", "badly", "started_at"])
    full = [chunk for chunk in ended if chunk.ended]
    outbox.put(outbox.CHUNK_STARTED, {str(chunk.pk): {} for chunk in started})
    outbox.put(outbox.CHUNK_ENDED, {str(chunk.pk): {} for chunk in full})
    if started or full:
        transaction.on_commit(announce_due)


def _tally(
    events: Sequence[Event],
) -> tuple[dict[int, datetime | None], Counter[int], Counter[int]]:
    """By chunk: when a job of it began, how many ended well, how many badly."""
    begun: dict[int, datetime | None] = {}
    well: Counter[int] = Counter()
    badly: Counter[int] = Counter()
    for event in events:
        job = event.job
        if job.chunk_id is None:
            continue
        if event.after == JobStatus.RUNNING:
            begun[job.chunk_id] = job.started_at
        elif event.after in TERMINAL:
            (well if job.outcome == Outcome.WELL else badly)[job.chunk_id] += 1
    return begun, well, badly


def _locked(chunk_ids: set[int]) -> list[Chunk]:
    if not chunk_ids:
        return []
    return list(Chunk.objects.select_for_update().filter(pk__in=chunk_ids).order_by("pk"))
