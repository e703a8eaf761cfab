"""The attempts of a job as bars over its life: what an operator sees of retries at one look.

Owns the geometry: percent of the time from the job's creation to its end, or to now. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from jobs.models import Attempt
from jobs.states import REASONS, Fault, Reason
from prominence.admin_format import Colour

# A bar that is shorter would not be seen.
LEAST_PERCENT = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One attempt: where its preparation begins, where it runs; percent of the whole."""

    number: int
    title: str
    colour: str
    left: float
    prepares: float
    runs: float


def lanes(
    attempts: Sequence[Attempt], *, created: datetime, ended: datetime | None, now: datetime
) -> list[Lane]:
    """One lane for each attempt, in the given order."""
    whole_s = max(((ended or now) - created).total_seconds(), 0.001)

    def percent(begin: datetime, end: datetime) -> float:
        return round(100 * max(0.0, (end - begin).total_seconds()) / whole_s, 2)

    found = []
    for attempt in attempts:
        end = attempt.ended_at or now
        start = min(attempt.started_at or end, end)
        left = min(percent(created, attempt.created_at), 100 - LEAST_PERCENT)
        prepares = percent(attempt.created_at, start)
        runs = max(percent(start, end), LEAST_PERCENT)
        found.append(
            Lane(
                number=attempt.number,
                title=_title(attempt),
                colour=_colour(attempt),
                left=left,
                prepares=min(prepares, 100 - left),
                runs=min(runs, max(LEAST_PERCENT, 100 - left - prepares)),
            )
        )
    return found


def _title(attempt: Attempt) -> str:
    reason = str(Reason(attempt.reason).label) if attempt.reason else ""
    return f"attempt {attempt.number}: {reason or attempt.status}"


def _colour(attempt: Attempt) -> str:
    """Blue runs, green ended well, orange was nobody's of the user, red was the job's own doing."""
    if not attempt.reason:
        return Colour.BLUE
    fault = REASONS[Reason(attempt.reason)].fault
    if fault is Fault.NONE:
        return Colour.GREEN
    ours = {Fault.NODE, Fault.SITE, Fault.PLATFORM}
    return Colour.ORANGE if fault in ours else Colour.RED
