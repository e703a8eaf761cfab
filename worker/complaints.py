"""Logging a trouble that lasts: when it begins, when it changes, and when it is over."""

import logging
import threading


class Complaint:
    """One kind of trouble. Safe for many threads."""

    def __init__(self, logger: logging.Logger, what: str) -> None:
        self._logger = logger
        self._what = what
        self._lock = threading.Lock()
        self._last = ""

    def say(self, error: object) -> None:
        """The trouble is there; logged unless it was the same the last time."""
        with self._lock:
            if str(error) != self._last:
                self._last = str(error)
                self._logger.warning("%s: %s", self._what, error)

    def over(self) -> None:
        """It works; logged if it did not."""
        with self._lock:
            if self._last:
                self._last = ""
                self._logger.info("%s: no longer", self._what)
