"""What jobs wrote to stdout and stderr: pieces that are stored for good, and the fresh end that is in Redis.

Owns `Output` rows and their objects, and the one way to read a log at a byte offset. While an attempt runs, its node
appends to a Redis stream whose entry ids are END byte offsets, and stores older parts here before it trims them.
Pieces may overlap and repeat; a reader gets every byte once. Whoever moves bytes stores first and trims after, so that
a reader who finds nothing in Redis finds it in storage by looking there again.
"""

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import redis
from django.db import transaction
from django.db.models import F

from jobs.models import Attempt, Job, Output, Placement, Stream
from jobs.objects import ObjectMissing, ObjectStore, object_store
from prominence.bus import server_redis
from worker.protocol import AttemptKey, Keys, key_prefix

logger = logging.getLogger(__name__)

INLINE_BYTES = 8 << 10
READ_BYTES = 1 << 18
# Per look: rows and entries that are fetched at once. Entries are 32 to 64 KB at most.
_ROWS = 64
_ENTRIES = 8
# No log reaches this; the database's integers end a little later.
_FARTHEST = 1 << 62


class NoOutput(LookupError):
    """The job has not written such a thing, and did not start yet; the text says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """One output stream of one placement. `redis_key`: where its fresh end is while the placement lives."""

    job: int
    attempt: int
    rank: int
    stream: str
    redis_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogState:
    """size: end of the last byte that can be read.  complete: False when bytes are known to be lost.

    live: more may come. A log that is not live and not complete was cut.
    """

    size: int
    complete: bool
    live: bool


def store_piece(  # noqa: PLR0913 the piece's whole address
    *, job_id: int, attempt: int, rank: int, stream: str, start: int, data: bytes
) -> None:
    """Keep `data` as the bytes [start, start + len(data)) of a log: inline up to 8 KB, else as an object.

    Idempotent: a piece with the same start is replaced only by a longer one. Inside or outside a transaction; better
    outside when `data` is large. Does not tell followers.

    Raises:
        ObjectStoreError: nothing was stored.
    """
    address = {"job_id": job_id, "attempt": attempt, "rank": rank, "stream": Stream(stream).value}
    rows = Output.objects.filter(**address, start=start)
    old = rows.values_list("size", "key").first()
    if not data or (old is not None and old[0] >= len(data)):
        return
    content = _content(address, start, data)
    # Insert, then lengthen: whichever of two senders comes second, the longer piece stays.
    Output.objects.bulk_create(
        [Output(**address, start=start, size=len(data), **content)], ignore_conflicts=True
    )
    lengthened = rows.filter(size__lt=len(data)).update(size=len(data), **content)
    if lengthened and old is not None and old[1]:
        transaction.on_commit(partial(object_store().delete, old[1]), robust=True)


def stored_end(*, job_id: int, attempt: int, rank: int, stream: str) -> int:
    """The stored part of a log is [0, this) without a gap."""
    pieces = Output.objects.filter(job_id=job_id, attempt=attempt, rank=rank, stream=stream)
    end = 0
    for start, size in pieces.order_by("start").values_list("start", "size"):
        if start > end:
            break
        end = max(end, start + size)
    return end


def log_of(placement: Placement, *, job_id: int, attempt: int, stream: str) -> Log:
    """The address of one output stream of a placement of attempt number `attempt`."""
    key = AttemptKey(job_id, attempt, placement.rank)
    return Log(
        job=job_id,
        attempt=attempt,
        rank=placement.rank,
        stream=stream,
        redis_key=Keys(key_prefix(placement.incarnation)).out(key, stream),
    )


def read_output(*, job: Job, stream: str, rank: int = 0, offset: int = 0) -> Iterator[bytes]:
    """The current attempt's log from byte `offset` to its present end, in chunks; bytes that are lost are skipped.

    Raises:
        NoOutput: nothing was written and no attempt of the job ever started. At once, not at the first chunk.
    """
    placement = _placement(job, rank)
    if placement is None:
        if rank or not _has_started(job):
            raise NoOutput(f"{stream} does not exist")
        return iter(())
    log = log_of(placement, job_id=job.pk, attempt=job.attempt, stream=stream)
    reader = LogReader(log)
    if reader.size(live=placement.live) == 0 and not _has_started(job):
        raise NoOutput(f"{stream} does not exist")
    return _chunks(reader, placement, offset)


def log_state(*, job: Job, stream: str, rank: int = 0) -> LogState:
    """How much of the current attempt's log there is, and whether that is all."""
    placement = _placement(job, rank)
    if placement is None:
        return LogState(size=0, complete=True, live=False)
    log = log_of(placement, job_id=job.pk, attempt=job.attempt, stream=stream)
    return LogState(
        size=LogReader(log).size(live=placement.live),
        complete=is_complete(placement, stream),
        live=placement.live,
    )


def is_complete(placement: Placement, stream: str) -> bool:
    """False when bytes of this log are known to be lost."""
    complete = placement.stdout_complete if stream == Stream.STDOUT else placement.stderr_complete
    return complete is not False


class LogReader:
    """Reads one log by offset. Blocking; holds nothing between calls."""

    def __init__(
        self, log: Log, *, client: "redis.Redis | None" = None, store: ObjectStore | None = None
    ) -> None:
        self.log = log
        self._client = client
        self._store = store or object_store()
        self._pieces = Output.objects.filter(
            job_id=log.job, attempt=log.attempt, rank=log.rank, stream=log.stream
        )

    def read(self, offset: int, *, live: bool, limit: int = READ_BYTES) -> bytes:
        """The bytes at `offset` that follow each other without a gap, at most `limit`; empty: none there now.

        live: look in Redis too. Shorter than `limit` means that there is a gap, or the end, right after.
        """
        data = bytearray()
        while len(data) < limit and offset < _FARTHEST:
            more = self._look(offset + len(data), limit - len(data), live=live)
            if not more:
                break
            data += more
        return bytes(data)

    def after_gap(self, offset: int) -> int | None:
        """Where the next stored piece after `offset` begins, for a log that is not live."""
        later = self._pieces.filter(start__gt=min(offset, _FARTHEST)).order_by("start")
        return later.values_list("start", flat=True).first()

    def size(self, *, live: bool) -> int:
        """End of the last byte that can be read."""
        return max(self._stored_size(), self._fresh_size() if live else 0)

    def _look(self, offset: int, limit: int, *, live: bool) -> bytes:
        data = self._stored(offset, limit)
        if not data and live:
            data = self._fresh(offset, limit)
        # Nothing in either: it may have moved or been replaced between the looks, and is in storage by now.
        return data or self._stored(offset, limit)

    def _stored(self, offset: int, limit: int) -> bytes:
        rows = (
            self._pieces.filter(start__lt=offset + limit)
            .annotate(end=F("start") + F("size"))
            .filter(end__gt=offset)
            .order_by("start")
        )
        data = bytearray()
        for piece in rows[:_ROWS]:
            position = offset + len(data)
            wanted = min(offset + limit, piece.start + piece.size) - position
            if piece.start > position or len(data) >= limit:
                break
            if wanted > 0:
                part = self._part(piece, position - piece.start, wanted)
                data += part
                if len(part) < wanted:
                    break
        return bytes(data)

    def _part(self, piece: Output, start: int, wanted: int) -> bytes:
        if not piece.key:
            return bytes(piece.data or b"")[start : start + wanted]
        try:
            blocks = self._store.open_range(piece.key, start)
        except ObjectMissing:
            # Replaced by a longer one since the row was read; the next look sees that. Else it is lost.
            logger.warning("no object %s", piece.key)
            return b""
        part = bytearray()
        with closing(blocks):  # type: ignore[type-var]  # a store's iterator is a generator
            for block in blocks:
                part += block[: wanted - len(part)]
                if len(part) >= wanted:
                    break
        return bytes(part)

    def _fresh(self, offset: int, limit: int) -> bytes:
        data = bytearray()
        for start, chunk in fresh_entries(self._range(f"({offset}-0", _ENTRIES)):
            position = offset + len(data)
            if start > position or len(data) >= limit:
                break
            data += chunk[position - start :][: limit - len(data)]
        return bytes(data)

    def _range(self, low: str, count: int) -> Any:
        try:
            return (self._client or server_redis()).xrange(
                self.log.redis_key, min=low, max="+", count=count
            )
        except redis.RedisError as error:
            logger.warning("fresh output of %s not readable: %s", self.log, error)
            return []

    def _stored_size(self) -> int:
        last = self._pieces.annotate(end=F("start") + F("size")).order_by("-end")
        return last.values_list("end", flat=True).first() or 0

    def _fresh_size(self) -> int:
        try:
            entries: Any = (self._client or server_redis()).xrevrange(self.log.redis_key, count=1)
        except redis.RedisError as error:
            logger.warning("fresh output of %s not readable: %s", self.log, error)
            return 0
        return max((start + len(data) for start, data in fresh_entries(entries)), default=0)


def fresh_entries(entries: Any) -> Iterator[tuple[int, bytes]]:
    """Stream entries as (start, bytes); the id says where the bytes end. What a node garbled is left out."""
    for entry_id, fields in entries:
        data = (fields or {}).get(b"d", b"")
        start = int(entry_id.partition(b"-")[0]) - len(data)
        if data and start >= 0:
            yield start, data


def _content(address: dict[str, Any], start: int, data: bytes) -> dict[str, Any]:
    """The columns that hold `data`; the key names the size, so that a longer piece is another object."""
    if len(data) <= INLINE_BYTES:
        return {"data": data, "key": ""}
    key = "logs/{job_id}/{attempt}.{rank}/{stream}".format(**address) + f"/{start}-{len(data)}"
    object_store().put(key, data)
    return {"data": None, "key": key}


def _placement(job: Job, rank: int) -> Placement | None:
    return Placement.objects.filter(
        attempt__job_id=job.pk, attempt__number=job.attempt, rank=rank
    ).first()


def _has_started(job: Job) -> bool:
    if job.started_at is not None:
        return True
    return Attempt.objects.filter(job=job, started_at__isnull=False).exists()


def _chunks(reader: LogReader, placement: Placement, offset: int) -> Iterator[bytes]:
    live = placement.live
    while True:
        data = reader.read(offset, live=live)
        if data:
            offset += len(data)
            yield data
        elif live and Placement.objects.filter(pk=placement.pk, live=False).exists():
            live = False  # it ended on the way: what was in Redis is stored by now
        elif live or (beyond := reader.after_gap(offset)) is None:
            return
        else:
            offset = beyond
