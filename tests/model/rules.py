"""What can be switched off and what can go wrong: the words of the model. No state, no steps.

A rule that is on is the protocol as built; the place in the code that keeps it is named beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Rule(StrEnum):
    """One rule of the attempt protocol."""

    JOURNAL = "no attempt starts without an entry of its own in the journal"  # Journal.enter
    JOURNAL_KEPT = "entries outlive the acknowledgement of their end"  # Journal.acknowledge
    REFUSED_REPORTED = "a refused claim is reported: never started"  # Journal.claim
    RECOVERY = "a restarted worker reports what neither runs nor ended"  # sweep.take_over
    RUN_FILE = "one file decides between shim and restarted worker"  # running.exclude, shim.main
    CONTIGUOUS = "acknowledged is the highest number without a gap"  # ingest._in_sequence
    ACK_PER_LIFE = "numbers and acknowledgement begin anew with an incarnation"  # enrolment.enrol
    EVENTS_KEPT = "events stay with the node until acknowledged"  # Journal.acknowledge
    ROW_KEPT = "an outbox row stays until its effect is seen"  # outbox.settle
    VOID = "what is missing is voided by the node before it is offered anew"  # Jobs.stop
    FRESH_SNAPSHOT = "absence counts only if all that is known was said before"  # ingest._unwanted
    SNAPSHOT_LAST = "a snapshot is taken after its `last_seq` is fixed"  # up.Heart._heartbeat
    WAIT = "between fence and burial lies a whole lease"  # lifecycle.bury_fenced
    RENEWED_BY_ANSWER = "only an answer of the server renews the lease"  # ctl.Words._renew
    SHIM_LEASE = "the shim obeys the lease, worker or not"  # shim.Supervisor._look
    NEW_LIFE = "a reboot or a lost disk is a new incarnation"  # boot.boot_id, enrol.current
    SWEEP = "a node kills what earlier lives left before it enrols"  # sweep.kill_everything
    ALIVE_ONLY = "fenced and dead incarnations are not heard"  # ingest._apply
    LIVE_ONLY = "words on attempts that are over have no effect"  # ingest._live, _Ledger.current
    FETCH_LIVE = "specifications are given out for live attempts only"  # node_api.fetch_view
    PROVEN = (
        "deleted is shown when the node has said that nothing is left"  # transition.delete_jobs
    )


class Fault(StrEnum):
    """Something that goes wrong, at most once in a run; `OTHER` and `DELETE` are no faults but counted alike."""

    LOSE = "a message, an event or the answer to a claim is lost"
    DOUBLE = "an offer is published late once more, or an event is doubled"
    REORDER = "two entries of a stream change places"
    FLUSH = "Redis forgets everything"
    WORKER = "the worker is killed; shims, containers and the disk stay"
    SHIM = "a shim is killed"
    FREEZE = "the machine stands still, possibly beyond its lease"
    REBOOT = "the machine restarts with its disk"
    DISK = "the data directory is lost while containers run on"
    CUT = "the node reaches neither Redis nor the API for a while"
    UNCOUNTED = "the server fences a node that works"
    IMPATIENCE = "the server withdraws an offer that is still under way"
    LATE = "a snapshot is judged late"
    USERS = "Redis comes back with the users it once had"
    OTHER = "there is an event of another job in the same stream"
    DELETE = "the user deletes the job"


class Wrong(StrEnum):
    """What the checks find."""

    TWO_ENDS = "two terminal events of one job"
    TWO_CONTAINERS = "two containers of one job at once"
    TWO_STARTS = "an attempt starts twice on one node"
    FORGOTTEN = "a finish is forgotten"
    RUNS_ON = "a container runs though its job is over"
    STOPPED = "the server stops what its node holds, because it believes it absent"
    STUCK = "the job can never end, or a container is left for ever"


ALL = frozenset(Rule)


@dataclass(frozen=True, slots=True)
class Mutant:
    """Rules switched off together, the faults under which that shows, and the check that notices."""

    off: frozenset[Rule]
    faults: frozenset[Fault]
    caught_as: Wrong


def _mutant(*words: Rule | Fault | Wrong) -> Mutant:
    return Mutant(
        off=frozenset(word for word in words if isinstance(word, Rule)),
        faults=frozenset(word for word in words if isinstance(word, Fault)),
        caught_as=next(word for word in words if isinstance(word, Wrong)),
    )


# Two rules together: either of them alone keeps the promise, as `NETS` shows.
MUTANTS: Mapping[str, Mutant] = {
    "no journal": _mutant(Rule.JOURNAL, Fault.DOUBLE, Wrong.TWO_STARTS),
    "journal not kept after acknowledgement": _mutant(
        Rule.JOURNAL_KEPT, Rule.FETCH_LIVE, Fault.DOUBLE, Wrong.TWO_STARTS
    ),
    "claim refused but not reported": _mutant(Rule.REFUSED_REPORTED, Fault.LOSE, Wrong.STUCK),
    "no recovery report after restart": _mutant(Rule.RECOVERY, Fault.WORKER, Wrong.STUCK),
    "no run file": _mutant(Rule.RUN_FILE, Fault.WORKER, Wrong.TWO_CONTAINERS),
    "last instead of contiguous acknowledged": _mutant(
        Rule.CONTIGUOUS, Fault.LOSE, Fault.OTHER, Wrong.FORGOTTEN
    ),
    "acknowledgement not per incarnation": _mutant(
        Rule.ACK_PER_LIFE, Fault.REBOOT, Fault.OTHER, Wrong.FORGOTTEN
    ),
    "events dropped when sent": _mutant(Rule.EVENTS_KEPT, Fault.LOSE, Wrong.FORGOTTEN),
    "outbox row removed at publication": _mutant(Rule.ROW_KEPT, Fault.LOSE, Wrong.STUCK),
    "offered anew on absence": _mutant(Rule.VOID, Fault.IMPATIENCE, Wrong.TWO_CONTAINERS),
    "absence judged by an old snapshot": _mutant(Rule.FRESH_SNAPSHOT, Fault.LATE, Wrong.STOPPED),
    "snapshot taken before its last_seq": _mutant(Rule.SNAPSHOT_LAST, Fault.LATE, Wrong.STOPPED),
    "no wait after the fence": _mutant(Rule.WAIT, Fault.CUT, Wrong.TWO_CONTAINERS),
    "lease renewed by a write": _mutant(Rule.RENEWED_BY_ANSWER, Fault.CUT, Wrong.TWO_CONTAINERS),
    "shim ignores the lease": _mutant(Rule.SHIM_LEASE, Fault.WORKER, Wrong.TWO_CONTAINERS),
    "same incarnation after a loss of data": _mutant(Rule.NEW_LIFE, Fault.DISK, Wrong.TWO_STARTS),
    "no sweep before enrolment": _mutant(Rule.SWEEP, Fault.DISK, Wrong.TWO_CONTAINERS),
    "late words of dead attempts accepted": _mutant(
        Rule.ALIVE_ONLY, Rule.LIVE_ONLY, Fault.CUT, Wrong.TWO_ENDS
    ),
    "deleted before the node says so": _mutant(Rule.PROVEN, Fault.DELETE, Wrong.RUNS_ON),
}

# Rules that others make good for: switched off alone they break nothing under any single fault searched.
NETS: tuple[Rule, ...] = (Rule.JOURNAL_KEPT, Rule.FETCH_LIVE, Rule.ALIVE_ONLY, Rule.LIVE_ONLY)
