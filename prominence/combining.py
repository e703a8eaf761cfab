"""Work that is cheaper together: calls that come at the same time from several threads are done in one go.

Like a database's group commit: nobody waits for others to come; who comes while a batch is being done goes with the
next. Knows nothing of what is done.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class _Call(Generic[T, R]):
    item: T
    result: list[R] | None = None
    error: BaseException | None = None

    @property
    def is_done(self) -> bool:
        return self.result is not None or self.error is not None


class Combiner(Generic[T, R]):
    """`do` takes up to `limit` items and returns as many results, or raises.

    After an error in `harmless` nothing has changed, and each item is tried alone; any other is everybody's in the
    batch.
    """

    def __init__(
        self,
        do: Callable[[Sequence[T]], Sequence[R]],
        *,
        limit: int,
        harmless: tuple[type[Exception], ...],
    ) -> None:
        self._do = do
        self._harmless = harmless
        self._limit = limit
        self._waiting: deque[_Call[T, R]] = deque()
        self._turn = threading.Lock()

    def __call__(self, item: T) -> R:
        """The result for this item. Blocks; any thread. Raises what `do` raises for it, alone or in its batch."""
        call: _Call[T, R] = _Call(item)
        self._waiting.append(call)
        with self._turn:
            while not call.is_done:  # more than once when there are more than `limit`
                self._serve()
        if call.result is None:
            assert call.error is not None  # noqa: S101 it is done
            raise call.error
        return call.result[0]

    def _serve(self) -> None:
        """Do the next batch. Only the thread whose turn it is takes from the queue."""
        batch = [self._waiting.popleft() for _ in range(min(self._limit, len(self._waiting)))]
        try:
            self._run(batch)
        except self._harmless as error:
            if len(batch) == 1:
                batch[0].error = error
            for call in batch if len(batch) > 1 else ():
                self._run_alone(call)
        except BaseException as error:  # noqa: BLE001 raised again in each one's own thread
            for call in batch:
                call.error = error

    def _run(self, batch: Sequence[_Call[T, R]]) -> None:
        results = self._do([call.item for call in batch])
        for call, result in zip(batch, results, strict=True):
            call.result = [result]

    def _run_alone(self, call: _Call[T, R]) -> None:
        try:
            self._run([call])
        except Exception as error:  # noqa: BLE001 raised again in its own thread
            call.error = error
