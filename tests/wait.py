"""Waiting for a condition without sleeping for a guessed time."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_S = 0.02


def wait_until(
    predicate: Callable[[], T], timeout: float = 30.0, dump: Callable[[], object] | None = None
) -> T:
    """Return the first true value of `predicate`; fail the test with `dump()` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while not (value := predicate()):
        if time.monotonic() > deadline:
            state = f"\n{dump()}" if dump else ""
            raise AssertionError(f"not within {timeout} s; last value: {value!r}{state}")
        pause.wait(POLL_S)
    return value
