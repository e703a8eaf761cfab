"""Is the system able to work? Asked by load balancers, clients and `GET /health` (C43).

Owns the list of parts and how each is probed, within a second or so. Changes nothing.
"""

import logging
from functools import lru_cache

import redis
from django.conf import settings
from django.db import DatabaseError, connection
from redis.backoff import NoBackoff
from redis.retry import Retry

from prominence.bus import BEAT

logger = logging.getLogger(__name__)

LOOPS = ("scheduler", "ingest")
PROBE_TIMEOUT_S = 1.0


def failing_parts() -> list[str]:
    """Names of the parts that do not work, in a fixed order; empty when all is well."""
    failing = [] if _database_answers() else ["database"]
    return failing + _failing_behind_redis()


def _database_answers() -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as error:
        logger.warning("health: database: %s", error)
        return False
    return True


def _failing_behind_redis() -> list[str]:
    """A loop is well when its beat, which expires, is there."""
    try:
        client = _probe()
        client.ping()
        return [part for part in LOOPS if not client.exists(f"{BEAT}{part}")]
    except (redis.RedisError, ValueError) as error:
        logger.warning("health: redis: %s", error)
        return ["redis", *LOOPS]


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
