"""What nodes say, into the database: events in batches, heartbeats, acknowledgements.

Owns `apply`, used by both paths (the Redis loop here and HTTPS in `node_api`), and `Incarnation.acknowledged` and
`heard_at`. A node is not trusted: what it says counts only for attempts placed on that incarnation, in the order of its
sequence numbers, once. Words back (acknowledgement, lease renewal, stops) go out after commit.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from django.db import transaction
from django.db.models.functions import Now

from clouds import offers
from clouds.models import Incarnation
from clouds.reading import to_reports
from clouds.states import ALIVE
from jobs.kinds import note_runs
from jobs.models import Placement
from jobs.output import store_piece
from jobs.reports import Report
from jobs.states import AttemptStatus
from jobs.transition import apply_reports
from prominence.bus import NODES, server_redis
from prominence.streams import Entry, read_streams
from worker.protocol import (
    AttemptKey,
    Ended,
    Event,
    Heartbeat,
    Keys,
    Up,
    Word,
    decode_up,
    key_prefix,
    redis_user,
)

logger = logging.getLogger(__name__)

ENTRIES = 200  # per node and read
NEW_NODES_S = 1.0  # how long a node that enrolled may wait until it is read first


@dataclass(slots=True)
class Heard:
    """What was read from one incarnation, in order."""

    ups: list[Up] = field(default_factory=list)

    def events(self) -> list[Event]:
        return [event for up in self.ups for event in up.events]

    def heartbeat(self) -> Heartbeat | None:
        """The latest one; older ones say nothing that it does not."""
        beats = [up.heartbeat for up in self.ups if up.heartbeat is not None]
        return beats[-1] if beats else None


def apply(heard: Mapping[int, Heard]) -> dict[int, Word]:
    """Apply what incarnations said, in one transaction; returns the words to answer with.

    An incarnation that is fenced or dead is not answered and not heard (absent from the result).
    """
    with transaction.atomic():
        rows = list(
            Incarnation.objects.select_for_update()
            .filter(pk__in=heard, status__in=ALIVE)
            .order_by("pk")
        )
        words = {}
        reports: list[Report] = []
        for row in rows:
            fresh = _in_sequence(heard[row.pk].events(), row.acknowledged)
            if fresh:
                reports += _accept(row, fresh)
                row.acknowledged = fresh[-1].seq
            words[row.pk] = _answer(row, heard[row.pk])
        if reports:
            apply_reports(reports, actor="node")
            note_runs(reports)
        for row in rows:
            Incarnation.objects.filter(pk=row.pk).update(
                acknowledged=row.acknowledged, heard_at=Now()
            )
    return words


def _in_sequence(events: Sequence[Event], acknowledged: int) -> list[Event]:
    """Events that follow without a gap on what is acknowledged; repeated ones and those behind a gap are left."""
    fresh = []
    for event in events:
        if event.seq == acknowledged + 1:
            fresh.append(event)
            acknowledged += 1
    return fresh


def _accept(row: Incarnation, events: Sequence[Event]) -> list[Report]:
    """Reports on attempts that are placed on this incarnation, with the ends of their logs stored."""
    mine = _placed({event.key for event in events}, row.pk)
    accepted = [event for event in events if event.key in mine]
    for event in events:
        if event.key not in mine:
            logger.warning("incarnation %s spoke of %s, which is not its own", row.pk, event.key)
    for event in accepted:
        if isinstance(event, Ended):
            _store_tails(event)
    return to_reports(accepted)


def _placed(keys: set[AttemptKey], incarnation: int) -> set[AttemptKey]:
    """Those of the keys that were ever placed on this incarnation. One query."""
    rows = Placement.objects.filter(
        incarnation=incarnation, attempt__job__in={key.job for key in keys}
    ).values_list("attempt__job_id", "attempt__number", "rank")
    return keys & {AttemptKey(*row) for row in rows}


def _store_tails(event: Ended) -> None:
    for stream, end in (("stdout", event.stdout), ("stderr", event.stderr)):
        if end.tail:
            store_piece(
                job_id=event.key.job,
                attempt=event.key.attempt,
                rank=event.key.rank,
                stream=stream,
                start=end.stored,
                data=end.tail,
            )


def _answer(row: Incarnation, heard: Heard) -> Word:
    beat = heard.heartbeat()
    if beat is None:
        return Word(ack=row.acknowledged)
    return Word(answers=beat.number, ack=row.acknowledged, stop=_unwanted(row, beat))


def _unwanted(row: Incarnation, beat: Heartbeat) -> tuple[AttemptKey, ...]:
    """What the node should end, judged against its full snapshot.

    Held but over or to be deleted: kill it. Begun by our records but not held: ask for a void, which makes the node's
    word on it; nothing is offered anew before that.
    """
    held = {item.key: item.phase for item in beat.held}
    live = Placement.objects.filter(incarnation=row.pk, live=True).values_list(
        "attempt__job_id", "attempt__number", "rank", "attempt__status", "attempt__job__delete_requested_at"
    )  # fmt: skip
    wanted, stop = set(), []
    for job, number, rank, status, delete_requested in live:
        key = AttemptKey(job, number, rank)
        missing = key not in held and status != AttemptStatus.ASSIGNED
        if delete_requested is not None or (missing and beat.last_seq <= row.acknowledged):
            stop.append(key)
        else:
            wanted.add(key)
    over = [k for k, phase in held.items() if k not in wanted and phase != "ended"]
    return tuple({*stop, *over})


class Ingest:
    """The loop that reads the up-streams of all living nodes."""

    name = "ingest"
    idle_s = 1.0

    def __init__(self) -> None:
        self._positions: dict[int, bytes] = {}
        self._listed = 0.0
        self._rung = b"0"
        self._read: list[tuple[int, list[Entry]]] = []

    def start(self) -> None:
        """Begin every stream at its start: what was applied before is known by its sequence numbers."""
        self._positions = {}
        self._listed = 0.0
        self._list_nodes()

    def _list_nodes(self) -> None:
        if time.monotonic() - self._listed < NEW_NODES_S:
            return
        self._listed = time.monotonic()
        alive = Incarnation.objects.filter(status__in=ALIVE).values_list("pk", flat=True)
        self._positions = {pk: self._positions.get(pk, b"0") for pk in alive}

    def wait(self, timeout_s: float) -> None:
        """Block until a node says something, at most `timeout_s`."""
        self._list_nodes()
        streams = {Keys(key_prefix(pk)).up: last for pk, last in self._positions.items()}
        streams[NODES] = self._rung
        answer = read_streams(streams, count=ENTRIES, block_s=timeout_s)
        if rung := answer.pop(NODES, None):
            self._rung = rung[-1][0]
            self._listed = 0.0
        self._read = [(_incarnation(name), entries) for name, entries in answer.items()]

    def step(self) -> None:
        """Apply what was read, answer, and cut the streams."""
        heard = {pk: Heard(_decode(pk, entries)) for pk, entries in self._read}
        if heard:
            words = apply(heard)
            offers.tell(words)
            self._cut()
        self._read = []

    def _cut(self) -> None:
        pipe = server_redis().pipeline(transaction=False)
        for pk, entries in self._read:
            last = entries[-1][0]
            self._positions[pk] = last
            pipe.xtrim(Keys(key_prefix(pk)).up, minid=_after(last), approximate=False)
        pipe.execute()


def _after(entry_id: bytes) -> str:
    """The smallest stream id behind this one."""
    milliseconds, _, sequence = entry_id.decode().partition("-")
    return f"{milliseconds}-{int(sequence) + 1}"


def _incarnation(stream: str) -> int:
    """The number in `n.<number>:up`."""
    return int(stream.partition(".")[2].partition(":")[0])


def _decode(incarnation: int, entries: Sequence[Entry]) -> list[Up]:
    ups = []
    for _, fields in entries:
        try:
            ups.append(decode_up(fields.get(b"d", b"")))
        except msgspec.MsgspecError as error:
            logger.warning("%s sent something unreadable: %s", redis_user(incarnation), error)
    return ups
