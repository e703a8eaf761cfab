"""Admission on the node: CPUs, memory, disk and slots in use, first come first served.

The server decides what a node gets; this only keeps look-ahead work waiting until there is room.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from worker.protocol import Capacity, RunSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Resources of one slot."""

    cpus: int
    memory_mb: int
    disk_mb: int

    def __str__(self) -> str:
        return f"{self.cpus} CPUs, {self.memory_mb} MB of memory and {self.disk_mb} MB of disk"

    @classmethod
    def of(cls, specs: Sequence[RunSpec]) -> "Need":
        """What runs one after another needs at most."""
        return cls(
            cpus=max(spec.cpus for spec in specs),
            memory_mb=max(spec.memory_mb for spec in specs),
            disk_mb=max(spec.disk_mb for spec in specs),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A slot in use: its number decides its uid."""

    number: int
    need: Need


class TooLarge(Exception):
    """The node could never run it."""


class Admission:
    """Safe for many threads."""

    def __init__(self, capacity: Capacity, slots: int) -> None:
        self._capacity = Need(
            cpus=capacity.cpus, memory_mb=capacity.memory_mb, disk_mb=capacity.disk_mb
        )
        self._changed = threading.Condition()
        self._line: deque[object] = deque()
        self._free = list(range(slots - 1, -1, -1))
        self._used: dict[int, Need] = {}

    def enter(self, need: Need, *, wanted: Callable[[], bool]) -> Slot | None:
        """Wait for room; None when it is no longer `wanted`. Raises TooLarge."""
        if not _fits(need, self._capacity, []):
            raise TooLarge(f"it needs {need}; this node has {self._capacity}")
        ticket = object()
        with self._changed:
            self._line.append(ticket)
            try:
                while wanted():
                    if self._line[0] is ticket and self._has_room(need):
                        return self._take(self._free.pop(), need)
                    self._changed.wait(1.0)
                return None
            finally:
                self._line.remove(ticket)
                self._changed.notify_all()

    def adopt(self, number: int, need: Need) -> Slot:
        """After a restart: a job is in this slot already, whether it fits or not."""
        with self._changed:
            if number in self._free:
                self._free.remove(number)
            return self._take(number, need)

    def leave(self, slot: Slot) -> None:
        """Idempotent."""
        with self._changed:
            if self._used.pop(slot.number, None) is not None:
                self._free.append(slot.number)
            self._changed.notify_all()

    def look_again(self) -> None:
        """Somebody in line may not be wanted any more."""
        with self._changed:
            self._changed.notify_all()

    def _has_room(self, need: Need) -> bool:
        return bool(self._free) and _fits(need, self._capacity, list(self._used.values()))

    def _take(self, number: int, need: Need) -> Slot:
        self._used[number] = need
        return Slot(number=number, need=need)


def _fits(need: Need, capacity: Need, used: Sequence[Need]) -> bool:
    return (
        need.cpus + sum(u.cpus for u in used) <= capacity.cpus
        and need.memory_mb + sum(u.memory_mb for u in used) <= capacity.memory_mb
        and need.disk_mb + sum(u.disk_mb for u in used) <= capacity.disk_mb
    )
