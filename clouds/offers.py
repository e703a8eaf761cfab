"""Bringing words to nodes: offers with their Celery messages, and control words.

Owns publication; must not be called inside a transaction. Everything here may be done twice without harm: the node
takes an offer once and keeps a journal. Rows of the outbox stay until their effect is seen (`jobs.transition`).
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from threading import Lock

import redis
from celery import Celery
from django.conf import settings
from kombu.connection import Connection

from clouds.models import Incarnation
from clouds.states import IncarnationStatus
from jobs import outbox
from jobs.models import Outbox, Placement
from jobs.reports import Opened
from jobs.states import AttemptStatus
from prominence.bus import server_redis
from worker.protocol import (
    RUN_QUEUE,
    RUN_TASK,
    AttemptKey,
    Keys,
    Offer,
    RunMessage,
    Word,
    encode,
    key_prefix,
)

logger = logging.getLogger(__name__)

CTL_LENGTH = 1000
# Connections to the key spaces of the nodes most recently spoken to.
CONNECTIONS = 256

# Publishes only: consumers of these messages live on nodes (worker/), which register the one task.
app = Celery("prominence", set_as_current=False)
app.conf.update(
    task_serializer="json",
    accept_content=["json"],
    task_ignore_result=True,
    task_send_sent_event=False,
    task_create_missing_queues=True,
)


class _Senders:
    """One kombu connection per key space, the least recently used closed first."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._connections: OrderedDict[int, Connection] = OrderedDict()

    def connection(self, incarnation: int) -> Connection:
        with self._lock:
            found = self._connections.pop(incarnation, None)
            if found is None:
                found = Connection(
                    settings.CONFIG.redis_url,
                    transport_options={
                        "global_keyprefix": key_prefix(incarnation),
                        "priority_steps": [0],
                        "socket_timeout": 10,
                        "socket_connect_timeout": 2,
                    },
                )
            self._connections[incarnation] = found
            if len(self._connections) > CONNECTIONS:
                _, oldest = self._connections.popitem(last=False)
                oldest.release()
            return found

    def drop(self, incarnation: int) -> None:
        with self._lock:
            found = self._connections.pop(incarnation, None)
        if found is not None:
            found.release()


_senders = _Senders()


def publish(opened: Sequence[Opened]) -> None:
    """Set the offers and send one message per batch. Errors are logged: the outbox loop publishes again."""
    nodes: dict[int, dict[str, list[AttemptKey]]] = {}
    for attempt in opened:
        batches = nodes.setdefault(attempt.incarnation, {})
        batches.setdefault(attempt.batch, []).append(AttemptKey(attempt.job_id, attempt.attempt))
    for incarnation, batches in nodes.items():
        try:
            _publish_to(incarnation, batches)
        except (redis.RedisError, OSError) as error:
            _senders.drop(incarnation)
            logger.warning("offers to %s not published: %s", key_prefix(incarnation), error)


def _publish_to(incarnation: int, batches: Mapping[str, Sequence[AttemptKey]]) -> None:
    keys = Keys(key_prefix(incarnation))
    offers = {
        keys.offer(key): encode(Offer(key=key)) for batch in batches.values() for key in batch
    }
    server_redis().mset(offers)
    connection = _senders.connection(incarnation)
    for name, batch in batches.items():
        message = RunMessage(batch=name, keys=tuple(batch))
        app.send_task(
            RUN_TASK,
            kwargs={"batch": message.batch, "keys": [[k.job, k.attempt, k.rank] for k in batch]},
            queue=RUN_QUEUE,
            connection=connection,
            task_id=f"{name}.{time.monotonic_ns():x}",
            ignore_result=True,
            retry=False,
        )


def tell(words: Mapping[int, Word]) -> None:
    """Send control words, one entry a node. Lost ones are said again with the next heartbeat."""
    if not words:
        return
    pipe = server_redis().pipeline(transaction=False)
    for incarnation, word in words.items():
        pipe.xadd(
            Keys(key_prefix(incarnation)).ctl,
            {"d": encode(word)},
            maxlen=CTL_LENGTH,
            approximate=True,
        )
    try:
        pipe.execute(raise_on_error=False)
    except redis.RedisError as error:
        logger.warning("control words not sent: %s", error)


def handle_due_offers(rows: Sequence[Outbox]) -> None:
    """Outbox handler: offers nobody has claimed yet are published again, to nodes that may still take them."""
    placements = _placements(rows, AttemptStatus.ASSIGNED)
    alive = _speaking({p.incarnation for p in placements.values()})
    publish(
        [
            Opened(
                job_id=p.attempt.job_id,
                attempt=p.attempt.number,
                incarnation=p.incarnation,
                batch=p.batch,
            )
            for p in placements.values()
            if p.incarnation in alive
        ]
    )
    _settle_gone(outbox.OFFER, rows, placements)


def handle_due_stops(rows: Sequence[Outbox]) -> None:
    """Outbox handler: ask nodes to end attempts; the row goes when the end is reported."""
    placements = _placements(rows)
    alive = _speaking({p.incarnation for p in placements.values()})
    stops: dict[int, list[AttemptKey]] = {}
    for placement in placements.values():
        if placement.incarnation in alive:
            key = AttemptKey(placement.attempt.job_id, placement.attempt.number, placement.rank)
            stops.setdefault(placement.incarnation, []).append(key)
    tell({incarnation: Word(stop=tuple(keys)) for incarnation, keys in stops.items()})
    _settle_gone(outbox.STOP, rows, placements)


def _placements(
    rows: Iterable[Outbox], status: AttemptStatus | None = None
) -> dict[str, Placement]:
    """Live placements by outbox key. One query."""
    keys = [AttemptKey.parse(row.key) for row in rows]
    found = Placement.objects.filter(
        attempt__job__in={key.job for key in keys}, live=True
    ).select_related("attempt")
    if status is not None:
        found = found.filter(attempt__status=status)
    wanted = {str(key) for key in keys}
    by_key = {f"{p.attempt.job_id}.{p.attempt.number}.{p.rank}": p for p in found}
    return {key: placement for key, placement in by_key.items() if key in wanted}


def _speaking(incarnations: Iterable[int]) -> set[int]:
    """Those whose node may still be listening: everything but dead ones."""
    rows = Incarnation.objects.filter(pk__in=incarnations).exclude(status=IncarnationStatus.DEAD)
    return set(rows.values_list("pk", flat=True))


def _settle_gone(topic: str, rows: Sequence[Outbox], live: Mapping[str, Placement]) -> None:
    """Rows whose attempt is over or already past this step need nothing any more."""
    gone = [row.key for row in rows if row.key not in live]
    if gone:
        outbox.settle(topic, gone)


def register() -> None:
    """Called when the app is ready."""
    outbox.on_topic(outbox.OFFER, handle_due_offers)
    outbox.on_topic(outbox.STOP, handle_due_stops)
