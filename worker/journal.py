"""What this incarnation took on, what became of it, and what the server has not yet acknowledged.

One SQLite database per incarnation. The primary key is the O_EXCL of the protocol: who inserts an
attempt owns it, and entries stay as long as the incarnation, or for a million events (`KEPT_SEQ`). An
entry that ends and its Ended event are one transaction. Sequence numbers count from 1 without gaps.
Every change of an entry is a compare-and-set, so of two threads that want different ends for an attempt
one finds itself too late.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from worker.files import boottime
from worker.protocol import AttemptKey, Claimed, Ended, EndReason, Event, Held

SCHEMA = """
CREATE TABLE IF NOT EXISTS attempts (
    key TEXT PRIMARY KEY, state TEXT NOT NULL, ended_seq INTEGER, closed INTEGER NOT NULL DEFAULT 0,
    told INTEGER
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS attempts_open ON attempts (ended_seq) WHERE closed = 0;
CREATE INDEX IF NOT EXISTS attempts_closed ON attempts (ended_seq) WHERE closed = 1;
CREATE TABLE IF NOT EXISTS outbox (seq INTEGER PRIMARY KEY, at REAL NOT NULL, event BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO counters VALUES ('last', 0), ('acknowledged', 0);
"""


class State(StrEnum):
    """Of an entry, in order."""

    ENTERED = "entered"
    CLAIMED = "claimed"
    RUNNING = "running"
    ENDED = "ended"


KEPT_SEQ = 1_000_000
"""How many events back an acknowledged end is remembered: about 100 MB. A message that is later still (its sender stood
still meanwhile) meets the server's refusal to give out what has ended."""

PRUNED_AT_ONCE = 1000

LIVE = (State.ENTERED, State.CLAIMED, State.RUNNING)
WAITING = (State.ENTERED, State.CLAIMED)

_PRUNE = (
    "DELETE FROM attempts WHERE key IN (SELECT key FROM attempts "
    "WHERE closed = 1 AND ended_seq <= ? ORDER BY ended_seq LIMIT ?)"
)
_event_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
Work = Callable[[sqlite3.Connection], Any]


class _Ticket:
    """A change that waits for the next commit."""

    __slots__ = ("done", "error", "value", "work")

    def __init__(self, work: Work) -> None:
        self.work = work
        self.done = False
        self.value: Any = None
        self.error: Exception | None = None


class Journal:
    """Safe for many threads; changes that arrive together share one commit. Raises sqlite3.Error."""

    def __init__(
        self,
        path: Path,
        *,
        on_event: Callable[[], None] = lambda: None,
        kept_seq: int = KEPT_SEQ,
    ) -> None:
        self._kept_seq = kept_seq
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        # Written to the kernel at each commit, which outlives this process; to the disk now and then. A machine that
        # loses its memory is a new incarnation, with a new journal.
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(SCHEMA)
        self._commit_lock = threading.Lock()
        self._queue_lock = threading.Lock()
        self._queue: list[_Ticket] = []
        self._begun: set[AttemptKey] = set()
        self._last = 0
        self._acknowledged = 0
        self.on_event = on_event
        self._load_counters()

    # ---- entries

    def enter(self, keys: Iterable[AttemptKey]) -> list[AttemptKey]:
        """Those that were not in the journal before and now are."""

        def work(db: sqlite3.Connection) -> list[AttemptKey]:
            return [key for key in dict.fromkeys(keys) if self._insert(db, key, State.ENTERED)]

        return list(self._write(work))

    def claim(
        self, granted: Iterable[AttemptKey], refused: Iterable[AttemptKey], detail: str
    ) -> list[AttemptKey]:
        """Record the outcome of a claim; returns those that are still wanted."""

        def work(db: sqlite3.Connection) -> list[AttemptKey]:
            claimed = [k for k in granted if self._move(db, k, (State.ENTERED,), State.CLAIMED)]
            for key in claimed:
                self._append(db, Claimed(seq=0, key=key))
            for key in refused:
                if self._move(db, key, (State.ENTERED,), State.ENDED):
                    self._append_end(db, never_started(key, detail))
            return claimed

        return list(self._write(work))

    def begin(self, key: AttemptKey) -> bool:
        """Take a claimed attempt for starting; False when something else ended it first."""
        with self._commit_lock:
            if self._state(self._db, key) is not State.CLAIMED or key in self._begun:
                return False
            self._begun.add(key)
            return True

    def adopt(self, key: AttemptKey) -> int | None:
        """After a restart: a shim runs it already. Returns how many of its tasks' ends are reported,
        None when not even its start is."""
        with self._commit_lock:
            self._begun.add(key)
            row = self._db.execute(
                "SELECT told FROM attempts WHERE key = ?", (str(key),)
            ).fetchone()
        return row[0] if row else None

    def report(self, key: AttemptKey, events: Sequence[Event], *, told: int) -> bool:
        """Append events of a begun attempt; False, and nothing appended, when it has ended.

        `told`: how many of its tasks' ends are reported by now.
        """

        def work(db: sqlite3.Connection) -> bool:
            if not self._move(db, key, (State.CLAIMED, State.RUNNING), State.RUNNING):
                return False
            for event in events:
                self._append(db, event)
            db.execute("UPDATE attempts SET told = ? WHERE key = ?", (told, str(key)))
            return True

        return bool(self._write(work))

    def end(self, ended: Ended, *, before: Sequence[Event] = ()) -> bool:
        """End an entry of any live state, by whoever began it, with what has to be said before."""
        return self.end_all([(ended, before)]) == 1

    def end_all(self, ends: Sequence[tuple[Ended, Sequence[Event]]]) -> int:
        """The same for several in one commit; returns how many were not over before."""

        def work(db: sqlite3.Connection) -> int:
            done = 0
            for ended, before in ends:
                if self._move(db, ended.key, LIVE, State.ENDED):
                    done += 1
                    for event in before:
                        self._append(db, event)
                    self._append_end(db, ended)
            return done

        done = int(self._write(work))
        self._begun.difference_update(ended.key for ended, _ in ends)
        return done

    def give_up(self, key: AttemptKey, detail: str) -> bool:
        """End an entry that nobody has begun as never started; False when it is too late for that."""

        def work(db: sqlite3.Connection) -> bool:
            if key in self._begun or not self._move(db, key, WAITING, State.ENDED):
                return False
            self._append_end(db, never_started(key, detail))
            return True

        return bool(self._write(work))

    def void(self, key: AttemptKey, detail: str) -> bool:
        """Enter an unknown attempt as ended, so that it can never start; False when it was known."""

        def work(db: sqlite3.Connection) -> bool:
            if not self._insert(db, key, State.ENDED):
                return False
            self._append_end(db, never_started(key, detail))
            return True

        return bool(self._write(work))

    def state(self, key: AttemptKey) -> State | None:
        """None when the attempt is not in the journal."""
        with self._commit_lock:
            return self._state(self._db, key)

    def live(self) -> list[AttemptKey]:
        """Entries that have not ended."""
        with self._commit_lock:
            rows = self._db.execute(
                "SELECT key FROM attempts WHERE closed = 0 AND ended_seq IS NULL"
            ).fetchall()
        return sorted(AttemptKey.parse(text) for (text,) in rows)

    def held(self) -> tuple[Held, ...]:
        """The snapshot: every entry whose end is not acknowledged."""
        with self._commit_lock:
            rows = self._db.execute("SELECT key, state FROM attempts WHERE closed = 0").fetchall()
            begun = set(self._begun)
        return tuple(_held(AttemptKey.parse(text), State(state), begun) for text, state in rows)

    # ---- events

    @property
    def last_seq(self) -> int:
        return self._last

    @property
    def acknowledged(self) -> int:
        return self._acknowledged

    def events_after(self, seq: int, *, max_count: int, max_bytes: int) -> list[Event]:
        """The next unacknowledged events in order, with how long ago each happened filled in."""
        with self._commit_lock:
            rows = self._db.execute(
                "SELECT seq, at, event FROM outbox WHERE seq > ? ORDER BY seq LIMIT ?",
                (seq, max_count),
            ).fetchall()
        events: list[Event] = []
        size, now = 0, boottime()
        for number, at, data in rows:
            size += len(data)
            if events and size > max_bytes:
                break
            events.append(_numbered(_event_decoder.decode(data), number, now - at))
        return events

    def acknowledge(self, seq: int) -> list[AttemptKey]:
        """Drop events up to `seq`; returns the attempts whose end is now known to the server."""
        if seq <= self._acknowledged or seq > self._last:
            return []

        def work(db: sqlite3.Connection) -> list[AttemptKey]:
            rows = db.execute(
                "SELECT key FROM attempts WHERE closed = 0 AND ended_seq <= ?", (seq,)
            ).fetchall()
            db.execute("UPDATE attempts SET closed = 1 WHERE closed = 0 AND ended_seq <= ?", (seq,))
            db.execute("DELETE FROM outbox WHERE seq <= ?", (seq,))
            db.execute(_PRUNE, (seq - self._kept_seq, PRUNED_AT_ONCE))
            self._acknowledged = max(self._acknowledged, seq)
            return [AttemptKey.parse(text) for (text,) in rows]

        return list(self._write(work))

    def close(self) -> None:
        with self._commit_lock:
            self._db.close()

    # ---- inside

    def _write(self, work: Work) -> Any:
        ticket = _Ticket(work)
        with self._queue_lock:
            self._queue.append(ticket)
        with self._commit_lock:
            if not ticket.done:
                self._commit()
        if ticket.error is not None:
            raise ticket.error
        return ticket.value

    def _commit(self) -> None:
        with self._queue_lock:
            tickets, self._queue = self._queue, []
        last = self._last
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for ticket in tickets:
                ticket.value = ticket.work(self._db)
            self._save_counters()
            self._db.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - every waiting thread must hear of it
            self._roll_back()
            for ticket in tickets:
                ticket.error = error
        for ticket in tickets:
            ticket.done = True
        if self._last > last:
            self.on_event()

    def _roll_back(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        self._load_counters()

    def _load_counters(self) -> None:
        values = dict(self._db.execute("SELECT name, value FROM counters").fetchall())
        self._last = values["last"]
        self._acknowledged = values["acknowledged"]

    def _save_counters(self) -> None:
        self._db.execute("UPDATE counters SET value = ? WHERE name = 'last'", (self._last,))
        self._db.execute(
            "UPDATE counters SET value = ? WHERE name = 'acknowledged'", (self._acknowledged,)
        )

    @staticmethod
    def _insert(db: sqlite3.Connection, key: AttemptKey, state: State) -> bool:
        return (
            db.execute(
                "INSERT OR IGNORE INTO attempts (key, state) VALUES (?, ?)", (str(key), state)
            ).rowcount
            == 1
        )

    @staticmethod
    def _state(db: sqlite3.Connection, key: AttemptKey) -> State | None:
        row = db.execute("SELECT state FROM attempts WHERE key = ?", (str(key),)).fetchone()
        return State(row[0]) if row else None

    def _move(
        self, db: sqlite3.Connection, key: AttemptKey, sources: Sequence[State], to: State
    ) -> bool:
        """Compare and set."""
        marks = ", ".join("?" * len(sources))
        done = db.execute(
            f"UPDATE attempts SET state = ? WHERE key = ? AND state IN ({marks})",  # noqa: S608 only marks
            (to, str(key), *sources),
        )
        return done.rowcount == 1

    def _append(self, db: sqlite3.Connection, event: Event) -> int:
        self._last += 1
        db.execute(
            "INSERT INTO outbox VALUES (?, ?, ?)",
            (self._last, boottime(), msgspec.json.encode(event)),
        )
        return self._last

    def _append_end(self, db: sqlite3.Connection, ended: Ended) -> None:
        seq = self._append(db, ended)
        db.execute("UPDATE attempts SET ended_seq = ? WHERE key = ?", (seq, str(ended.key)))


def never_started(key: AttemptKey, detail: str) -> Ended:
    """The word that no process of this attempt ever ran here, nor will."""
    return Ended(seq=0, key=key, reason=EndReason.NEVER_STARTED, detail=detail)


def _held(key: AttemptKey, state: State, begun: set[AttemptKey]) -> Held:
    if state is State.ENDED:
        return Held(key, "ended")
    return Held(key, "running" if state is State.RUNNING or key in begun else "claimed")


def _numbered(event: Event, seq: int, ago_s: float) -> Event:
    changes: dict[str, Any] = {"seq": seq}
    if hasattr(event, "ago_s"):
        changes["ago_s"] = event.ago_s + max(0.0, ago_s)
    return msgspec.structs.replace(event, **changes)
