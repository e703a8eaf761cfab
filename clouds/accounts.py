"""Redis users of nodes: each sees its own key space and can run only what a node needs.

Owns the ACL rules. A user is created from a password hash that the database keeps, so all can be made again after a
loss of Redis. Must not be called inside a transaction.
"""

import logging
from collections.abc import Iterable

import redis

from clouds.models import Incarnation
from clouds.states import ALIVE
from prominence import metrics
from prominence.bus import server_redis
from worker.protocol import key_prefix, redis_user

logger = logging.getLogger(__name__)

# Celery's Redis transport and the claim; on keys of other types only what streams need, so that a node cannot put a
# string in a stream's place and break one XREAD over many nodes. Selectors: Redis 7 or Valkey.
COMMANDS = (
    "+brpop +rpop +lpush +rpush +llen +zadd +zrem +zrange +zrevrangebyscore +hset +hget +hdel "
    "+sadd +srem +smembers +set +get +getdel +del +exists +expire +pexpire +evalsha +eval "
    "+script|load +multi +exec +watch +unwatch +discard +ping +select +auth +hello "
    "+client|setname +client|id +echo"
)
KEYS = "~{0}jobs* ~{0}offer:* ~{0}unacked* ~{0}_kombu*"
STREAMS = "(~{0}up ~{0}ctl ~{0}out:* +xadd +xread +xtrim +xrange +xrevrange +xlen)"
# Known to Redis from 7.2 on and to Valkey; an older server refuses a rule that names it.
NEWER_COMMANDS = " +client|setinfo"


def create_users(incarnations: Iterable[Incarnation]) -> None:
    """Make or renew the users of these incarnations. Idempotent. Raises redis.RedisError."""
    rows = list(incarnations)
    try:
        _set_users(rows, COMMANDS + NEWER_COMMANDS)
    except redis.ResponseError:
        _set_users(rows, COMMANDS)
    _save()


def _set_users(rows: Iterable[Incarnation], commands: str) -> None:
    pipe = server_redis().pipeline(transaction=False)
    for row in rows:
        prefix = key_prefix(row.pk)
        rules = (
            f"reset on #{row.redis_password_hash} -@all {KEYS.format(prefix)} {commands}".split()
        )
        pipe.execute_command("ACL", "SETUSER", redis_user(row.pk), *rules, STREAMS.format(prefix))
    pipe.execute()


def remove_users(incarnation_ids: Iterable[int]) -> None:
    """Take the users away and close their connections. Idempotent. Raises redis.RedisError."""
    pipe = server_redis().pipeline(transaction=False)
    for pk in incarnation_ids:
        pipe.execute_command("ACL", "DELUSER", redis_user(pk))
        pipe.execute_command("CLIENT", "KILL", "USER", redis_user(pk))
    pipe.execute(raise_on_error=False)
    _save()


def restore_missing_users() -> int:
    """After a Redis restart without its users: make again those of all living incarnations; returns how many."""
    present = {name.decode() for name in _user_names()}
    missing = [
        row
        for row in Incarnation.objects.filter(status__in=ALIVE)
        if redis_user(row.pk) not in present
    ]
    if missing:
        create_users(missing)
        logger.warning("made %d Redis users again", len(missing))
        metrics.count("rescues", len(missing), "user")
    return len(missing)


def _user_names() -> list[bytes]:
    names = server_redis().execute_command("ACL", "USERS")
    return [name if isinstance(name, bytes) else name.encode() for name in names]


def _save() -> None:
    """Keep users over a restart where Redis has an ACL file; without one they are restored from the database."""
    try:
        server_redis().execute_command("ACL", "SAVE")
    except redis.ResponseError:
        logger.debug("Redis keeps no ACL file")
