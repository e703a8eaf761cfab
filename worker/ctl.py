"""What the server says: words from the ctl stream or from an HTTPS answer, and obeying them.

Every word may come twice, late, or never: each part of it is a level, not an edge.
"""

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable
from typing import cast

import msgspec
import redis

from worker.complaints import Complaint
from worker.files import boottime
from worker.journal import Journal
from worker.lease import Lease
from worker.loops import Loop
from worker.protocol import AttemptKey, Keys, Word, decode_word
from worker.redis_link import REDIS_ERRORS
from worker.up import Uplink

logger = logging.getLogger(__name__)

BLOCK_MS = 4000
COUNT = 100
RETRY_S = 1.0


class Words:
    """Applies words. Safe for many threads."""

    def __init__(
        self,
        *,
        uplink: Uplink,
        journal: Journal,
        lease: Lease,
        stop: Callable[[AttemptKey], None],
        forget: Callable[[Iterable[AttemptKey]], None],
    ) -> None:
        self._uplink = uplink
        self._journal = journal
        self._lease = lease
        self._stop = stop
        self._forget = forget
        self._full = Complaint(logger, "the journal takes no word")

    def apply(self, word: Word) -> None:
        """The lease first: it needs no room on the disk, and all the rest does."""
        if word.answers is not None:
            self._renew(word.answers, word.ack)
        self._acknowledge(word.ack)
        for key in word.stop:
            self._stop(key)

    def _acknowledge(self, ack: int | None) -> None:
        try:
            if ack is not None:
                self._forget(self._journal.acknowledge(ack))
                self._full.over()
        except sqlite3.Error as error:  # the next word says it again
            self._full.say(error)

    def _renew(self, number: int, ack: int | None) -> None:
        beat = self._uplink.answer(number)
        if beat is None:
            return
        self._lease.renew(sent_at=beat.sent_at)
        if ack is not None and ack < beat.last_seq:
            logger.warning("events %d to %d got lost: sending again", ack + 1, beat.last_seq)
            self._uplink.rewind(max(ack, self._journal.acknowledged))


class CtlReader(Loop):
    """Reads the ctl stream, from its beginning after a start: old words do no harm."""

    def __init__(self, client: redis.Redis, keys: Keys, words: Words, uplink: Uplink) -> None:
        super().__init__("ctl")
        self._client = client
        self._stream = keys.ctl
        self._words = words
        self._uplink = uplink
        self._last = b"0"
        self._complaint = Complaint(logger, "control words not read")

    def step(self) -> None:
        try:
            entries = self._read()
        except REDIS_ERRORS as error:
            self._complaint.say(error)
            # What Redis lost may come with smaller ids.
            self._last = b"0"
            threading.Event().wait(RETRY_S)
            return
        self._complaint.over()
        for entry, fields in entries:
            self._last = entry
            self._apply(fields.get(b"d", b""))

    def _read(self) -> list[tuple[bytes, dict[bytes, bytes]]]:
        answer = self._client.xread({self._stream: self._last}, count=COUNT, block=BLOCK_MS)
        if not answer:
            return []
        if isinstance(answer, dict):  # RESP3
            streams = [entries[0] for entries in answer.values()]
        else:
            streams = [entries for _, entries in answer]
        return cast(list[tuple[bytes, dict[bytes, bytes]]], streams[0])

    def _apply(self, data: bytes) -> None:
        try:
            word = decode_word(data)
        except msgspec.MsgspecError as error:
            logger.warning("unreadable control word: %s", error)
            return
        if word.answers is not None:
            self._uplink.answered_at = boottime()
        self._words.apply(word)
