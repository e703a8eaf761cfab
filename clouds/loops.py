"""How the control plane's loops run: one holder each, woken by Redis, correct without it, showing that they work.

Owns leadership (an advisory lock on PostgreSQL, a file lock beside SQLite), the wake-up by a stream, and the beat that
health reads. A loop's work is its `step`; what to do is in scheduler, ingest, offers and reconciler.
"""

import fcntl
import logging
import threading
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

import redis
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import close_old_connections, connection

from prominence import metrics
from prominence.bus import BEAT, server_redis

logger = logging.getLogger(__name__)

# Between two rounds of a busy loop: what comes meanwhile shares the next one. A round costs as much as some ten of the
# things it handles, so the more there were, the longer the next round may gather.
GATHER_S = 0.01
GATHER_EACH_S = 0.002
GATHER_MAXIMUM_S = 0.1
# Between two proofs of work: a busy loop completes a hundred steps a second.
BEAT_S = 0.25
# After an error of the database or Redis: long enough not to spin, short enough not to be felt.
PAUSE_S = 0.5


class Step(Protocol):
    """A loop's work. `wait` blocks until there may be something to do, at most `timeout_s`; `step` does all of it."""

    name: str
    idle_s: float

    def start(self) -> None:
        """Called once when this process has become the holder: rebuild what is kept in memory."""

    def wait(self, timeout_s: float) -> None: ...

    def step(self) -> None: ...


class Leadership:
    """Being the only holder of a name, among all processes on this database, for as long as this thread's connection
    (PostgreSQL) or this process (SQLite) lives.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._key = zlib.crc32(f"prominence.{name}".encode())
        self._session: object = None
        self._file: IO[Any] | None = None

    def held(self) -> bool:
        """Try to be or to stay the holder; does not block."""
        if connection.vendor == "postgresql":
            return self._held_by_session()
        return self._held_by_file()

    def _held_by_session(self) -> bool:
        connection.ensure_connection()
        if self._session is connection.connection:
            return True
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", [self._key])
            got = bool(cursor.fetchone()[0])
        self._session = connection.connection if got else None
        return got

    def _held_by_file(self) -> bool:
        if self._file is not None:
            return True
        path = Path(settings.CONFIG.data) / "run" / f"{self._name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return False
        self._file = file
        return True


def gathering_s(count: int) -> float:
    """How long to gather after a round that handled `count` things."""
    return min(GATHER_S + count * GATHER_EACH_S, GATHER_MAXIMUM_S)


class Gathering:
    """The pause between two rounds; whoever was idle for that long does not wait at all."""

    def __init__(self) -> None:
        self._until = 0.0

    def handled(self, count: int) -> None:
        """A round that handled `count` things is over."""
        self._until = time.monotonic() + gathering_s(count)

    def wait(self) -> None:
        time.sleep(max(0.0, self._until - time.monotonic()))


@dataclass(slots=True)
class Loop:
    """Runs one Step until `stop` is set; errors of database and Redis are waited out, others end the process."""

    work: Step
    stop: threading.Event
    _leadership: Leadership = field(init=False)
    _leading: bool = field(init=False, default=False)
    _beaten: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self._leadership = Leadership(self.work.name)

    def run(self) -> None:
        while not self.stop.is_set():
            try:
                self._turn()
            except (DatabaseError, redis.RedisError, OSError) as error:
                logger.warning("%s: %s: %s", self.work.name, type(error).__name__, error)
                close_old_connections()
                self.stop.wait(PAUSE_S)

    def _turn(self) -> None:
        if not self._leadership.held():
            self._leading = False
            self.stop.wait(1.0)
        elif not self._leading:
            self.work.start()
            self._leading = True
            self.work.step()
        else:
            self.work.wait(self.work.idle_s)
            self.work.step()
            self._beat()

    def _beat(self) -> None:
        """A step was completed. Only now: a loop whose waiting or work fails has proved nothing."""
        now = time.monotonic()
        if now - self._beaten < BEAT_S:
            return
        self._beaten = now
        pipe = server_redis().pipeline(transaction=False)
        life_ms = int(settings.CONFIG.stuck_s * 1000)
        pipe.set(f"{BEAT}{self.work.name}", str(time.time()), px=life_ms)
        metrics.add_counts(pipe)
        pipe.execute()
