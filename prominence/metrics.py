"""Numbers for Prometheus: counters of all server processes together, and gauges measured when asked.

Owns the counters' names and the hash in Redis that adds them up, so that one address tells about all processes; a loss
of Redis sets them to zero, which Prometheus expects of counters. Rooms register their gauges. Bounded work only.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import redis
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from prominence.bus import COUNTERS, server_redis
from prominence.health import LOOPS, failing_parts, lags

if TYPE_CHECKING:
    from redis.client import Pipeline

PREFIX = "prominence_"
KNOWN = {
    "matches": ("Jobs given to nodes.", ()),
    "attempts_ended": ("Attempts that ended, by reason.", ("reason",)),
    "leases_lost": ("Nodes given up because they were silent for their lease.", ()),
    "rescues": ("Work that went on only because somebody looked again: near 0 in health.", ("by",)),
}

Gauges = Callable[[], Iterable[Metric]]
_gauges: list[Gauges] = []
_lock = threading.Lock()
_counted: Counter[str] = Counter()


def on_gauges(measure: Gauges) -> None:
    """Register what is measured at each scrape."""
    _gauges.append(measure)


def count(name: str, amount: int = 1, label: str = "") -> None:
    """Add to a counter of KNOWN. In memory: call it after the commit of what is counted; `add_counts` passes it on."""
    if amount:
        with _lock:
            _counted[f"{name}|{label}"] += amount


def count_each(name: str, labels: Iterable[str]) -> None:
    """One for each of these labels."""
    for label, amount in Counter(labels).items():
        count(name, amount, label)


def add_counts(pipe: "Pipeline") -> None:
    """Put what was counted since the last time into a pipeline; what it loses is lost."""
    with _lock:
        counted = dict(_counted)
        _counted.clear()
    for field, amount in counted.items():
        pipe.hincrby(COUNTERS, field, amount)


def render() -> bytes:
    """All metrics as Prometheus reads them."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector())
    return generate_latest(registry)


class _Collector:
    """Measures when asked."""

    def collect(self) -> Iterator[Metric]:
        failing = {trouble.part for trouble in failing_parts()}
        yield gauge_by(
            "part_works",
            "1 if the part does its work, as /health says.",
            "part",
            {part: float(part not in failing) for part in ("database", "redis", *LOOPS)},
        )
        yield gauge_by("lag_seconds", "How long the oldest thing waits for a part.", "part", lags())
        yield from _counters()
        for measure in _gauges:
            yield from measure()

    def describe(self) -> list[Metric]:
        return []


def gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def gauge_by(name: str, text: str, label: str, values: dict[str, float]) -> Metric:
    """A gauge with one label."""
    family = GaugeMetricFamily(PREFIX + name, text, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


def _counters() -> Iterator[Metric]:
    families = {
        name: CounterMetricFamily(PREFIX + name, text, labels=labels)
        for name, (text, labels) in KNOWN.items()
    }
    for field, amount in _stored().items():
        name, _, label = field.decode().partition("|")
        if name in families:
            families[name].add_metric([label] if KNOWN[name][1] else [], float(amount))
    yield from families.values()


def _stored() -> dict[bytes, bytes]:
    """Of all processes, this one's included; nothing while Redis is away."""
    try:
        pipe = server_redis().pipeline(transaction=False)
        add_counts(pipe)
        pipe.hgetall(COUNTERS)
        return dict(pipe.execute()[-1])
    except redis.RedisError:
        return {}
