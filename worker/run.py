"""A message's way: journal, claim, fetch, admission, then its attempts one after another.

Called by Celery, which may deliver a message twice or late, and in any order.
"""

import logging
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from functools import partial

from worker.api import ApiError, Refused
from worker.complaints import Complaint
from worker.jobs import Jobs, SlotWork
from worker.journal import State
from worker.lease import Lease
from worker.lines import Lines
from worker.loops import Loop
from worker.protocol import AttemptKey, EndReason, Fetched
from worker.redis_link import REDIS_ERRORS
from worker.slots import Admission, Need, TooLarge

logger = logging.getLogger(__name__)

LONG_S = 2.0
"""Running time of an attempt after which the rest of its message is given back."""

FETCH_S = 120.0
RETRY_S = 1.0
MAX_RETRY_S = 10.0


class Runner:
    """Handles messages. Safe for many threads, one message each."""

    def __init__(
        self,
        lines: Lines,
        *,
        lease: Lease,
        admission: Admission,
        jobs: Jobs,
    ) -> None:
        self._journal = lines.journal
        self._client = lines.client
        self._keys = lines.keys
        self._api = lines.api
        self._lease = lease
        self._admission = admission
        self._jobs = jobs
        self._no_claim = Complaint(logger, "offers not claimed")

    def handle(self, keys: Sequence[AttemptKey]) -> None:
        """Run those of these attempts that are new here and may be claimed. Blocks to their end.

        Raises sqlite3.Error when they cannot be entered; then none of them is started.
        """
        fresh = self._journal.enter(keys)
        if not fresh:
            return
        claimed = self._claim(fresh)
        items = self._fetch(claimed) if claimed else []
        if items:
            self._run(items)

    # ---- claim

    def _claim(self, keys: Sequence[AttemptKey]) -> list[AttemptKey]:
        """Take the offers, once Redis is there; an offer that is gone is refused."""
        while keys := [key for key in keys if self._journal.state(key) is State.ENTERED]:
            try:
                pipe = self._client.pipeline(transaction=False)
                for key in keys:
                    pipe.getdel(self._keys.offer(key))
                taken = pipe.execute()
            except REDIS_ERRORS as error:
                # If only the answer was lost, the offer is now gone, and so refused: nothing starts.
                self._no_claim.say(error)
                time.sleep(RETRY_S)
                continue
            self._no_claim.over()
            try:
                return self._record_claim(keys, taken)
            except sqlite3.Error as error:
                logger.error("a claim cannot be recorded: %s", error)
                time.sleep(RETRY_S)
        return []

    def _record_claim(
        self, keys: Sequence[AttemptKey], offers: Sequence[object]
    ) -> list[AttemptKey]:
        granted = [key for key, offer in zip(keys, offers, strict=True) if offer is not None]
        refused = [key for key, offer in zip(keys, offers, strict=True) if offer is None]
        return self._journal.claim(granted, refused, "there was no offer to claim")

    # ---- fetch

    def _fetch(self, keys: Sequence[AttemptKey]) -> list[Fetched]:
        """Specs and secrets of what is still wanted, in the message's order."""
        deadline = time.monotonic() + FETCH_S
        pause_s = RETRY_S
        while keys := [key for key in keys if self._journal.state(key) is State.CLAIMED]:
            try:
                answer = self._api.fetch(tuple(keys))
            except Refused as error:
                self._give_up(keys, f"the server refused it: {error}")
                return []
            except ApiError as error:
                logger.warning("fetch failed: %s", error)
                if time.monotonic() > deadline:
                    self._give_up(keys, "its specification could not be fetched")
                    return []
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_RETRY_S)
                continue
            found = {item.key: item for item in answer.items}
            self._give_up([k for k in keys if k not in found], "the server does not offer it")
            return [found[key] for key in keys if key in found]
        return []

    # ---- run

    def _run(self, items: Sequence[Fetched]) -> None:
        keys = [item.key for item in items]
        try:
            slot = self._admission.enter(
                Need.of([item.spec for item in items]), wanted=lambda: self._any_claimed(keys)
            )
        except TooLarge as error:
            self._give_up(keys, str(error))
            return
        if slot is None:
            return
        try:
            with closing(self._jobs.shim()) as shim:
                for number, item in enumerate(items):
                    if self._may_start(item.key):
                        give_back = partial(self._give_back, keys[number + 1 :])
                        self._jobs.run(
                            item,
                            SlotWork(slot=slot, shim=shim, on_long=give_back, long_s=LONG_S),
                        )
        finally:
            self._admission.leave(slot)

    def _any_claimed(self, keys: Sequence[AttemptKey]) -> bool:
        return any(self._journal.state(key) is State.CLAIMED for key in keys)

    def _may_start(self, key: AttemptKey) -> bool:
        """Whether it is wanted; waits while there is no lease to run it under."""
        while self._journal.state(key) is State.CLAIMED:
            if self._lease.left_s > 0:
                return True
            time.sleep(RETRY_S)
        return False

    def _give_back(self, keys: Sequence[AttemptKey]) -> None:
        self._give_up(keys, "given back")

    def _give_up(self, keys: Sequence[AttemptKey], detail: str) -> None:
        for key in keys:
            while not self._try_to_give_up(key, detail):
                time.sleep(RETRY_S)

    def _try_to_give_up(self, key: AttemptKey, detail: str) -> bool:
        """False when the disk does not take it."""
        try:
            if self._journal.give_up(key, detail):
                logger.info("%s not started: %s", key, detail)
        except sqlite3.Error as error:
            logger.error("that %s does not start cannot be recorded: %s", key, error)
            return False
        return True


class LeaseGuard(Loop):
    """Ends everything when the lease is over. The shims do so themselves; this is for those that hang."""

    def __init__(self, lease: Lease, jobs: Jobs) -> None:
        super().__init__("lease")
        self._lease = lease
        self._jobs = jobs

    def step(self) -> None:
        left_s = self._lease.left_s
        if left_s <= 0:
            with suppress(OSError):
                self._jobs.stop_all(EndReason.LEASE_EXPIRED)
        time.sleep(min(max(left_s, 1.0), 5.0))
