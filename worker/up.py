"""What the node says: events from the outbox, and heartbeats, by Redis or else by HTTPS.

Events stay in the journal until the server acknowledges them; `sent` only remembers how far they were
given to Redis, which may forget them. The answer to a heartbeat shows whether it did.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from worker.api import ApiError, Unauthorized
from worker.complaints import Complaint
from worker.files import boottime
from worker.journal import Journal
from worker.lines import Lines
from worker.loops import Loop
from worker.protocol import Claimed, Event, Heartbeat, Up, Word, encode
from worker.redis_link import REDIS_ERRORS, refuses_us

logger = logging.getLogger(__name__)

BATCH_EVENTS = 500
BATCH_BYTES = 512 * 1024
STREAM_ENTRIES = 10_000
"""Bound of the up-stream while nobody reads it; what it loses is sent again."""

RETRY_S = 1.0
LINGER_S, LINGER_EACH_S, LINGER_MAXIMUM_S = 0.005, 0.001, 0.03
"""Pause after each batch, in which the next one gathers: the longer the more there were."""

CLAIM_PATIENCE_S = 0.05
"""Nobody waits for the word that an offer was claimed: it may travel with the start that follows."""

SILENT_BEATS = 2.2
"""Heartbeats without an answer by Redis before HTTPS is tried."""


@dataclass(frozen=True, slots=True)
class Beat:
    """A heartbeat that waits for its answer."""

    sent_at: float
    last_seq: int


class Uplink:
    """How far events and heartbeats have got. Shared by the threads below and `ctl.Words`."""

    def __init__(self, journal: Journal) -> None:
        self._lock = threading.Lock()
        self._beats: dict[int, Beat] = {}
        # Counts up over restarts of the worker too, so that no old answer fits a new heartbeat.
        self._number = int(boottime() * 1000)
        self.sent = journal.acknowledged
        self.answered_at = boottime()
        self.wake = threading.Event()
        self.wake.set()

    def advance(self, before: int, after: int) -> None:
        """Events up to `after` were sent, unless somebody rewound meanwhile."""
        with self._lock:
            if self.sent == before:
                self.sent = after

    def rewind(self, acknowledged: int) -> None:
        """Send again from there."""
        with self._lock:
            self.sent = min(self.sent, acknowledged)
        self.wake.set()

    def new_beat(self, last_seq: int | None = None) -> int:
        """Number a heartbeat that is about to be sent."""
        with self._lock:
            self._number += 1
            last = self.sent if last_seq is None else last_seq
            self._beats[self._number] = Beat(sent_at=boottime(), last_seq=last)
            return self._number

    def last_seq(self, number: int) -> int:
        return self._beats[number].last_seq

    def answer(self, number: int) -> Beat | None:
        """The heartbeat that is answered; it and older ones need no other answer."""
        with self._lock:
            beat = self._beats.get(number)
            self._beats = {n: b for n, b in self._beats.items() if n > number}
            return beat


class EventSender(Loop):
    """Sends new events by Redis as they come."""

    def __init__(self, lines: Lines, uplink: Uplink) -> None:
        super().__init__("events")
        self._complaint = Complaint(logger, "events not sent by Redis")
        self._uplink = uplink
        self._journal = lines.journal
        self._client = lines.client
        self._stream = lines.keys.up

    def step(self) -> None:
        self._uplink.wake.wait()
        self._uplink.wake.clear()
        try:
            while count := self._send():
                time.sleep(min(LINGER_S + count * LINGER_EACH_S, LINGER_MAXIMUM_S))
        except REDIS_ERRORS as error:
            self._complaint.say(error)
            threading.Event().wait(RETRY_S)
            self._uplink.wake.set()

    def _send(self) -> int:
        """Send what there is, up to a batch; returns how many events."""
        before = self._uplink.sent
        events = self._after(before)
        if not events:
            return 0
        if all(isinstance(event, Claimed) for event in events):
            self._uplink.wake.wait(CLAIM_PATIENCE_S)
            events = self._after(before) or events
        data = encode(Up(events=tuple(events)))
        self._client.xadd(self._stream, {"d": data}, maxlen=STREAM_ENTRIES, approximate=True)
        self._complaint.over()
        self._uplink.advance(before, events[-1].seq)
        return len(events)

    def _after(self, sent: int) -> list[Event]:
        return self._journal.events_after(sent, max_count=BATCH_EVENTS, max_bytes=BATCH_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """What every heartbeat says, and how often."""

    boot: str
    every_s: float
    data: Path  # whose file system's free space is told


class Heart(Loop):
    """Beats by Redis; when that fails or is not answered, by HTTPS, events included."""

    def __init__(
        self,
        lines: Lines,
        uplink: Uplink,
        pulse: Pulse,
        *,
        on_word: Callable[[Word], None],
        on_unauthorized: Callable[[Unauthorized, bool], None],
    ) -> None:
        super().__init__("heart")
        self._uplink = uplink
        self._journal = lines.journal
        self._client = lines.client
        self._stream = lines.keys.up
        self._api = lines.api
        self._pulse = pulse
        self._refused = False
        self._no_redis = Complaint(logger, "heartbeats not sent by Redis")
        self._no_https = Complaint(logger, "heartbeats not answered by HTTPS")
        self._on_word = on_word
        self._on_unauthorized = on_unauthorized
        self._pause = threading.Event()

    def step(self) -> None:
        begin = boottime()
        refused = not self._beat_by_redis()
        silent_s = boottime() - self._uplink.answered_at
        if refused or silent_s > SILENT_BEATS * self._pulse.every_s:
            self._beat_by_https(redis_refused=self._refused)
        self._pause.wait(max(0.0, self._pulse.every_s - (boottime() - begin)))

    def _beat_by_redis(self) -> bool:
        up = Up(heartbeat=self._heartbeat())
        try:
            self._client.xadd(
                self._stream, {"d": encode(up)}, maxlen=STREAM_ENTRIES, approximate=True
            )
        except REDIS_ERRORS as error:
            self._no_redis.say(error)
            self._refused = refuses_us(error)
            return False
        self._refused = False
        self._no_redis.over()
        return True

    def _beat_by_https(self, *, redis_refused: bool) -> None:
        try:
            while self._exchange():
                pass
        except Unauthorized as error:
            self._on_unauthorized(error, redis_refused)
        except ApiError as error:
            self._no_https.say(error)

    def _exchange(self) -> bool:
        """One round over HTTPS; True while it moved events and there are more."""
        acknowledged = self._journal.acknowledged
        events = self._journal.events_after(
            acknowledged, max_count=BATCH_EVENTS, max_bytes=BATCH_BYTES
        )
        last = events[-1].seq if events else acknowledged
        word = self._api.heartbeat(Up(events=tuple(events), heartbeat=self._heartbeat(last)))
        self._no_https.over()
        self._on_word(word)
        return acknowledged < self._journal.acknowledged < self._journal.last_seq

    def _heartbeat(self, last_seq: int | None = None) -> Heartbeat:
        number = self._uplink.new_beat(last_seq)
        return Heartbeat(
            number=number,
            boot=self._pulse.boot,
            # After last_seq: what the server knows from events up to there must not be missing here, or it
            # takes an attempt that was claimed in between for lost, and stops it.
            held=self._journal.held(),
            last_seq=self._uplink.last_seq(number),
            disk_free_mb=free_mb(self._pulse.data),
        )


def free_mb(path: Path) -> int:
    """What is left for us on the file system of `path`."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize >> 20
