"""The loop that makes every hint unnecessary: leases, times in the queue, lost Redis contents, forgotten key spaces.

Owns no state of its own. Slow and level-triggered: whatever it does is right to do again.
"""

import logging
import secrets
import time

from django.conf import settings
from django.db.models.functions import Now

from clouds import accounts, lifecycle, retention
from jobs import outbox
from jobs import retention as jobs_retention
from jobs.models import Job
from jobs.states import Reason
from jobs.transition import fail_queued
from prominence import metrics
from prominence.bus import BEAT, EPOCH, NODES, announce_due, announce_queued, server_redis
from prominence.streams import Doorbell

logger = logging.getLogger(__name__)

USERS_S = 10.0
KEY_SPACES_S = 60.0
REMOVAL_S = 600.0
EXPIRED_BATCH = 1000


class Reconciler:
    """One step looks at everything that may have gone wrong unseen."""

    name = "reconciler"

    def __init__(self) -> None:
        self.idle_s = min(1.0, settings.CONFIG.lease_s / 10)
        self._ingest_steady = time.monotonic()
        self._users_checked = 0.0
        self._spaces_checked = 0.0
        self._old_removed = -REMOVAL_S
        self._bell = Doorbell(NODES)

    def start(self) -> None:
        """Leases are judged only after ingest has been seen at work for a whole one."""
        self._ingest_steady = time.monotonic()

    def wait(self, timeout_s: float) -> None:
        self._bell.wait(timeout_s)

    def step(self) -> None:
        self._check_epoch()
        self._check_users()
        self._judge_leases()
        self._expire_waiting()
        self._clear_key_spaces()
        self._remove_old()

    def _check_epoch(self) -> None:
        """A missing epoch reveals a flush: everything due is published again, users are made anew."""
        if server_redis().set(EPOCH, secrets.token_hex(8), nx=True):
            logger.warning("Redis was empty: publishing again what is due")
            metrics.count("rescues", 1, "flush")
            accounts.restore_missing_users()
            outbox.all_due_now()
            announce_due()
            announce_queued([])

    def _check_users(self) -> None:
        if time.monotonic() - self._users_checked > USERS_S:
            self._users_checked = time.monotonic()
            accounts.restore_missing_users()

    def _judge_leases(self) -> None:
        if not server_redis().exists(f"{BEAT}ingest"):
            self._ingest_steady = time.monotonic()
        if time.monotonic() - self._ingest_steady > settings.CONFIG.lease_s:
            lifecycle.fence_silent()
            if lifecycle.bury_fenced():
                self._spaces_checked = 0.0

    def _expire_waiting(self) -> None:
        """Jobs that have waited as long as they may (S101): an indexed look, and work only for those."""
        late = Job.objects.filter(queued=True, queue_deadline__lte=Now())
        ids = list(late.order_by("queue_deadline").values_list("pk", flat=True)[:EXPIRED_BATCH])
        if ids:
            fail_queued(ids, reason=Reason.QUEUE_TIME, actor="reconciler")

    def _remove_old(self) -> None:
        """A batch a step while there is something, then a look now and then."""
        if time.monotonic() - self._old_removed < REMOVAL_S:
            return
        if not jobs_retention.remove_old() + retention.remove_old():
            self._old_removed = time.monotonic()

    def _clear_key_spaces(self) -> None:
        if time.monotonic() - self._spaces_checked > KEY_SPACES_S:
            self._spaces_checked = time.monotonic()
            lifecycle.clear_dead()
