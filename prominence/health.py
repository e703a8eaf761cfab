"""Does the system do its work? Asked by load balancers, clients and `GET /health` (C43).

Owns the list of parts and how each is probed, within a second or so. A loop is well when it has completed a step lately
(its beat, which expires) and when what it is there for does not lie about: rooms register such checks. Changes nothing,
and asks nothing that takes longer the more there is.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import redis
from django.conf import settings
from django.db import DatabaseError, connection
from redis.backoff import NoBackoff
from redis.retry import Retry

from prominence.bus import BEAT

logger = logging.getLogger(__name__)

LOOPS = ("scheduler", "ingest", "outbox", "reconciler", "workflows")
PROBE_TIMEOUT_S = 1.0

Lag = Callable[[], float]
_lags: dict[str, tuple[str, Lag]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """A part that does not work, and how one sees it."""

    part: str
    why: str

    def __str__(self) -> str:
        return f"{self.part}: {self.why}"


def on_lag(part: str, what: str, lag: Lag) -> None:
    """Register how long the oldest thing has been waiting for `part`, in seconds; 0 when nothing does.

    `what` begins a sentence that goes on with "… for N s". `lag` may raise errors of the database and of Redis.
    """
    _lags[part] = (what, lag)


def lags() -> dict[str, float]:
    """Seconds by part; parts whose lag cannot be measured are left out."""
    found = {}
    for part, (_, lag) in _lags.items():
        try:
            found[part] = lag()
        except (DatabaseError, redis.RedisError, OSError) as error:
            logger.warning("health: %s: %s", part, error)
    return found


def failing_parts() -> list[Trouble]:
    """What does not work, in a fixed order; empty when all is well."""
    failing = _silent()
    named = {trouble.part for trouble in failing}
    if named & {"database", "redis"}:
        return failing
    behind = lags()
    for part, (what, _) in _lags.items():
        seconds = behind.get(part, 0.0)
        if seconds > settings.CONFIG.stuck_s and part not in named:
            failing.append(Trouble(part=part, why=f"{what} for {seconds:.0f} s"))
    return failing


def _silent() -> list[Trouble]:
    """The database, Redis, and loops that have completed nothing for a while."""
    failing = []
    if not _database_answers():
        failing.append(Trouble(part="database", why="it does not answer"))
    try:
        client = _probe()
        beats = client.mget([f"{BEAT}{part}" for part in LOOPS])
    except (redis.RedisError, ValueError) as error:
        logger.warning("health: redis: %s", error)
        return [*failing, Trouble(part="redis", why="it does not answer")]
    why = f"it has completed no step for {settings.CONFIG.stuck_s:g} s"
    return failing + [
        Trouble(part=part, why=why) for part, beat in zip(LOOPS, beats, strict=True) if beat is None
    ]


def _database_answers() -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as error:
        logger.warning("health: database: %s", error)
        return False
    return True


@lru_cache(maxsize=4)
def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(
        url,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=PROBE_TIMEOUT_S,
        socket_connect_timeout=PROBE_TIMEOUT_S,
    )


def _probe() -> redis.Redis:
    """A client of its own: the shared one waits longer than a health check may."""
    return _client(settings.CONFIG.redis_url)
