"""The scheduler: takes waiting jobs in fair order and gives each the next attempt on a node with room.

Owns the in-memory backlog and nothing else: placing is `clouds.placement` (pure), taking capacity and opening attempts
is one guarded transaction, publishing is `clouds.offers`. Hints make it prompt; a poll of recently queued jobs makes
it correct without them. Two schedulers at once would only waste work: capacity and jobs are taken by guarded updates.
"""

import logging
import secrets
import time
from collections.abc import Sequence
from datetime import timedelta
from statistics import median

import msgspec
from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now

from clouds import capacity, offers
from clouds.backlog import HEAD, Backlog, QueueKey
from clouds.capacity import Amount
from clouds.impossible import Impossible
from clouds.loops import Gathering
from clouds.machines import SILENT_HEARTBEATS, need_of
from clouds.models import Incarnation
from clouds.placement import ROUND, Batch, FreeNode, Matching, batch_of
from clouds.states import IncarnationStatus
from jobs.models import Job, Kind
from jobs.reports import Assignment, Opened, PlacementPlan
from jobs.transition import open_attempts
from prominence import metrics
from prominence.bus import WAKE, Queued
from prominence.streams import Doorbell

logger = logging.getLogger(__name__)

# Poll: transactions that queue jobs end well within this time; what was queued longer ago has been seen.
OVERLAP_S = 20.0
POLL_S = 5.0
# A deployment's nets have holes: all queues are read again this often, whatever hints and polls said.
REBUILD_S = 3600.0
KINDS_FRESH_S = 1.0


class Scheduler:
    """One step: hear of new jobs, match, commit, publish."""

    name = "scheduler"
    idle_s = 1.0

    def __init__(self) -> None:
        self._backlog = Backlog()
        self._bell = Doorbell(WAKE)
        self._together: dict[str, int] = {}
        self._kinds_read = 0.0
        self._kinds_of: set[str] = set()
        self._polled = 0.0
        self._rebuilt = 0.0
        self._idle = True
        self._gathering = Gathering()
        self._impossible = Impossible()

    def start(self) -> None:
        """Rebuild the backlog from the database."""
        self._bell.seek_end()
        self._backlog = Backlog()
        pairs = Job.objects.filter(queued=True).values_list("owner_id", "shape").distinct()
        for key in list(pairs.order_by("owner_id", "shape")):
            self._refill(key)
        self._rebuilt = self._polled = time.monotonic()

    def wait(self, timeout_s: float) -> None:
        """Until a hint comes; at once while the last step left work that could be matched."""
        self._gathering.wait()
        for payload in self._bell.wait(timeout_s if self._idle else 0.001):
            try:
                self._backlog.add(msgspec.json.decode(payload, type=list[Queued]))
            except msgspec.MsgspecError:
                logger.warning("unreadable hint on %s", WAKE)

    def step(self) -> None:
        self._poll()
        for key in self._backlog.wants_refill():
            self._refill(key)
        batches = self._match()
        wanted = sum(len(batch.jobs) for batch in batches)
        opened = self._commit(batches) if batches else []
        if opened:
            metrics.count("matches", len(opened))
            offers.publish(opened)
        self._gathering.handled(wanted)
        self._impossible.judge(self._backlog.keys())
        for key in self._impossible.fail_some():
            self._backlog.refill(key, [], more=False)
        # All that fitted is placed, unless it was too much for a round or something had changed meanwhile.
        self._idle = len(opened) == wanted < ROUND and not self._impossible.is_busy

    def _poll(self) -> None:
        """Find waiting jobs whose hint was lost."""
        now = time.monotonic()
        if now - self._rebuilt > REBUILD_S:
            self.start()
        elif now - self._polled > POLL_S:
            unseen_s = OVERLAP_S + now - self._polled
            recent = Job.objects.filter(
                queued=True, queued_at__gte=Now() - timedelta(seconds=unseen_s)
            )
            before = len(self._backlog)
            self._backlog.add(_queued(recent))
            metrics.count("rescues", len(self._backlog) - before, "poll")
            self._polled = now

    def _refill(self, key: QueueKey) -> None:
        owner, shape = key
        rows = Job.objects.filter(queued=True, owner_id=owner, shape=shape)
        jobs = _queued(rows.order_by("-priority", "pk")[: HEAD + 1])
        self._backlog.refill(key, jobs[:HEAD], more=len(jobs) > HEAD)

    def _match(self) -> list[Batch]:
        if not len(self._backlog):
            return []
        nodes = free_nodes()
        if not nodes:
            return []
        matching = Matching(
            backlog=self._backlog,
            nodes=nodes,
            need_of=need_of,
            together=lambda kind: self._together.get(kind, 1),
        )
        shapes = self._backlog.shapes()
        # Only a single shape is looked ahead for when it does not fit.
        self._read_kinds(matching.fitting() if len(shapes) > 1 else shapes)
        return matching.run()

    def _read_kinds(self, shapes: set[str]) -> None:
        """How many of the kinds at the heads of these may travel together; asked at most once a second."""
        now = time.monotonic()
        if now - self._kinds_read < KINDS_FRESH_S and shapes <= self._kinds_of:
            return
        self._kinds_read, self._kinds_of = now, shapes
        kinds = self._backlog.kinds_ahead(shapes)
        short = Kind.objects.filter(pk__in=kinds, short=True).values_list("pk", "recent_s")
        self._together = {kind: batch_of(median(recent_s)) for kind, recent_s in short}

    def _commit(self, batches: Sequence[Batch]) -> list[Opened]:
        """Take the capacity and open the attempts in one transaction; what cannot be had goes back to the queue."""
        opened: list[Opened] = []
        with transaction.atomic():
            taken = [
                batch
                for incarnation, mine in sorted(_by_node(batches).items())
                for batch in _take(incarnation, mine)
            ]
            opened = open_attempts(
                [a for batch in taken for a in _assignments(batch)],
                offer_due_in_s=settings.CONFIG.republish_s,
            )
            self._return_unopened(taken, opened)
        kept = {id(batch) for batch in taken}
        for batch in batches:
            if id(batch) not in kept:
                self._backlog.add(batch.jobs)
        return opened

    def _return_unopened(self, taken: Sequence[Batch], opened: Sequence[Opened]) -> None:
        """Give back what was taken for jobs that turned out not to wait any more."""
        got = {attempt.job_id for attempt in opened}
        for batch in taken:
            gone = [job for job in batch.jobs if job.job not in got]
            if not gone:
                continue
            first_gone = batch.charged and batch.jobs[0].job not in got
            amount = batch.need.amount if first_gone else capacity.NOTHING
            capacity.give_back(batch.node.incarnation, amount, ahead=len(gone) - first_gone)


def free_nodes() -> list[FreeNode]:
    """Ready nodes that were heard of lately, with what they have left: one query."""
    heard_since = Now() - timedelta(seconds=SILENT_HEARTBEATS * settings.CONFIG.heartbeat_s)
    rows = Incarnation.objects.filter(
        Q(shunned_until__isnull=True) | Q(shunned_until__lt=Now()),
        status=IncarnationStatus.READY,
        heard_at__gte=heard_since,
    ).select_related("node__site")
    return [
        FreeNode(
            incarnation=row.pk,
            name=row.node.name,
            site=row.node.site.name,
            region=row.node.site.region,
            cpus=row.cpus,
            free=Amount(cpus=row.cpus_free, memory_mb=row.memory_mb_free, disk_mb=row.disk_mb_free),
            ahead=row.ahead,
            runtimes=frozenset(row.runtimes),
        )
        for row in rows
    ]


def _queued(jobs: "object") -> list[Queued]:
    rows = jobs.values_list("owner_id", "shape", "priority", "pk", "kind")  # type: ignore[attr-defined]
    return [Queued(*row) for row in rows]


def _by_node(batches: Sequence[Batch]) -> dict[int, list[Batch]]:
    nodes: dict[int, list[Batch]] = {}
    for batch in batches:
        nodes.setdefault(batch.node.incarnation, []).append(batch)
    return nodes


def _take(incarnation: int, batches: Sequence[Batch]) -> list[Batch]:
    """Reserve for all batches of a node with one guarded update; one by one if together they no longer fit."""
    total = capacity.NOTHING
    for batch in batches:
        if batch.charged:
            total = total.plus(batch.need.amount)
    if capacity.take(incarnation, total, ahead=sum(b.uncharged for b in batches)):
        return list(batches)
    if len(batches) == 1:
        return []
    return [batch for one in batches for batch in _take(incarnation, [one])]


def _assignments(batch: Batch) -> list[Assignment]:
    """The first of a charged batch carries the charge; the others wait behind it."""
    name = secrets.token_hex(8)
    return [
        Assignment(
            job_id=job.job,
            plan=PlacementPlan(
                incarnation=batch.node.incarnation,
                node_name=batch.node.name,
                site=batch.node.site,
                cpus=batch.need.amount.cpus,
                memory_mb=batch.need.amount.memory_mb,
                disk_mb=batch.need.amount.disk_mb,
                batch=name,
                charged=batch.charged and index == 0,
            ),
        )
        for index, job in enumerate(batch.jobs)
    ]
