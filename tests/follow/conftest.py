"""An API server in a thread of the test's process, on the test's database and Redis."""

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from django.contrib.auth.models import User

from jobs.follow import Hub
from prominence.asgi import Application
from prominence.auth import forget_users
from prominence.tokens import issue_token
from tests.follow.scene import Scene
from tests.follow.viewer import Viewer
from tests.servers import RedisServer
from tests.wait import wait_until

CHECK_S = 0.3


class ApiThread:
    """The ASGI application under uvicorn."""

    def __init__(self) -> None:
        self.application = Application()
        self.application.events.hub = Hub(check_s=CHECK_S)
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.site = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            self.application, log_config=None, lifespan="on", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        await self._server.serve(sockets=[self._socket])

    def start(self) -> None:
        self._thread.start()
        wait_until(lambda: self._server.started)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        # Threads that end close their database connections.
        self.application._django.executor.shutdown()
        for thread in self.application.events.hub.threads.threads:
            thread.join(10)


@pytest.fixture
def owner(transactional_db: None, redis_server: RedisServer) -> User:
    forget_users()
    return User.objects.create(username="alice")


@pytest.fixture
def scene(owner: User) -> Scene:
    return Scene(owner)


@pytest.fixture
def api(transactional_db: None, redis_server: RedisServer) -> Iterator[ApiThread]:
    thread = ApiThread()
    thread.start()
    yield thread
    thread.stop()
    forget_users()


@pytest.fixture
def viewer(api: ApiThread, owner: User) -> Viewer:
    return Viewer(api.site, issue_token(owner.username, valid_s=3600))
