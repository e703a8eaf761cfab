"""The end of an incarnation: fencing, salvage, burial.

Owns the statuses `fenced` and `dead`. Order for a silent node: fence (committed, then its Redis user goes), wait one
more lease, store what its streams still hold, and only then declare its attempts over, so that they are offered anew.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import chain, islice

import redis
from django.db import transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from clouds import accounts, ingest
from clouds.ingest_loop import read_ups
from clouds.models import Incarnation, Node
from clouds.states import ALIVE, IncarnationStatus
from jobs.models import Placement, Stream
from jobs.output import store_piece, stored_end
from jobs.reports import EndReport, LogFacts
from jobs.states import Reason
from jobs.transition import apply_reports
from prominence import metrics
from prominence.bus import server_redis
from prominence.streams import walk_stream
from worker.protocol import AttemptKey, Keys, key_prefix

logger = logging.getLogger(__name__)

PAGE = 256
# A moment in the database is when its statement began; what waited for a lock took effect a little later.
MARGIN = 1.1


def fence_silent() -> list[int]:
    """Fence incarnations not heard of for their lease; returns those fenced now.

    Committed first, then their Redis users are taken away. The caller makes sure that ingest has read all this time.
    """
    fenced = []
    for silent in _overdue("heard_at", status__in=ALIVE):
        fenced += [
            pk
            for pk in list(silent.values_list("pk", flat=True))
            if silent.filter(pk=pk).update(status=IncarnationStatus.FENCED, fenced_at=Now())
        ]
    if fenced:
        logger.warning("incarnations %s are silent for their lease: fenced", fenced)
        metrics.count("leases_lost", len(fenced))
        accounts.remove_users(fenced)
    return fenced


def bury_fenced() -> list[int]:
    """Incarnations fenced for a whole lease are dead: their node has ended everything by itself."""
    buried = []
    for row in chain(*_overdue("fenced_at", status=IncarnationStatus.FENCED)):
        salvage(row)
        with transaction.atomic():
            _bury(_lock([row.pk]), detail="the node was silent for its lease")
        buried.append(row.pk)
    return buried


def _overdue(moment: str, **state: object) -> list[QuerySet[Incarnation]]:
    """Incarnations in this state whose own lease has passed since `moment`: a set for each lease ever given."""
    rows = Incarnation.objects.filter(**state)
    return [
        rows.filter(
            lease_s=lease_s, **{f"{moment}__lt": Now() - timedelta(seconds=MARGIN * lease_s)}
        )
        for lease_s in rows.values_list("lease_s", flat=True).distinct()
    ]


def bury_others(node: Node, *, detail: str) -> None:
    """All earlier lives of a node that enrols anew are over. In the caller's transaction."""
    alive = Incarnation.objects.filter(node=node).exclude(status=IncarnationStatus.DEAD)
    _bury(_lock(alive.values_list("pk", flat=True)), detail=detail)


def _lock(pks: Iterable[int]) -> list[Incarnation]:
    rows = Incarnation.objects.select_for_update().filter(pk__in=list(pks))
    return list(rows.exclude(status=IncarnationStatus.DEAD).order_by("pk"))


def _bury(rows: Sequence[Incarnation], *, detail: str) -> None:
    """Mark dead and end every live attempt placed there; lost output is marked as cut."""
    for row in rows:
        live = Placement.objects.filter(incarnation=row.pk, live=True).select_related("attempt")
        reports = [_lost(placement, detail) for placement in live]
        if reports:
            apply_reports(reports, actor="reconciler")
        Incarnation.objects.filter(pk=row.pk).update(status=IncarnationStatus.DEAD, dead_at=Now())
        logger.warning("incarnation %s is dead: %s, %d attempts lost", row.pk, detail, len(reports))


def _lost(placement: Placement, detail: str) -> EndReport:
    job, number = placement.attempt.job_id, placement.attempt.number
    stdout, stderr = (
        LogFacts(
            size=stored_end(job_id=job, attempt=number, rank=placement.rank, stream=stream),
            complete=False,
        )
        for stream in (Stream.STDOUT, Stream.STDERR)
    )
    return EndReport(
        job_id=job,
        attempt=number,
        reason=Reason.NODE_LOST,
        detail=detail,
        stdout=stdout,
        stderr=stderr,
    )


def salvage(row: Incarnation) -> None:
    """Apply what the node said last if it may still speak, and store what its output streams hold. Idempotent."""
    try:
        _drain(row)
        live = Placement.objects.filter(incarnation=row.pk, live=True).select_related("attempt")
        for placement in live:
            key = AttemptKey(placement.attempt.job_id, placement.attempt.number, placement.rank)
            for stream in Stream.values:
                _store_stream(row, key, stream)
    except redis.RedisError as error:
        logger.warning("output of incarnation %s could not be salvaged: %s", row.pk, error)


def _drain(row: Incarnation) -> None:
    """A fenced incarnation's words have no effect any more; `ingest.apply` sees to that."""
    entries = list(walk_stream(Keys(key_prefix(row.pk)).up, after="0-0", page=PAGE))
    ups = read_ups(row.pk, entries)
    if ups:
        ingest.apply({row.pk: ingest.Heard(ups)})


def _store_stream(row: Incarnation, key: AttemptKey, stream: str) -> None:
    start = stored_end(job_id=key.job, attempt=key.attempt, rank=key.rank, stream=stream)
    name = Keys(key_prefix(row.pk)).out(key, stream)
    for entry_id, fields in walk_stream(name, after=f"{start}-0", page=PAGE):
        end, data = int(entry_id.split(b"-")[0]), fields.get(b"d", b"")
        begin = end - len(data)
        if begin > start:
            return  # a hole: what follows cannot be shown in its place
        store_piece(
            job_id=key.job, attempt=key.attempt, rank=key.rank, stream=stream,
            start=start, data=data[start - begin :],
        )  # fmt: skip
        start = end


def clear_dead(*, limit: int = 1000) -> None:
    """Remove users and key spaces of the dead: one pass over Redis for all of them. Idempotent.

    Raises:
        redis.RedisError: some are left for the next time.
    """
    dead = Incarnation.objects.filter(status=IncarnationStatus.DEAD, cleared_at__isnull=True)
    ids = set(dead.order_by("dead_at").values_list("pk", flat=True)[:limit])
    if not ids:
        return
    accounts.remove_users(ids)
    for page in _pages(server_redis().scan_iter(match="n.*", count=1000)):
        mine = [name for name in page if _incarnation_of(name) in ids]
        if mine:
            server_redis().unlink(*mine)
    Incarnation.objects.filter(pk__in=ids).update(cleared_at=Now())


def _pages(names: Iterator[bytes]) -> Iterator[list[bytes]]:
    while page := list(islice(names, PAGE)):
        yield page


def _incarnation_of(key: bytes) -> int | None:
    """The number in `n.<number>:…`."""
    number = key[2:].partition(b":")[0]
    return int(number) if number.isdigit() else None
