"""Bringing words to nodes: offers with their Celery messages, and control words.

Owns publication; must not be called inside a transaction. Everything here may be done twice without harm: the node
takes an offer once and keeps a journal. Rows of the outbox stay until their effect is seen (`jobs.transition`).
"""

import base64
import json
import logging
import uuid
from collections.abc import Iterable, Mapping, Sequence

import redis
from celery import Celery

from clouds.models import Incarnation
from clouds.states import ALIVE
from jobs import outbox
from jobs.models import Outbox, Placement
from jobs.reports import Opened
from jobs.states import AttemptStatus
from prominence import metrics
from prominence.bus import server_redis
from worker.protocol import (
    RUN_QUEUE,
    RUN_TASK,
    AttemptKey,
    Keys,
    Offer,
    Word,
    encode,
    key_prefix,
)

logger = logging.getLogger(__name__)

CTL_LENGTH = 1000
OFFER_LIFE_S = 86_400  # a published offer that nobody wants any more goes by itself
# Times an offer is due before the node is asked to give it up: about a minute.
UNCLAIMED_TRIES = 12

STREAMS = ("stdout", "stderr")

# Publishes only: consumers of these messages live on nodes (worker/), which register the one task.
app = Celery("prominence", set_as_current=False)
app.conf.update(
    task_serializer="json",
    accept_content=["json"],
    task_ignore_result=True,
    task_send_sent_event=False,
    task_create_missing_queues=True,
)


def publish(opened: Sequence[Opened]) -> None:
    """Set the offers and send one message per batch, in one round trip.

    Errors are logged, one node's do not touch another's; the outbox loop publishes again.
    """
    nodes: dict[int, dict[str, list[AttemptKey]]] = {}
    for attempt in opened:
        batches = nodes.setdefault(attempt.incarnation, {})
        batches.setdefault(attempt.batch, []).append(AttemptKey(attempt.job_id, attempt.attempt))
    pipe = server_redis().pipeline(transaction=False)
    for incarnation, batches in nodes.items():
        keys = Keys(key_prefix(incarnation))
        for name, batch in batches.items():
            for key in batch:
                pipe.set(keys.offer(key), encode(Offer(key=key)), ex=OFFER_LIFE_S)
            pipe.lpush(f"{keys.prefix}{RUN_QUEUE}", run_message(name, batch))
    try:
        answers = pipe.execute(raise_on_error=False)
    except redis.RedisError as error:
        logger.warning("offers not published: %s", error)
        return
    for answer in answers:
        if isinstance(answer, Exception):
            logger.warning("an offer was not taken: %s", answer)


def run_message(batch: str, keys: Sequence[AttemptKey]) -> bytes:
    """A Celery message (protocol 2) for RUN_TASK, in the form kombu's Redis transport keeps in its lists.

    Rendered here and pushed with the offers: a connection per node's key space would cost more than the message.
    """
    task_id = f"{batch}.{uuid.uuid4().hex}"
    kwargs = {"batch": batch, "keys": [[key.job, key.attempt, key.rank] for key in keys]}
    message = app.amqp.as_task_v2(task_id, RUN_TASK, args=(), kwargs=kwargs, ignore_result=True)
    body = base64.b64encode(json.dumps(message.body).encode()).decode()
    envelope = {
        "body": body,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": message.headers,
        "properties": {
            **message.properties,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": RUN_QUEUE},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": uuid.uuid4().hex,
        },
    }
    return json.dumps(envelope).encode()


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


def drop_output(incarnation: int, keys: Iterable[AttemptKey]) -> None:
    """Let Redis forget the output of attempts whose ends are committed: all that there is of it is stored by now.

    What an error leaves goes with the incarnation's key space.
    """
    names = Keys(key_prefix(incarnation))
    try:
        server_redis().unlink(*(names.out(key, stream) for key in keys for stream in STREAMS))
    except redis.RedisError as error:
        logger.warning("output of ended attempts not dropped: %s", error)


def handle_due_offers(rows: Sequence[Outbox]) -> None:
    """Outbox handler: offers nobody has claimed yet are published again, to nodes that may take them.

    One that a node does not take although it was offered again and again is withdrawn by the node's own word.
    """
    placements = _placements(rows, AttemptStatus.ASSIGNED)
    alive = _alive({p.incarnation for p in placements.values()})
    speaking = {key: p for key, p in placements.items() if p.incarnation in alive}
    stale = {row.key for row in rows if row.tries >= UNCLAIMED_TRIES}
    _stop([p for key, p in speaking.items() if key in stale])
    gone = _not_waiting([p for key, p in speaking.items() if key not in stale])
    metrics.count("rescues", len(gone), "offer")
    publish(gone)
    _settle_gone(outbox.OFFER, rows, placements)


def _not_waiting(placements: Sequence[Placement]) -> list[Opened]:
    """Those whose offer or message is gone: what still lies in the node's queue needs no second message."""
    pipe = server_redis().pipeline(transaction=False)
    for placement in placements:
        keys = Keys(key_prefix(placement.incarnation))
        pipe.exists(keys.offer(_key(placement)))
        pipe.llen(f"{keys.prefix}{RUN_QUEUE}")
    answers = iter(pipe.execute(raise_on_error=False))
    found = zip(answers, answers, strict=True)  # an error counts as gone
    return [
        Opened(
            job_id=placement.attempt.job_id,
            attempt=placement.attempt.number,
            incarnation=placement.incarnation,
            batch=placement.batch,
        )
        for placement, (offer, queue) in zip(placements, found, strict=True)
        if not (offer == 1 and isinstance(queue, int) and queue > 0)
    ]


def handle_due_stops(rows: Sequence[Outbox]) -> None:
    """Outbox handler: ask nodes to end attempts; the row goes when the end is reported."""
    placements = _placements(rows)
    alive = _alive({p.incarnation for p in placements.values()})
    _stop([p for p in placements.values() if p.incarnation in alive])
    _settle_gone(outbox.STOP, rows, placements)


def _stop(placements: Sequence[Placement]) -> None:
    stops: dict[int, list[AttemptKey]] = {}
    for placement in placements:
        stops.setdefault(placement.incarnation, []).append(_key(placement))
    tell({incarnation: Word(stop=tuple(keys)) for incarnation, keys in stops.items()})


def _key(placement: Placement) -> AttemptKey:
    return AttemptKey(placement.attempt.job_id, placement.attempt.number, placement.rank)


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


def _alive(incarnations: Iterable[int]) -> set[int]:
    """Those whose node may still listen: a fenced one has no Redis user any more."""
    rows = Incarnation.objects.filter(pk__in=incarnations, status__in=ALIVE)
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
