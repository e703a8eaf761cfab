"""Jobs that no machine could ever run (S99): they fail at once, unless they said that they would wait (S100, S101).

Owns which shapes are hopeless, judged against all known machines as if they were idle. While no machine is known at
all, nothing is judged: a system that starts has jobs before it has nodes. Costs nothing while every shape finds room,
and one query in `FRESH_S` else.
"""

import time
from collections.abc import Iterable

from clouds.machines import known_machines, need_of
from clouds.why import shortage
from jobs.models import Job
from jobs.shapes import parse_shape
from jobs.states import Reason
from jobs.transition import fail_queued

FRESH_S = 5.0
# No machine is known: when to look again.
LOOK_S = 1.0
BATCH = 500

QueueKey = tuple[int, str]


class Impossible:
    """Looks at what found no room; fails what never will, a batch at a time, so that others do not wait for it."""

    def __init__(self) -> None:
        self._possible: set[str] = set()
        self._doomed: dict[QueueKey, str] = {}
        self._judged = 0.0
        self._blind_until = 0.0

    @property
    def is_busy(self) -> bool:
        return bool(self._doomed)

    def judge(self, waiting: Iterable[QueueKey]) -> None:
        """Note which of these queues are hopeless."""
        now = time.monotonic()
        if now - self._judged > FRESH_S:
            self._possible.clear()
        unknown = [
            key
            for key in waiting
            if key not in self._doomed
            and key[1] not in self._possible
            and not parse_shape(key[1]).patient
        ]
        if not unknown or now < self._blind_until:
            return
        self._judged = now
        machines = known_machines()
        self._blind_until = 0.0 if machines else now + LOOK_S
        for key in unknown if machines else ():
            need = need_of(key[1])
            if any(machine.could_run(need) for machine in machines):
                self._possible.add(key[1])
            else:
                self._doomed[key] = shortage(need, machines)

    def fail_some(self) -> list[QueueKey]:
        """Fail one batch of hopeless jobs; returns the queue that has none left, if that is so."""
        if not self._doomed:
            return []
        (owner, shape), detail = key, _ = next(iter(self._doomed.items()))
        rows = Job.objects.filter(queued=True, owner_id=owner, shape=shape).order_by("pk")
        ids = list(rows.values_list("pk", flat=True)[:BATCH])
        fail_queued(ids, reason=Reason.NO_RESOURCES, detail=detail, actor="scheduler")
        if len(ids) == BATCH:
            return []
        del self._doomed[key]
        return [key]
