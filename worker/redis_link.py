"""Connections to the node's own key space in Redis."""

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError
from redis.retry import Retry

CONNECT_TIMEOUT_S = 5.0
TIMEOUT_S = 10.0
"""Longer than any blocking read: see `ctl.BLOCK_MS`."""

REDIS_ERRORS = (redis.RedisError, OSError)
"""All that a command may raise when Redis is away, full or does not want us."""


def connect(url: str) -> redis.Redis:
    """A pool of connections that never repeats a command by itself: not every one may be."""
    client: redis.Redis = redis.Redis.from_url(
        url,
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=25,
    )
    return client


def refuses_us(error: BaseException) -> bool:
    """Whether Redis is there but does not know our user any more."""
    return isinstance(error, AuthenticationError | NoPermissionError)
