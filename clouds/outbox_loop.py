"""The loop that handles due rows of the outbox, again and again until their effect removes them."""

import logging
from itertools import groupby

from django.conf import settings

from jobs import outbox
from prominence.bus import DUE
from prominence.streams import Doorbell

logger = logging.getLogger(__name__)

BATCH = 500


class OutboxLoop:
    """One step handles everything that is due, by topic."""

    name = "outbox"

    def __init__(self) -> None:
        self.idle_s = min(1.0, settings.CONFIG.republish_s / 2)
        self._bell = Doorbell(DUE)

    def start(self) -> None:
        self._bell.seek_end()

    def wait(self, timeout_s: float) -> None:
        self._bell.wait(timeout_s)

    def step(self) -> None:
        while rows := outbox.due(BATCH):
            # Postponed first: a handler that fails is tried again later, not at once and for ever.
            outbox.postpone(rows, seconds=settings.CONFIG.republish_s)
            rows.sort(key=lambda row: row.topic)
            for topic, mine in groupby(rows, key=lambda row: row.topic):
                handler = outbox.handler_of(topic)
                if handler is None:
                    logger.error("outbox: nobody handles topic %r", topic)
                else:
                    handler(list(mine))
