"""What nodes say, into the database: events in batches, heartbeats, acknowledgements.

Owns `apply`, used by both paths (the Redis loop in `ingest_loop` and HTTPS in `node_api`), and `Incarnation`'s
`acknowledged`, `heard_at` and `faults`. A node is not trusted: what it says counts only for live attempts placed on
that incarnation, in the order of its sequence numbers, once; and nothing it says may stop another from being heard.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

from django.db import DatabaseError, OperationalError, transaction
from django.db.models.functions import Now

from clouds.cleaning import bare_end, clean_event, is_key
from clouds.models import Incarnation
from clouds.offers import drop_output
from clouds.reading import to_reports
from clouds.states import ALIVE
from jobs.kinds import note_runs
from jobs.models import Placement
from jobs.output import store_piece
from jobs.reports import EndReport, Report
from jobs.states import REASONS, AttemptStatus, Fault
from jobs.transition import apply_reports
from worker.protocol import AttemptKey, Ended, Event, Heartbeat, Up, Word

logger = logging.getLogger(__name__)

# A node that fails jobs gets a pause that doubles, up to this.
SHUN_MAXIMUM_S = 600
# What a batch may do to the database that is the fault of its contents, not of the database.
_DATA_PROBLEMS = (DatabaseError, ValueError, OverflowError, ArithmeticError, TypeError)


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
    """Apply what incarnations said; returns the words to answer with.

    One transaction; if something in it cannot be stored, one for each incarnation, and then one for each event. An
    incarnation that is fenced or dead is not heard and not answered (absent from the result).

    Raises:
        OperationalError: the database is away or busy; nothing of the last part was applied.
    """
    try:
        return _apply(heard)
    except OperationalError:
        raise
    except _DATA_PROBLEMS as error:
        logger.error("a batch of node events was refused: %s: %s", type(error).__name__, error)
    words: dict[int, Word] = {}
    for incarnation, mine in heard.items():
        words |= _apply_event_by_event(incarnation, mine)
    return words


def _apply_event_by_event(incarnation: int, heard: Heard) -> dict[int, Word]:
    """Find the event that cannot be stored and replace it by what is known: that it ended, or nothing."""
    for event in heard.events():
        try:
            _apply({incarnation: Heard([Up(events=(event,))])})
        except OperationalError:
            raise
        except _DATA_PROBLEMS:
            logger.exception("event %s of incarnation %s is left out", event.seq, incarnation)
            if isinstance(event, Ended):
                _apply({incarnation: Heard([Up(events=(bare_end(event),))])})
            else:
                Incarnation.objects.filter(pk=incarnation, acknowledged=event.seq - 1).update(
                    acknowledged=event.seq
                )
    return _apply({incarnation: Heard([Up(heartbeat=heard.heartbeat())])})


def _apply(heard: Mapping[int, Heard]) -> dict[int, Word]:
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
            mine = _accept(row, fresh) if fresh else []
            reports += mine
            if fresh:
                row.acknowledged = fresh[-1].seq
            _note_contact(row, heard[row.pk].heartbeat(), progress=bool(fresh), reports=mine)
            words[row.pk] = _answer(row, heard[row.pk].heartbeat())
        if reports:
            apply_reports(reports, actor="node")
            note_runs(reports)
    return words


def _in_sequence(events: Sequence[Event], acknowledged: int) -> list[Event]:
    """Events that follow without a gap on what is acknowledged; repeated ones and those behind a gap are left."""
    fresh = []
    for event in events:
        if event.seq == acknowledged + 1:
            fresh.append(clean_event(event))
            acknowledged += 1
    return fresh


def _accept(row: Incarnation, events: Sequence[Event]) -> list[Report]:
    """Reports on live attempts of this incarnation, each to its end, with the ends of their logs stored."""
    live = _live({event.key for event in events if is_key(event.key)}, row.pk)
    accepted: list[Event] = []
    for event in events:
        if event.key not in live:
            logger.info(
                "incarnation %s spoke of %s, which is not its: no effect", row.pk, event.key
            )
            continue
        accepted.append(event)
        if isinstance(event, Ended):
            live.discard(event.key)
            _store_tails(event)
    ended = [event.key for event in accepted if isinstance(event, Ended)]
    if ended:
        transaction.on_commit(partial(drop_output, row.pk, ended), robust=True)
    return to_reports(accepted)


def _live(keys: set[AttemptKey], incarnation: int) -> set[AttemptKey]:
    """Those of the keys that are placed on this incarnation and have not ended. One query."""
    rows = Placement.objects.filter(
        incarnation=incarnation, live=True, attempt__job__in={key.job for key in keys}
    ).values_list("attempt__job_id", "attempt__number", "rank")
    return keys & {AttemptKey(*row) for row in rows}


def _store_tails(event: Ended) -> None:
    """Tails are short (`cleaning`), so they are rows of this transaction, never objects."""
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


def _note_contact(
    row: Incarnation, beat: Heartbeat | None, *, progress: bool, reports: Sequence[Report]
) -> None:
    """Contact is a heartbeat of a node that is understood: one whose events never arrive is as good as silent."""
    values: dict[str, object] = {"acknowledged": row.acknowledged, **_faults(row, reports)}
    if beat is not None and (progress or beat.last_seq <= row.acknowledged):
        values["heard_at"] = Now()
    Incarnation.objects.filter(pk=row.pk).update(**values)


def _faults(row: Incarnation, reports: Sequence[Report]) -> dict[str, object]:
    """Node faults in a row: each doubles the time in which the node gets nothing new; a job that ran clears them.

    What is heard at once counts once: one incident ends many jobs.
    """
    ends = [REASONS[r.reason].fault is Fault.NODE for r in reports if isinstance(r, EndReport)]
    if not ends:
        return {}
    faults = (row.faults if all(ends) else 0) + any(ends)
    if faults == row.faults:
        return {}
    pause = min(2 ** min(faults, 20), SHUN_MAXIMUM_S) if faults > 1 else 0
    return {"faults": faults, "shunned_until": Now() + timedelta(seconds=pause) if pause else None}


def _answer(row: Incarnation, beat: Heartbeat | None) -> Word:
    if beat is None:
        return Word(ack=row.acknowledged)
    return Word(answers=beat.number, ack=row.acknowledged, stop=_unwanted(row, beat))


def _unwanted(row: Incarnation, beat: Heartbeat) -> tuple[AttemptKey, ...]:
    """What the node should end, judged against its full snapshot.

    Held but over or to be deleted: kill it. Begun by our records but not held: ask for a void, which makes the node's
    word on it; nothing is offered anew before that. A snapshot older than what we know proves nothing.
    """
    held = {item.key: item.phase for item in beat.held}
    live = Placement.objects.filter(incarnation=row.pk, live=True).values_list(
        "attempt__job_id", "attempt__number", "rank", "attempt__status", "attempt__job__delete_requested_at"
    )  # fmt: skip
    wanted, stop = set(), []
    for job, number, rank, status, delete_requested in live:
        key = AttemptKey(job, number, rank)
        missing = key not in held and status != AttemptStatus.ASSIGNED
        if delete_requested is not None or (missing and beat.last_seq == row.acknowledged):
            stop.append(key)
        else:
            wanted.add(key)
    over = [k for k, phase in held.items() if k not in wanted and phase != "ended"]
    return tuple({*stop, *over})
