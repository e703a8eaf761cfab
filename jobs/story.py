"""What a follower of a job is told, in which order, and how it goes on after a break.

Owns the messages, their order and the cursor: a job's events by id; the output of an attempt before the event that ends
it; at the end `end`. Every message carries the cursor after it, so that a client which comes back with its last one
gets each event and each byte exactly once. Waiting and reading are the hub's and `jobs.output`'s.
"""

import base64
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from jobs.follow import Follower, Hub
from jobs.models import Event, Job, Placement, Stream
from jobs.output import Log, LogReader, log_of
from jobs.states import TERMINAL, JobStatus, Reason

MESSAGE_BYTES = 64 << 10
KEEP_ALIVE_S = 15.0
# How long after its attempt's end a log may still be on its way into storage, when nothing says that it is whole.
GRACE = timedelta(seconds=30)

_CURSOR = re.compile(r"(\d{1,18})\.(\d{1,9})((?:\.\d{1,18}c?\.\d{1,18}c?){0,4096})(\.end)?")


class BadCursor(ValueError):
    """Not an id of one of our messages."""


@dataclass(slots=True)
class Position:
    """Where a follower is in one log. `cut`: it was told that the log's end is missing."""

    offset: int = 0
    cut: bool = False

    def __str__(self) -> str:
        return f"{self.offset}c" if self.cut else str(self.offset)


@dataclass(slots=True)
class Cursor:
    """All that was told: events up to `event`, attempts before `attempt`, and of that one [0, offset) of each log."""

    event: int = 0
    attempt: int = 0
    positions: dict[tuple[int, str], Position] = field(default_factory=dict)
    ended: bool = False

    def __str__(self) -> str:
        ranks = max((rank for rank, _ in self.positions), default=-1) + 1
        words = [str(self.event), str(self.attempt)]
        words += [str(self.at(rank, stream)) for rank in range(ranks) for stream in Stream.values]
        return ".".join(words) + (".end" if self.ended else "")

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """The reverse of str(). Raises BadCursor."""
        match = _CURSOR.fullmatch(text)
        if match is None or not text.isascii():
            raise BadCursor(text)
        cursor = cls(event=int(match[1]), attempt=int(match[2]), ended=match[4] is not None)
        for index, word in enumerate(match[3].split(".")[1:]):
            position = Position(int(word.removesuffix("c")), word.endswith("c"))
            cursor.positions[index // 2, Stream.values[index % 2]] = position
        return cursor

    def at(self, rank: int, stream: str) -> Position:
        return self.positions.setdefault((rank, stream), Position())

    def enter(self, attempt: int) -> None:
        """Begin the output of this attempt; everything of earlier ones was told."""
        if attempt != self.attempt:
            self.attempt = attempt
            self.positions.clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One server-sent event. Without an event: a comment that keeps the connection open."""

    event: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    id: str = ""

    def encode(self) -> bytes:
        if not self.event:
            return b": keep-alive\n\n"
        data = json.dumps(self.data, ensure_ascii=False, separators=(",", ":"))
        for character, escape in _LINE_ENDS.items():
            data = data.replace(character, escape)
        return f"event: {self.event}\nid: {self.id}\ndata: {data}\n\n".encode()


# JSON allows these raw, and some clients take them for the end of a line.
_LINE_ENDS = {"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LogView:
    """A log as the database describes it. `size` is known when `complete` is; `over`: nothing more will be stored."""

    log: Log
    live: bool
    size: int
    complete: bool | None
    over: bool

    @property
    def stream(self) -> str:
        return self.log.stream

    def awaits(self, offset: int) -> bool:
        """Is there more to come after `offset`, although there is nothing now?"""
        return self.live or not (self.over or (self.complete is True and offset >= self.size))


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """A job at one moment: events after a given one, and its attempts' logs by attempt number."""

    status: str
    outcome: str
    events: list[dict[str, Any]]
    logs: dict[int, list[LogView]]
    places: dict[int, dict[str, str]]


_EVENT_COLUMNS = ("id", "attempt", "before", "after", "reason", "detail", "at")


def load_news(job_id: int, after_event: int) -> News | None:
    """Ask the database; None: there is no such job (any more)."""
    # The job first: if it has ended, its last event is there by the second query.
    job = Job.objects.filter(pk=job_id).values("status", "outcome").first()
    if job is None:
        return None
    rows = Event.objects.filter(job_id=job_id, pk__gt=after_event).order_by("pk")
    events = [dict(event) for event in rows.values(*_EVENT_COLUMNS)]
    if events and events[-1]["after"] in TERMINAL and job["status"] not in TERMINAL:
        # It ended between the two queries: what was just read must not wait for a notice that may be lost.
        job = Job.objects.filter(pk=job_id).values("status", "outcome").first() or job
    news = News(
        status=job["status"],
        outcome=job["outcome"],
        events=events,
        logs={},
        places={},
    )
    placements = Placement.objects.filter(attempt__job_id=job_id).select_related("attempt")
    now = timezone.now()
    for placement in placements.order_by("attempt__number", "rank"):
        number = placement.attempt.number
        news.places.setdefault(number, {"site": placement.site, "node": placement.node_name})
        news.logs.setdefault(number, []).extend(
            _view(placement, job_id, stream, now) for stream in Stream.values
        )
    return news


class Story:
    """One follower's telling of one job."""

    def __init__(self, hub: Hub, follower: Follower, cursor: Cursor, *, output: bool) -> None:
        self._hub = hub
        self._follower = follower
        self._cursor = cursor
        self._output = output
        self._news: News | None = None
        self._events: list[dict[str, Any]] = []
        self._drained: set[Log] = set()
        # Logs for which storage has to be asked before the tail is trusted; and those where it had nothing.
        self._unsure: set[str] = set()
        self._stuck: set[str] = set()

    async def messages(self) -> AsyncIterator[Message]:
        """Everything after the cursor, as it happens, up to `end`; stops early when the hub closes."""
        while not self._hub.closing.is_set():
            if self._follower.take_changed() and not await self._refresh():
                yield self._message("end", {"error": "Job does not exist"}, ended=True)
                return
            told, drained = False, len(self._drained)
            async for message in self._round():
                told = True
                yield message
            if told or len(self._drained) > drained:
                continue
            if self._is_over():
                yield self._message("end", self._end(), ended=True)
                return
            if not await self._follower.wait(KEEP_ALIVE_S):
                yield Message()

    async def _refresh(self) -> bool:
        news = await self._hub.in_thread(load_news, self._follower.job_id, self._cursor.event)
        if news is None:
            return False
        self._news = news
        self._events = news.events
        self._follower.known_event = news.events[-1]["id"] if news.events else self._cursor.event
        self._follower.impatient = False
        self._stuck.clear()
        for view in self._views():
            if view.live:
                self._unsure.add(view.log.redis_key)
            else:
                self._follower.unwatch(view.log.redis_key)
        return True

    async def _round(self) -> AsyncIterator[Message]:
        """The events that are due, then one chunk of each log of the attempt that is next."""
        while self._events and self._may_tell(self._events[0]):
            event = self._events.pop(0)
            self._cursor.event = event["id"]
            yield self._message("state", self._state(event))
        if not self._output:
            return
        for view in self._current_views():
            if message := await self._next_of(view):
                yield message

    def _may_tell(self, event: dict[str, Any]) -> bool:
        """The end of an attempt is told after its output."""
        if not self._output or event["before"] != JobStatus.RUNNING:
            return True
        return all(view.log in self._drained for view in self._views(upto=event["attempt"]))

    def _current_views(self) -> list[LogView]:
        """The logs of the first attempt that is not told to its end, unless an event has to come before it."""
        for view in self._views():
            if view.log in self._drained:
                continue
            number = view.log.attempt
            ends = [
                event["attempt"] for event in self._events if event["before"] == JobStatus.RUNNING
            ]
            if ends and number > ends[0]:
                return []
            self._cursor.enter(number)
            return [other for other in self._views(upto=number) if other.log not in self._drained]
        return []

    def _views(self, upto: int | None = None) -> list[LogView]:
        """Logs of the attempts from the cursor's on, in order."""
        logs = self._news.logs if self._news else {}
        return [
            view
            for number, views in logs.items()
            if number >= self._cursor.attempt and (upto is None or number <= upto)
            for view in views
        ]

    async def _next_of(self, view: LogView) -> Message | None:
        """The next message of a log, or None when there is none now; notes when it is told to its end."""
        position = self._cursor.at(view.log.rank, view.stream)
        if position.cut:
            self._drained.add(view.log)
            return None
        data = await self._bytes(view, position.offset)
        if view.live or len(data) == MESSAGE_BYTES:
            data = whole_characters(data)
        if data:
            offset, position.offset = position.offset, position.offset + len(data)
            return self._message(view.stream, _chunk(view.log, offset, data))
        if view.awaits(position.offset):
            self._follower.impatient = self._follower.impatient or not view.live
            return None
        return await self._end_of(view, position)

    async def _end_of(self, view: LogView, position: Position) -> Message | None:
        """Nothing follows at this position and nothing will: a hole, or the end, which may have been cut off."""
        hole = position.offset
        beyond = await self._hub.in_thread(LogReader(view.log).after_gap, position.offset)
        if beyond is not None:
            position.offset = beyond
        else:
            self._drained.add(view.log)
            if view.complete is not False and (view.complete is None or hole >= view.size):
                return None
            position.cut = True
        data = {"attempt": view.log.attempt, "node": view.log.rank, "offset": hole, "cut": True}
        return self._message(view.stream, data)

    async def _bytes(self, view: LogView, offset: int) -> bytes:
        """What is there at `offset`: from the tail if it holds that, else from storage."""
        if not view.live:
            return await self._read(view, offset)
        key = view.log.redis_key
        tail = self._follower.watch(key, offset)
        if key not in self._unsure:
            data = tail.read(offset, MESSAGE_BYTES)
            if data is not None:
                return data
        if key in self._stuck:
            return b""
        data = await self._read(view, offset)
        if len(data) < MESSAGE_BYTES:
            self._unsure.discard(key)
        if not data and tail.read(offset, 1) is None:
            self._stuck.add(
                key
            )  # a hole in Redis, until a piece is stored or the attempt has ended
            self._follower.impatient = True
        return data or tail.read(offset, MESSAGE_BYTES) or b""

    async def _read(self, view: LogView, offset: int) -> bytes:
        def read() -> bytes:
            return LogReader(view.log).read(offset, live=view.live, limit=MESSAGE_BYTES)

        return await self._hub.in_thread(read)

    def _is_over(self) -> bool:
        if self._news is None or self._events or self._news.status not in TERMINAL:
            return False
        return not self._output or all(view.log in self._drained for view in self._views())

    def _message(self, event: str, data: dict[str, Any], *, ended: bool = False) -> Message:
        self._cursor.ended = ended
        return Message(event=event, data=data, id=str(self._cursor))

    def _state(self, event: dict[str, Any]) -> dict[str, Any]:
        place = self._news.places.get(event["attempt"], {}) if self._news else {}
        return {
            "status": event["after"],
            "reason": str(Reason(event["reason"]).label),
            "attempt": event["attempt"],
            "at": event["at"].timestamp(),
            **place,
            **({"detail": event["detail"]} if event["detail"] else {}),
        }

    def _end(self) -> dict[str, Any]:
        assert self._news is not None  # noqa: S101 the job has ended, so it was looked at
        last = list(self._news.logs.values())[-1:]
        complete = {
            stream: all(
                view.complete is not False and not self._is_cut(view)
                for views in last
                for view in views
                if view.stream == stream
            )
            for stream in Stream.values
        }
        return {"status": self._news.status, "outcome": self._news.outcome, "complete": complete}

    def _is_cut(self, view: LogView) -> bool:
        return (
            self._cursor.attempt == view.log.attempt
            and self._cursor.at(view.log.rank, view.stream).cut
        )


def whole_characters(data: bytes) -> bytes:
    """`data` without the beginning of a UTF-8 character at its end, whose rest is still to come."""
    for length in range(1, min(3, len(data)) + 1):
        byte = data[-length]
        if byte & 0xC0 != 0x80:
            needed = 2 + (byte >= 0xE0) + (byte >= 0xF0) if 0xC2 <= byte <= 0xF4 else 1
            return data[:-length] if needed > length else data
    return data


def _chunk(log: Log, offset: int, data: bytes) -> dict[str, Any]:
    place = {"attempt": log.attempt, "node": log.rank, "offset": offset}
    try:
        return place | {"text": data.decode()}
    except UnicodeDecodeError:
        return place | {"base64": base64.b64encode(data).decode()}


def _view(placement: Placement, job_id: int, stream: str, now: datetime) -> LogView:
    attempt = placement.attempt
    is_stdout = stream == Stream.STDOUT
    complete = placement.stdout_complete if is_stdout else placement.stderr_complete
    nothing_more = complete is False or (complete is None and attempt.started_at is None)
    ended_long_ago = attempt.ended_at is not None and now - attempt.ended_at > GRACE
    return LogView(
        log=log_of(placement, job_id=job_id, attempt=attempt.number, stream=stream),
        live=placement.live,
        size=placement.stdout_size if is_stdout else placement.stderr_size,
        complete=complete,
        over=nothing_more or ended_long_ago,
    )
