"""The servers that the other tests stand on."""

import pytest
import redis
from django.db import connection
from redis.backoff import NoBackoff
from redis.retry import Retry

from prominence.bus import server_redis
from tests.servers import BACKEND, PRODUCTION, RedisServer


@pytest.mark.django_db
def test_the_database_is_the_back_end_under_test() -> None:
    assert connection.vendor == ("postgresql" if BACKEND == PRODUCTION else "sqlite")


def test_redis_is_the_one_of_the_settings_and_empty(redis_server: RedisServer) -> None:
    server_redis().set("key", "value")

    with redis_server.client() as client:
        assert client.keys() == [b"key"]
        redis_server.flush()
        assert client.keys() == []


def test_redis_refuses_the_default_user(redis_server: RedisServer) -> None:
    with (
        redis.Redis(port=redis_server.port, retry=Retry(NoBackoff(), 0)) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()
