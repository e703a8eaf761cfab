"""Brings what jobs print to the server: live through Redis, and for keeps over HTTPS.

The whole log is on the node's disk. Redis gets it as a stream whose entry ids are end offsets, the
first bytes at once, then every 50 ms at most; never more than a window that is not yet stored: before
that, the segment goes over HTTPS. At the end what is not stored is stored, or travels in the Ended event
when it is short.
"""

import contextlib
import logging
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, cast

from worker.api import ApiError, Refused, Unauthorized
from worker.complaints import Complaint
from worker.files import read_or_none, write_atomic
from worker.handover import STREAMS
from worker.inotify import Inotify
from worker.layout import JobDir
from worker.lines import Lines
from worker.loops import Loop
from worker.protocol import AttemptKey, LogEnd
from worker.redis_link import REDIS_ERRORS

logger = logging.getLogger(__name__)

EVERY_S = 0.05
CHUNK = 64 * 1024
ROUND_CHUNKS = 8
PIECE_BYTES = 4 << 20
TAIL_BYTES = 8 * 1024
RETRY_S = 1.0
MAX_RETRY_S = 10.0
UPLOADERS = 4


@dataclass(slots=True, eq=False)
class _Stream:
    key: AttemptKey
    name: str
    dir: JobDir
    stored: int
    sent: int
    due_at: float = 0.0
    dirty: bool = True
    upload: "Future[None] | None" = None
    refused: bool = False
    descriptor: int = -1

    def read(self, start: int, size: int) -> bytes:
        if self.descriptor < 0:
            try:
                self.descriptor = os.open(self.dir.log(self.name), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return b""
        return os.pread(self.descriptor, size, start)

    def size(self) -> int | None:
        try:
            return self.dir.log(self.name).stat().st_size
        except FileNotFoundError:
            return None

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


@dataclass(slots=True, eq=False)
class _Job:
    watch: int
    streams: dict[str, _Stream]
    lock: threading.Lock = field(default_factory=threading.Lock)


class OutputPump(Loop):
    """One thread for all jobs of the node; uploads have a few of their own."""

    def __init__(self, lines: Lines, *, window_bytes: int) -> None:
        super().__init__("output")
        self._client = lines.client
        self._keys = lines.keys
        self._api = lines.api
        self._window = window_bytes
        self._inotify = Inotify()
        self._lock = threading.Lock()
        self._jobs: dict[int, _Job] = {}
        self._watches: dict[AttemptKey, int] = {}
        self._uploaders = ThreadPoolExecutor(UPLOADERS, thread_name_prefix="upload")
        self._redis_down_until = 0.0
        self._complaint = Complaint(logger, "output not sent by Redis")

    def watch(self, key: AttemptKey, job_dir: JobDir, *, resume: bool = False) -> None:
        """Begin to follow a job's streams. `resume`: another worker did before; go on behind what Redis has."""
        streams = _streams(key, job_dir)
        if resume:
            for stream in streams.values():
                try:
                    stream.sent = max(stream.sent, self._last_entry(stream))
                except REDIS_ERRORS as error:
                    logger.warning("output of %s: Redis not asked: %s", key, error)
        with self._lock:
            number = self._inotify.add(job_dir.path)
            self._jobs[number] = _Job(watch=number, streams=streams)
            self._watches[key] = number
        self._inotify.ring()  # for what is there already

    def finish(
        self, key: AttemptKey, job_dir: JobDir, dropped: tuple[str, ...]
    ) -> tuple[LogEnd, LogEnd]:
        """Stop following, and see that all of both logs is covered. Blocks until it is."""
        job = self._forget(key)
        streams = _streams(key, job_dir) if job is None else job.streams
        ends = []
        for name in STREAMS:
            stream = streams[name]
            if stream.upload is not None:
                with contextlib.suppress(ApiError, OSError):
                    stream.upload.result()
            ends.append(self._close(stream, dropped=name in dropped))
        return ends[0], ends[1]

    def step(self) -> None:
        self._note(self._inotify.read(self._timeout_s()))
        now = time.monotonic()
        if now < self._redis_down_until:
            time.sleep(EVERY_S)
            return
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            with job.lock:
                self._pump(job, now)

    # ---- following

    def _forget(self, key: AttemptKey) -> _Job | None:
        with self._lock:
            job = self._jobs.pop(self._watches.pop(key, -1), None)
        if job is not None:
            self._inotify.remove(job.watch)
            with job.lock:  # the pump is not at it any more
                return job
        return None

    def _note(self, news: list[tuple[int, str]]) -> None:
        with self._lock:
            jobs = [(self._jobs.get(watch), name) for watch, name in news]
        for job, name in jobs:
            if job is None:
                continue
            if name in job.streams:
                job.streams[name].dirty = True

    def _timeout_s(self) -> float:
        """Until the next stream is due; half a second at most, as a net under lost news."""
        now = time.monotonic()
        with self._lock:
            due = [
                stream.due_at - now
                for job in self._jobs.values()
                for stream in job.streams.values()
                if stream.dirty and stream.upload is None and not stream.refused
            ]
        return max(0.0, min([*due, 0.5]))

    def _pump(self, job: _Job, now: float) -> None:
        for stream in job.streams.values():
            if stream.upload is not None and stream.upload.done():
                self._uploaded(stream, now)
            if stream.dirty and stream.due_at <= now and not stream.upload and not stream.refused:
                self._advance(stream, now)

    def _advance(self, stream: _Stream, now: float) -> None:
        room = self._window - (stream.sent - stream.stored)
        if room <= 0:
            stream.upload = self._uploaders.submit(self._upload, stream)
            return
        data = stream.read(stream.sent, min(room, CHUNK * ROUND_CHUNKS))
        stream.dirty = bool(data)
        if not data:
            return
        try:
            self._send(stream, data)
            self._complaint.over()
        except REDIS_ERRORS as error:
            self._complaint.say(error)
            self._redis_down_until = now + RETRY_S
        stream.due_at = now + (EVERY_S if len(data) < CHUNK * ROUND_CHUNKS else 0.0)

    def _send(self, stream: _Stream, data: bytes) -> None:
        """Append, unless Redis has lost what was appended before: then begin anew behind what is stored."""
        name = self._keys.out(stream.key, stream.name)
        pipe = self._client.pipeline(transaction=False)
        ends = []
        for start in range(0, len(data), CHUNK):
            piece = data[start : start + CHUNK]
            ends.append(stream.sent + start + len(piece))
            lost_before = stream.sent > stream.stored
            pipe.xadd(name, {"d": piece}, id=f"{ends[-1]}-0", nomkstream=lost_before)
        for end, answer in zip(ends, pipe.execute(raise_on_error=False), strict=True):
            if isinstance(answer, Exception) and "equal or smaller" not in str(answer):
                raise answer
            if answer is None:
                stream.sent = stream.stored
                return
            stream.sent = end

    def _last_entry(self, stream: _Stream) -> int:
        name = self._keys.out(stream.key, stream.name)
        last = stream.stored
        while entries := cast(Any, self._client.xrange(name, min=f"({last}-0", count=8)):
            last = int(entries[-1][0].partition(b"-")[0])
        return last

    # ---- storing

    def _upload(self, stream: _Stream) -> None:
        """Store [stored, sent), then let Redis drop it."""
        self._put(stream, stream.sent)
        with contextlib.suppress(*REDIS_ERRORS):
            self._client.xtrim(
                self._keys.out(stream.key, stream.name),
                minid=f"{stream.stored}-1",
                approximate=False,
            )

    def _uploaded(self, stream: _Stream, now: float) -> None:
        """Look at how an upload ended; failed ones are tried again later."""
        future, stream.upload = stream.upload, None
        error = future.exception() if future else None
        stream.dirty = True
        if isinstance(error, Refused):
            stream.refused = True
        if error is not None:
            logger.warning("log segment of %s not stored: %s", stream.key, error)
            stream.due_at = now + RETRY_S

    def _put(self, stream: _Stream, end: int) -> None:
        """Store up to `end`, piece by piece. Raises ApiError."""
        while stream.stored < end:
            data = stream.read(stream.stored, min(PIECE_BYTES, end - stream.stored))
            if not data:
                raise OSError(f"{stream.dir.log(stream.name)} is shorter than it was")
            self._api.put_log(stream.key, stream.name, stream.stored, data)
            stream.stored += len(data)
            self._save(stream)

    @staticmethod
    def _save(stream: _Stream) -> None:
        stored = str(stream.stored).encode()
        write_atomic(stream.dir.stored(stream.name), stored, durable=False)

    def _close(self, stream: _Stream, *, dropped: bool) -> LogEnd:
        size = stream.size()
        if size is None:
            # Nothing was ever written, unless the file was lost.
            return LogEnd(size=stream.stored, stored=stream.stored, complete=stream.stored == 0)
        try:
            if size - stream.stored > TAIL_BYTES:
                self._put_at_last(stream, size)
            tail = stream.read(stream.stored, min(size - stream.stored, TAIL_BYTES))
            whole = stream.stored + len(tail) == size
            return LogEnd(
                size=size, stored=stream.stored, tail=tail, complete=whole and not dropped
            )
        finally:
            stream.close()

    def _put_at_last(self, stream: _Stream, size: int) -> None:
        """Store the rest, however long the server is away; a dead attempt's log is given up."""
        pause_s = RETRY_S
        while stream.stored < size and not stream.refused:
            try:
                self._put(stream, size)
            except Refused as error:
                logger.warning("log of %s not wanted: %s", stream.key, error)
                stream.refused = True
            except (ApiError, OSError) as error:
                if isinstance(error, Unauthorized) and error.fenced:
                    return
                logger.warning("log of %s not stored yet: %s", stream.key, error)
                time.sleep(pause_s)
                pause_s = min(pause_s * 2, MAX_RETRY_S)


def is_brief(job_dir: JobDir) -> bool:
    """Whether both logs can travel with the word of the end: `finish` will not have to wait for anybody."""
    for name in STREAMS:
        with contextlib.suppress(FileNotFoundError):
            if job_dir.log(name).stat().st_size > TAIL_BYTES:
                return False
    return True


def _streams(key: AttemptKey, job_dir: JobDir) -> dict[str, _Stream]:
    streams = {}
    for name in STREAMS:
        start = int(read_or_none(job_dir.stored(name)) or 0)
        streams[name] = _Stream(key=key, name=name, dir=job_dir, stored=start, sent=start)
    return streams
