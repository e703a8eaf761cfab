"""Calls of several threads that are done together: each gets its own answer, and a bad one harms nobody else."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from prominence.combining import Combiner
from tests.wait import wait_until


class Work:
    """Doubles numbers; refuses any batch with a negative one; the first batch waits to be let go."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.begun.set()
        assert self.go_on.wait(30)
        if min(items) < 0:
            raise ValueError(items)
        if max(items) > 99:
            raise ConnectionError(items)
        return [2 * item for item in items]


def run(work: Work, items: Sequence[int], *, limit: int) -> list["Future[int]"]:
    """The first item alone, the others while it is being done."""
    combined = Combiner(work, limit=limit, harmless=(ValueError,))
    with ThreadPoolExecutor(len(items)) as threads:
        futures = [threads.submit(combined, items[0])]
        assert work.begun.wait(30)
        futures += [threads.submit(combined, item) for item in items[1:]]
        wait_until(lambda: len(combined._waiting) == len(items) - 1)
        work.go_on.set()
    return futures


def test_calls_that_come_meanwhile_are_done_together() -> None:
    work = Work()
    futures = run(work, [1, 2, 3, 4, 5, 6], limit=4)
    assert [future.result() for future in futures] == [2, 4, 6, 8, 10, 12]
    assert sorted(map(len, work.batches)) == [1, 1, 4]


def test_a_bad_one_fails_alone() -> None:
    work = Work()
    futures = run(work, [1, 2, -3, 4], limit=10)
    assert [future.result() for future in (futures[0], futures[1], futures[3])] == [2, 4, 8]
    with pytest.raises(ValueError):
        futures[2].result()


def test_an_error_after_which_nobody_knows_is_everybodys_and_nothing_is_tried_again() -> None:
    work = Work()
    futures = run(work, [1, 2, 100], limit=10)
    assert futures[0].result() == 2
    for future in futures[1:]:
        with pytest.raises(ConnectionError):
            future.result()
    assert len(work.batches) == 2
