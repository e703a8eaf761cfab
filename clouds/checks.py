"""What health and metrics ask of this room: how long nodes' words lie unread, and how many nodes there are."""

import threading
import time
from collections.abc import Iterable

from django.db.models import Count
from prometheus_client.core import Metric

from clouds.models import Incarnation
from clouds.states import ALIVE, IncarnationStatus
from prominence.bus import server_redis
from prominence.health import on_lag
from prominence.metrics import gauge_by, on_gauges
from worker.protocol import Keys, key_prefix

# One look at all nodes serves all who ask within this time: /health is open to everybody.
FRESH_S = 1.0


class IngestLag:
    """How long the oldest word of a living node has been lying in its stream."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._measured = 0.0
        self._lag_s = 0.0

    def __call__(self) -> float:
        with self._lock:
            if time.monotonic() - self._measured > FRESH_S:
                self._lag_s = _measure()
                self._measured = time.monotonic()
            return self._lag_s


def register() -> None:
    """Called when the app is ready."""
    on_lag("ingest", "the oldest word of a node has been unread", IngestLag())
    on_gauges(_gauges)


def _measure() -> float:
    """One round trip; the first entry of each stream, as ingest cuts them behind what it has applied."""
    pipe = server_redis().pipeline(transaction=False)
    for pk in Incarnation.objects.filter(status__in=ALIVE).values_list("pk", flat=True):
        pipe.xrange(Keys(key_prefix(pk)).up, count=1)
    pipe.time()
    *firsts, now = pipe.execute(raise_on_error=False)
    now_ms = now[0] * 1000 + now[1] // 1000
    ages: list[int] = [
        now_ms - int(first[0][0].split(b"-")[0]) for first in firsts if _holds(first)
    ]
    return max([0, *ages]) / 1000


def _holds(answer: object) -> bool:
    """An error is a node's own doing (a stream of another type): it says nothing about ingest."""
    return isinstance(answer, list) and bool(answer)


def _gauges() -> Iterable[Metric]:
    found = Incarnation.objects.exclude(status=IncarnationStatus.DEAD).order_by()
    counts = dict(found.values_list("status").annotate(number=Count("pk")))
    yield gauge_by(
        "nodes",
        "Nodes by status; dead ones are not counted.",
        "status",
        {
            status.value: float(counts.get(status.value, 0))
            for status in IncarnationStatus
            if status != IncarnationStatus.DEAD
        },
    )
