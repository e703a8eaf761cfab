"""The server's own corner of Redis: connections, wake-ups and change notices.

Owns the `s:` key space. Everything sent here is a hint: it may be lost, doubled or late, and then costs time only, so
every sender here swallows Redis errors (logged). Must not be called inside a transaction.
"""

import logging
from collections.abc import Iterable, Sequence
from functools import lru_cache

import msgspec
import redis
import redis.asyncio
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

logger = logging.getLogger(__name__)

WAKE = "s:wake"  # stream: {d: JSON list of Queued}; read by the scheduler
DUE = "s:due"  # stream: doorbell of the outbox loop
NODES = "s:nodes"  # stream: doorbell of ingest: the set of nodes changed
WORKFLOWS = "s:workflows"  # stream: doorbell of the workflows loop: something may be expanded
CHANGES = "s:changes"  # stream: {d: JSON list of job ids}; read by followers of jobs
EPOCH = "s:epoch"  # string: random; gone after a flush
COUNTERS = "s:counters"  # hash: name|label -> how often, since Redis was empty
BEAT = "s:beat:"  # string per part: last proof of work, expires
STREAM_LENGTH = 10_000
# A lost reply must not turn into a second, late try: hints are sent once, blocking reads stay below the timeout.
SOCKET_TIMEOUT_S = 10.0


class Queued(msgspec.Struct, frozen=True, array_like=True):
    """A job that waits for a match; the scheduler's key for it."""

    owner: int
    shape: str
    priority: int
    job: int
    kind: str = ""


@lru_cache(maxsize=1)
def server_redis() -> redis.Redis:
    """The process's connection pool as the `server` user. Thread-safe; made anew after a fork."""
    return redis.Redis.from_url(
        settings.CONFIG.redis_url,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=2.0,
    )


def async_redis() -> "redis.asyncio.Redis":
    """A new asynchronous client; the caller closes it."""
    return redis.asyncio.Redis.from_url(
        settings.CONFIG.redis_url, socket_timeout=None, socket_connect_timeout=2.0
    )


def announce_queued(jobs: Sequence[Queued]) -> None:
    """Wake the scheduler: these jobs wait for a match. Empty: capacity was freed."""
    _send(WAKE, msgspec.json.encode(jobs))


def announce_due() -> None:
    """Wake the outbox loop: a row is due now."""
    _send(DUE, b"[]")


def announce_nodes() -> None:
    """Wake ingest: a node enrolled or went."""
    _send(NODES, b"[]")


def announce_workflows() -> None:
    """Wake the workflows loop: a stage was released."""
    _send(WORKFLOWS, b"[]")


def announce_changes(job_ids: Iterable[int]) -> None:
    """Tell followers that something about these jobs changed; they ask the database what."""
    ids = list(job_ids)
    if ids:
        _send(CHANGES, msgspec.json.encode(ids))


def _send(stream: str, data: bytes) -> None:
    try:
        server_redis().xadd(stream, {"d": data}, maxlen=STREAM_LENGTH, approximate=True)
    except redis.RedisError as error:
        logger.warning("hint on %s not sent: %s", stream, error)
