"""A thread that does one step after the other for the life of the process, whatever a step raises."""

import logging
import threading
import time

logger = logging.getLogger(__name__)

PAUSE_S = 1.0


class Loop(threading.Thread):
    """Subclasses define `step`."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)

    def run(self) -> None:
        while True:
            try:
                self.step()
            except Exception:  # the edge of a thread: without it the node would be deaf or dumb
                logger.exception("%s", self.name)
                time.sleep(PAUSE_S)

    def step(self) -> None:
        """One round; may block."""
        raise NotImplementedError
