"""Effects that must follow a commit. A row is removed by its effect; an overdue row is handled again.

Owns the table's use: `put` inside a transaction, `settle` when the effect is seen, `due` and `postpone` for the loop
that handles rows. Handlers are registered by topic by the room that can bring the effect about.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta

from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Now

from jobs.bulk import insert_rows
from jobs.models import Outbox

OFFER = "offer"  # key: job.attempt.rank      effect: the node claimed it, or the attempt ended
STOP = "stop"  # key: job.attempt.rank       effect: the attempt ended
OBJECTS = "objects"  # key: a digest          effect: the objects that it names are removed
CHUNK_STARTED = "chunkStarted"  # key: chunk   effect: its workflow is seen running
CHUNK_ENDED = "chunkEnded"  # key: chunk     effect: it is counted in its stage
NOTIFY = "notify"  # key: job.number  effect: the message was taken; handled by jobs.notifier alone

Handler = Callable[[Sequence[Outbox]], None]
_handlers: dict[str, Handler] = {}


def on_topic(topic: str, handler: Handler) -> None:
    """Register who handles due rows of `topic`: called outside transactions, with a batch; may be called again."""
    _handlers[topic] = handler


def handler_of(topic: str) -> Handler | None:
    return _handlers.get(topic)


def put(topic: str, rows: Mapping[str, dict[str, object]], *, due_in_s: float = 0.0) -> None:
    """Insert rows {key: payload}; a key that is there already stays as it is. Call inside a transaction.

    due_in_s: how long the caller's own prompt handling may take before the loop does it.
    """
    insert_rows(
        Outbox,
        ["topic", "key", "payload"],
        [(topic, key, payload) for key, payload in rows.items()],
        later_s=due_in_s,
        ignore_conflicts=True,
    )


def settle(topic: str, keys: Iterable[str]) -> None:
    """The effect of these rows was seen. In a transaction; rows are locked in one order, so loops cannot deadlock."""
    wanted = Outbox.objects.filter(topic=topic, key__in=list(keys))
    with transaction.atomic(savepoint=False):
        locked = wanted.select_for_update().order_by("pk").values_list("pk", flat=True)
        Outbox.objects.filter(pk__in=list(locked)).delete()


def due(limit: int) -> list[Outbox]:
    """Rows whose time has come, oldest first; messages to users are not waited for here."""
    due = Outbox.objects.filter(due_at__lte=Now()).exclude(topic=NOTIFY)
    return list(due.order_by("due_at")[:limit])


def postpone(rows: Sequence[Outbox], *, seconds: float) -> None:
    """Handled now; look again in `seconds` if the effect has not come by then."""
    ids = [row.pk for row in rows]
    with transaction.atomic():
        free = Outbox.objects.filter(pk__in=ids).order_by("pk")
        if connection.features.has_select_for_update_skip_locked:
            free = free.select_for_update(skip_locked=True)  # a locked one is being settled
        Outbox.objects.filter(pk__in=list(free.values_list("pk", flat=True))).update(
            due_at=Now() + timedelta(seconds=seconds), tries=F("tries") + 1
        )


def all_due_now() -> None:
    """After a loss of Redis: whatever was published is to be published again."""
    with transaction.atomic():
        published = Outbox.objects.exclude(topic=NOTIFY)
        locked = published.select_for_update().order_by("pk").values_list("pk", flat=True)
        for _ in locked.iterator(chunk_size=2000):
            pass
        published.update(due_at=Now())
