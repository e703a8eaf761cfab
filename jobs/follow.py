"""One hub per API process for everyone who follows a job: one blocking read of Redis, whatever their number.

Owns the asynchronous connection that waits for change notices and fresh output, the tails (the last bytes of followed
logs, kept in memory within a bound), and the few threads in which followers ask the database. Decides nothing about
what a follower is told; that is `jobs.story`. Nothing here is needed for correctness: with Redis gone, followers find
everything in the database, a few seconds later.

A follower has no queue. It has positions, and reads from them: from a tail when that still holds them, else from
storage. A slow client costs nothing but its position.
"""

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import msgspec
import redis
from django.db.models import Max

from jobs.database_threads import DatabaseThreads
from jobs.models import Event, Output
from jobs.output import fresh_entries
from prominence.bus import CHANGES, async_redis

logger = logging.getLogger(__name__)
T = TypeVar("T")

THREADS = 4
# How late a follower may be when every hint is lost.
CHECK_S = 3.0
BLOCK_S = 5.0
RECONNECT_S = (0.05, 0.2, 0.5, 1.0)
# Memory for the tails of all followed logs together, and at most for one.
TAILS_BYTES = 64 << 20
TAIL_BYTES = 256 << 10
# Stream entries in one answer of Redis, over all streams; an entry is 32 to 64 KB at most.
ENTRIES = 256
# The highest second half of an id: a node that writes `N-1` must not be read in a circle.
_LAST = 2**64 - 1


class Tail:
    """The last bytes of one log as Redis delivered them: a contiguous stretch [begin, end)."""

    def __init__(self, key: str, end: int) -> None:
        self.key = key
        self.begin = self.end = end
        self.followers: set[Follower] = set()
        self._chunks: deque[bytes] = deque()

    def feed(self, start: int, data: bytes, *, room: int) -> None:
        """Take the next entry; after a hole the stretch begins anew. Keeps `room` bytes, and one chunk at least."""
        end = start + len(data)
        if end <= self.end:
            return
        if start > self.end:
            self._chunks.clear()
            self.begin = start
        else:
            data = data[self.end - start :]
        self._chunks.append(data)
        self.end = end
        while len(self._chunks) > 1 and self.end - self.begin > room:
            self.begin += len(self._chunks.popleft())

    def read(self, offset: int, limit: int) -> bytes | None:
        """Bytes from `offset`, at most `limit`; empty: no more yet; None: they are not here, ask storage."""
        if offset < self.begin:
            return None
        data = bytearray()
        start = self.begin
        for chunk in self._chunks:
            if offset < start + len(chunk) and len(data) < limit:
                data += chunk[max(0, offset - start) :][: limit - len(data)]
            start += len(chunk)
        return bytes(data)


class Follower:
    """Someone who waits for news of one job. Used by one task, on the hub's loop."""

    def __init__(self, hub: "Hub", job_id: int) -> None:
        self.job_id = job_id
        self.known_event = 0
        # Something it waits for is not announced by anyone: it looks again at each check.
        self.impatient = False
        self.tails: dict[str, Tail] = {}
        self._hub = hub
        self._woken = asyncio.Event()
        self._changed = True

    async def wait(self, timeout_s: float) -> bool:
        """Until there may be something new; False when the time is over first."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()
        except TimeoutError:
            return False
        self._woken.clear()
        return True

    def take_changed(self) -> bool:
        """Is the database to be asked? Once per change."""
        changed, self._changed = self._changed, False
        return changed

    def wake(self, *, changed: bool) -> None:
        self._changed = self._changed or changed
        self._woken.set()

    def watch(self, key: str, position: int) -> Tail:
        """Have the stream `key` read from `position` on. What is there already is for the caller to read."""
        if key not in self.tails:
            self.tails[key] = self._hub.tail_for(self, key, position)
        return self.tails[key]

    def unwatch(self, key: str) -> None:
        if tail := self.tails.pop(key, None):
            self._hub.drop(self, tail)


class Hub:
    """See the module. Everything but what `in_thread` is given runs on one event loop."""

    def __init__(self, *, check_s: float = CHECK_S) -> None:
        self._check_s = check_s
        self._followers: dict[int, set[Follower]] = {}
        self._tails: dict[str, Tail] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.threads = DatabaseThreads(THREADS, name="follow")
        self._bell = f"s:bell:{uuid.uuid4().hex}"
        self._positions: dict[str, str] = {}
        self._client: redis.asyncio.Redis | None = None
        self._listening = asyncio.Event()
        self._blocked = False
        self._rings: set[asyncio.Task[None]] = set()
        self.closing = asyncio.Event()

    @asynccontextmanager
    async def follow(self, job_id: int) -> AsyncIterator[Follower]:
        """A follower of this job; from its first moment on, no change is missed."""
        follower = Follower(self, job_id)
        self._followers.setdefault(job_id, set()).add(follower)
        try:
            await self._listen()
            yield follower
        finally:
            for key in list(follower.tails):
                follower.unwatch(key)
            self._followers[job_id].discard(follower)
            if not self._followers[job_id]:
                del self._followers[job_id]

    async def in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """Run blocking database work; what it raises comes through."""
        return await self.threads.run(function, *args)

    def begin_closing(self) -> None:
        """Tell every follower to go; they see `closing` when they wake."""
        self.closing.set()
        self._wake(self._everyone(), changed=False)

    async def close(self) -> None:
        """End everything, also for followers that did not go."""
        self.begin_closing()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._rings, return_exceptions=True)
        self.threads.close()

    def tail_for(self, follower: Follower, key: str, position: int) -> Tail:
        tail = self._tails.get(key)
        if tail is None:
            tail = self._tails[key] = Tail(key, position)
            self._ring()
        tail.followers.add(follower)
        return tail

    def drop(self, follower: Follower, tail: Tail) -> None:
        tail.followers.discard(follower)
        if not tail.followers and self._tails.get(tail.key) is tail:
            del self._tails[tail.key]

    # -- the loop that listens

    async def _listen(self) -> None:
        """Start the loops if they do not run, and wait until no change can be missed (Redis gone: not for long)."""
        if not any(not task.done() for task in self._tasks):
            self._listening.clear()
            self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._check())]
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._listening.wait()

    async def _read(self) -> None:
        failures = 0
        self._client = client = async_redis()
        try:
            while True:
                try:
                    if failures:
                        await client.ping()
                        failures = 0
                        self._wake(self._everyone(), changed=True)  # hints were lost meanwhile
                    await self._read_once(client)
                except redis.ResponseError as error:
                    logger.warning("cannot read followed streams: %s", error)
                    await self._expel_foreign(client)
                except (redis.RedisError, OSError, TimeoutError) as error:
                    logger.warning("followers are without Redis: %s", error)
                    await client.connection_pool.disconnect()
                    await asyncio.sleep(RECONNECT_S[min(failures, len(RECONNECT_S) - 1)])
                    failures += 1
        finally:
            self._client = None
            self._positions.clear()
            await client.aclose()

    async def _read_once(self, client: "redis.asyncio.Redis") -> None:
        if not self._positions:
            last: Any = await client.xrevrange(CHANGES, count=1)
            self._positions = {CHANGES: last[0][0].decode() if last else "0-0", self._bell: "0-0"}
        self._listening.set()
        streams: dict[Any, Any] = dict(self._positions)
        streams |= {key: f"{tail.end}-{_LAST}" for key, tail in self._tails.items()}
        self._blocked = True
        try:
            async with asyncio.timeout(BLOCK_S + 5.0):  # a connection that is dead without a word
                answer: Any = await client.xread(
                    streams, count=max(2, ENTRIES // len(streams)), block=int(BLOCK_S * 1000)
                )
        finally:
            self._blocked = False
        for key, entries in answer.items() if isinstance(answer, dict) else answer:
            self._deliver(key.decode(), entries)

    def _deliver(self, key: str, entries: list[tuple[bytes, dict[bytes, bytes]]]) -> None:
        if key in self._positions:
            self._positions[key] = entries[-1][0].decode()
            if key == CHANGES:
                self._deliver_changes(fields for _, fields in entries)
        elif tail := self._tails.get(key):
            room = min(TAIL_BYTES, TAILS_BYTES // len(self._tails))
            for start, data in fresh_entries(entries):
                tail.feed(start, data, room=room)
            # An entry whose bytes are not usable must not be read for ever.
            tail_end = int(entries[-1][0].partition(b"-")[0])
            if tail.end < tail_end:
                tail.feed(tail_end, b"", room=room)
            self._wake(tail.followers, changed=False)

    def _deliver_changes(self, notices: Iterable[dict[bytes, bytes]]) -> None:
        for fields in notices:
            try:
                job_ids = msgspec.json.decode(fields.get(b"d", b""), type=list[int])
            except msgspec.MsgspecError:
                continue
            for job_id in job_ids:
                self._wake(self._followers.get(job_id, ()), changed=True)

    async def _expel_foreign(self, client: "redis.asyncio.Redis") -> None:
        """Stop reading keys that are no streams: a node can spoil its own keys, not others' following."""
        with suppress(redis.RedisError, OSError):
            for key in list(self._tails):
                if await client.type(key) not in {b"stream", b"none"}:
                    self._tails.pop(key, None)
        await asyncio.sleep(RECONNECT_S[0])

    def _ring(self) -> None:
        """Interrupt the blocking read, so that it takes the new stream in at once."""
        if self._blocked:
            self._blocked = False  # one ring is enough
            task = asyncio.create_task(self._ring_now())
            self._rings.add(task)
            task.add_done_callback(self._rings.discard)

    async def _ring_now(self) -> None:
        try:
            if self._client is not None:
                async with self._client.pipeline(transaction=False) as pipe:
                    pipe.xadd(self._bell, {"d": b""}, maxlen=1, approximate=False)
                    pipe.expire(self._bell, 3600)
                    await pipe.execute()
        except (redis.RedisError, OSError) as error:
            logger.warning("followers' doorbell: %s", error)

    # -- the loop that checks the database, for when hints are lost

    async def _check(self) -> None:
        older = newest = 0
        while True:
            try:
                # One interval back as well: ids become visible out of order.
                events, stored, last = await self.in_thread(_look, list(self._followers), older)
            except Exception:
                logger.exception("followers cannot ask the database")
            else:
                self._compare(events, stored if older else set())
                older, newest = newest, max(last, newest)
            await asyncio.sleep(self._check_s)

    def _compare(self, events: dict[int, int], stored: set[int]) -> None:
        """Wake whom no hint reached."""
        for follower in self._everyone():
            stale = events.get(follower.job_id, 0) != follower.known_event
            if stale or follower.impatient or follower.job_id in stored:
                follower.wake(changed=True)

    def _everyone(self) -> list[Follower]:
        return [follower for group in self._followers.values() for follower in group]

    def _wake(self, followers: Iterable[Follower], *, changed: bool) -> None:
        for follower in list(followers):
            follower.wake(changed=changed)


def _look(job_ids: list[int], after_piece: int) -> tuple[dict[int, int], set[int], int]:
    """The last event of each job, the jobs with output stored after piece `after_piece`, and the newest piece."""
    events = Event.objects.filter(job_id__in=job_ids).values_list("job_id").annotate(Max("pk"))
    stored = Output.objects.filter(job_id__in=job_ids, pk__gt=after_piece)
    return (
        dict(events.order_by()),
        set(stored.values_list("job_id", flat=True)),
        Output.objects.aggregate(last=Max("pk"))["last"] or 0,
    )
