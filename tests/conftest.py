"""What all tests share: which back end they run on, its servers, and clean slates between tests.

PROMINENCE_TEST_BACKEND is `embedded` (SQLite and the bundled Valkey; the default) or `production` (PostgreSQL and
Redis). Settings are read when Django is first imported, so the addresses are chosen here; the servers start when a
test first asks for them.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import django
import pytest

from tests.servers import BACKEND, PRODUCTION, PostgresServer, RedisServer

_ROOM = Path(tempfile.mkdtemp(prefix="prominence-tests-"))
_ROOM.chmod(0o755)  # PostgreSQL and the jobs run as other users
_postgres = PostgresServer(_ROOM / "postgres")
_redis = RedisServer(_ROOM / "redis")

for _name in [name for name in os.environ if name.startswith("PROMINENCE_")]:
    del os.environ[_name]
os.environ |= {
    "DJANGO_SETTINGS_MODULE": "prominence.settings",
    "PROMINENCE_DATA": str(_ROOM / "data"),
    "PROMINENCE_REDIS_URL": _redis.url,
}
if BACKEND == PRODUCTION:
    os.environ["PROMINENCE_DATABASE_URL"] = _postgres.url()
django.setup()


def pytest_report_header() -> str:
    return f"back end: {BACKEND}"


def pytest_unconfigure() -> None:
    shutil.rmtree(_ROOM, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A running PostgreSQL; several databases can be made in it."""
    _postgres.start()
    yield _postgres
    _postgres.stop()


@pytest.fixture(scope="session")
def django_db_modify_db_settings(request: pytest.FixtureRequest) -> None:
    """Called by pytest-django before it makes the test database: the server has to run by then."""
    if BACKEND == PRODUCTION:
        request.getfixturevalue("postgres")


@pytest.fixture(scope="session")
def _redis_process() -> Iterator[RedisServer]:
    _redis.start()
    yield _redis
    _redis.stop()


@pytest.fixture
def redis_server(_redis_process: RedisServer) -> RedisServer:
    """The Redis that the settings name, empty."""
    _redis_process.flush()
    return _redis_process
