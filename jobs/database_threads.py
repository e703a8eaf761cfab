"""A few threads in which coroutines ask the database.

Owns threads and how long their connections live: a busy thread keeps its connection, an idle one closes it. So many
coroutines share few connections, and those that wait hold none.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from django.db import close_old_connections, connection

T = TypeVar("T")

LINGER_S = 0.5


class DatabaseThreads:
    """`count` threads, started with the first work."""

    def __init__(self, count: int, *, name: str) -> None:
        self._count = count
        self._name = name
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.threads: list[threading.Thread] = []

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call `function` in one of the threads; what it raises comes through.

        A caller that is cancelled does not wait; the call goes on.
        """
        self._start()
        future: Future[T] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                close_old_connections()
                future.set_result(function(*args))
            except BaseException as error:  # noqa: BLE001 it is the caller's
                future.set_exception(error)

        self._work.put(work)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Let the threads end after what is queued; does not wait."""
        for _ in self.threads:
            self._work.put(None)

    def _start(self) -> None:
        while len(self.threads) < self._count:
            name = f"{self._name}-{len(self.threads)}"
            # Daemons: a process that ends without close() must not wait for them.
            self.threads.append(threading.Thread(target=self._loop, name=name, daemon=True))
            self.threads[-1].start()

    def _loop(self) -> None:
        while (work := self._next()) is not None:
            work()
        connection.close()

    def _next(self) -> Callable[[], None] | None:
        try:
            return self._work.get(timeout=LINGER_S)
        except queue.Empty:
            connection.close()
        return self._work.get()
