"""The node's lines to the server, and the book it keeps about them."""

from dataclasses import dataclass

import redis

from worker.api import NodeApi
from worker.journal import Journal
from worker.protocol import Keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """Redis for what is quick, HTTPS for what is secret, large, or cannot go by Redis now."""

    client: redis.Redis
    keys: Keys
    api: NodeApi
    journal: Journal
