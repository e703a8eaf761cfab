"""Jobs that wait for a match, as the scheduler keeps them in memory: bounded heads, fair between owners.

Pure: no ORM, no clock. Holds, per (owner, shape), the best waiting jobs, `HEAD` to `2 * HEAD` of them; what lies
beyond stays in the database and is asked for when the head runs low (`wants_refill`). Work per job is O(log HEAD);
what is asked at each wake-up (shapes, length, refills, whose turn it is) is kept up to date rather than counted.
"""

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from prominence.bus import Queued

HEAD = 2000

QueueKey = tuple[int, str]
_Entry = tuple[int, int, str]  # (-priority, job, kind): the smallest goes first


@dataclass(slots=True)
class _Queue:
    """The head of one owner's jobs of one shape. `tail`: the database holds jobs behind this entry, or None."""

    heap: list[_Entry] = field(default_factory=list)
    known: set[int] = field(default_factory=set)
    tail: _Entry | None = None

    def add(self, job: Queued) -> None:
        entry = (-job.priority, job.job, job.kind)
        if job.job in self.known or (self.tail is not None and entry > self.tail):
            return
        heapq.heappush(self.heap, entry)
        self.known.add(job.job)
        if len(self.heap) > 2 * HEAD:
            self._cut()

    def _cut(self) -> None:
        self.heap = heapq.nsmallest(HEAD, self.heap)  # sorted, hence a heap
        self.known = {job for _, job, _ in self.heap}
        self.tail = self.heap[-1]


class Backlog:
    """All queues. Owners take turns; within an owner the highest priority, then the lowest id, goes first."""

    def __init__(self) -> None:
        self._owners: dict[int, dict[str, _Queue]] = {}
        self._turns: deque[int] = deque()
        self._length = 0
        self._holders: dict[
            str, set[int]
        ] = {}  # owners in whose queue of this shape something waits
        self._low: set[QueueKey] = set()

    def __len__(self) -> int:
        return self._length

    def _note(self, key: QueueKey, queue: _Queue, before: int) -> None:
        """Account for a queue whose head had `before` jobs; after every change of one."""
        owner, shape = key
        self._length += len(queue.heap) - before
        if queue.heap and not before:
            self._holders.setdefault(shape, set()).add(owner)
        elif before and not queue.heap:
            self._holders[shape].discard(owner)
            if not self._holders[shape]:
                del self._holders[shape]
        if queue.tail and len(queue.heap) < HEAD // 4:
            self._low.add(key)
        else:
            self._low.discard(key)

    def _queue(self, key: QueueKey) -> _Queue:
        owner, shape = key
        if owner not in self._owners:
            self._owners[owner] = {}
            self._turns.append(owner)
        return self._owners[owner].setdefault(shape, _Queue())

    def add(self, jobs: Iterable[Queued]) -> None:
        """Note waiting jobs; one that is known already stays once."""
        for job in jobs:
            key = (job.owner, job.shape)
            queue = self._queue(key)
            before = len(queue.heap)
            queue.add(job)
            self._note(key, queue, before)

    def refill(self, key: QueueKey, jobs: Sequence[Queued], *, more: bool) -> None:
        """Replace the head of one queue by what the database holds first; `more`: it holds more behind."""
        queue = self._queue(key)
        before = len(queue.heap)
        queue.heap, queue.known, queue.tail = [], set(), None
        for job in jobs:
            queue.add(job)
        if more and jobs:
            last = jobs[-1]
            queue.tail = (-last.priority, last.job, last.kind)
        self._note(key, queue, before)

    def wants_refill(self) -> list[QueueKey]:
        """Queues whose head ran low while the database holds more."""
        return list(self._low)

    def keys(self) -> list[QueueKey]:
        """Queues that anything in memory waits in."""
        return [(owner, shape) for shape, owners in self._holders.items() for owner in owners]

    def shapes(self) -> set[str]:
        """Shapes that anything in memory waits with."""
        return set(self._holders)

    def kinds_ahead(self, shapes: Iterable[str]) -> set[str]:
        """Kinds of the first job of each queue of these shapes."""
        return {
            self._owners[owner][shape].heap[0][2]
            for shape in shapes
            for owner in self._holders.get(shape, ())
        }

    def waiting(self, key: QueueKey) -> int:
        """How many jobs of one queue are in memory."""
        queue = self._owners.get(key[0], {}).get(key[1])
        return len(queue.heap) if queue else 0

    def turns(self, fits: set[str]) -> Iterator[Queued]:
        """Take jobs in fair order while their shape is in `fits`, which the caller shrinks as nodes fill up."""
        while any(shape in self._holders for shape in fits):
            owner = self._turns[0]
            self._turns.rotate(-1)
            if not any(owner in self._holders.get(shape, ()) for shape in fits):
                self._forget_empty(owner)
            elif job := self._best(owner, fits):
                yield job

    def _best(self, owner: int, fits: set[str]) -> Queued | None:
        """Pop the owner's best job with a fitting shape."""
        heads = [
            (queue.heap[0], shape)
            for shape, queue in self._owners[owner].items()
            if queue.heap and shape in fits
        ]
        return self.pop((owner, min(heads)[1])) if heads else None

    def _forget_empty(self, owner: int) -> None:
        """Drop the owner's queues that hold nothing at all, and the owner with the last of them."""
        queues = self._owners[owner]
        for shape in [s for s, queue in queues.items() if not queue.heap and queue.tail is None]:
            del queues[shape]
        if not queues:
            del self._owners[owner]
            self._turns.remove(owner)

    def pop(self, key: QueueKey) -> Queued:
        """Take the first job of a queue that is not empty."""
        owner, shape = key
        queue = self._owners[owner][shape]
        priority, job, kind = heapq.heappop(queue.heap)
        queue.known.discard(job)
        self._note(key, queue, len(queue.heap) + 1)
        return Queued(owner=owner, shape=shape, priority=-priority, job=job, kind=kind)

    def peek_kind(self, key: QueueKey) -> str:
        """Kind of the first job of a queue that is not empty."""
        return self._owners[key[0]][key[1]].heap[0][2]
