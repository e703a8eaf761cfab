"""What all tests share: which back end they run on, its servers, and clean slates between tests.

PROMINENCE_TEST_BACKEND is `embedded` (SQLite and the bundled Valkey; the default) or `production` (PostgreSQL and
Redis). Settings are read when Django is first imported, so the addresses are chosen here; the servers start when a
test first asks for them.
"""

import itertools
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import django
import hypothesis
import pytest
from hypothesis import settings as hypothesis_settings

from tests.servers import BACKEND, PRODUCTION, PostgresServer, RedisServer
from tests.stack import Stack
from worker.demo_registry import DemoRegistry

# How long an example takes says how busy the machine is.
hypothesis_settings.register_profile("unhurried", deadline=None)
hypothesis_settings.load_profile("unhurried")

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
(_ROOM / "data" / "static").mkdir(parents=True)  # WhiteNoise wants it to be there
django.setup()
hypothesis.settings.register_profile("busy machine", deadline=None)
hypothesis.settings.load_profile("busy machine")
signal.signal(signal.SIGTERM, signal.default_int_handler)  # end as with Ctrl-C: cleaned up
logging.getLogger("httpx").setLevel(logging.WARNING)  # a line per poll hides what matters


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


@pytest.fixture(scope="session")
def demo_registry() -> Iterator[DemoRegistry]:
    """A registry on loopback with the demonstration images; a mirror of docker.io."""
    with DemoRegistry(_ROOM / "registry") as registry:
        registry.push_demo_images()
        yield registry


StackMaker = Callable[..., Stack]


@pytest.fixture(scope="session")
def make_stack(request: pytest.FixtureRequest, demo_registry: DemoRegistry) -> StackMaker:
    """Make a stack that is not started yet: `with make_stack(nodes=2) as stack`."""
    numbers = itertools.count(1)
    postgres = request.getfixturevalue("postgres") if BACKEND == PRODUCTION else None

    def make(**options: Any) -> Stack:
        directory = _ROOM / f"stack{next(numbers)}"
        return Stack(directory, postgres=postgres, mirror=demo_registry.url, **options)

    return make


@pytest.fixture(scope="session")
def stack(make_stack: StackMaker) -> Iterator[Stack]:
    """A system shared by all tests of the session: for those that disturb nothing but their own jobs."""
    with make_stack() as shared:
        yield shared


@pytest.fixture
def fresh_stack(make_stack: StackMaker) -> Iterator[Stack]:
    """A system of one's own: for tests that kill its parts or look at all jobs."""
    with make_stack() as own:
        yield own


@pytest.fixture
def room() -> Iterator[Path]:
    """An empty directory that other users may traverse: pytest's own is closed to them."""
    path = Path(tempfile.mkdtemp(dir=_ROOM))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)
