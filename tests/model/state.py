"""The state of the model: one job, the server's database, Redis, and two nodes with their disks and processes.

Values only. `normalise` gives states that behave alike one form, so that the search ends: attempts are numbered by
rank among those still mentioned anywhere, events from the last acknowledged one.
"""

from typing import NamedTuple

from tests.model.rules import Rule

QUEUED, LIVE, OVER = "queued", "live", "over"
READY, FENCED, DEAD = "ready", "fenced", "dead"
ENTERED, CLAIMED, ENDED = "entered", "claimed", "ended"
# A thread's way with an attempt, after its entry: the offer is taken or gone, recorded, the specification fetched.
ASKING, TAKEN, GONE, TO_FETCH, TO_START = "asking", "taken", "gone", "to fetch", "to start"
RUNS, FROZEN, THAWED = "runs", "frozen", "thawed"
# Events: claimed, ended for good, ended without effect (never started, stopped, lost), of another job.
SAID_CLAIMED, SAID_DONE, SAID_ENDED, SAID_OTHER = "claimed", "done", "ended", "other"

Event = tuple[int, str, int]  # number, word, attempt
Attempts = tuple[int, ...]


class Job(NamedTuple):
    """The rows of the job and its current attempt, on node `node`."""

    status: str = QUEUED
    attempt: int = 0
    node: int = 0
    claimed: bool = False
    published: bool = False
    deleting: bool = False
    same_life: bool = False  # of the node: its key space is still the one that got the offer


class Life(NamedTuple):
    """A node's incarnation in the database."""

    status: str = READY
    ack: int = 0
    user: bool = True  # its Redis user exists


class Space(NamedTuple):
    """A node's key space. `stops`: control words, which may be read again at any time."""

    offers: Attempts = ()
    messages: Attempts = ()
    events: tuple[Event, ...] = ()
    stops: Attempts = ()


class Snapshot(NamedTuple):
    """A heartbeat under way. `last_seq` is None while it is being made."""

    held: Attempts
    last_seq: int | None


class Machine(NamedTuple):
    """A node. `journal` pairs attempts with states; `shim` is forked and has not begun."""

    worker: bool = True
    pace: str = RUNS
    cut: bool = False
    lease: bool = True
    enrolling: bool = False
    journal: tuple[tuple[int, str], ...] = ()
    thread: tuple[int, str] | None = None
    shim: int = 0
    container: int = 0
    result: tuple[int, str] | None = None
    outbox: tuple[Event, ...] = ()
    next: int = 1
    renewed: bool = False  # by a write, after the fence
    beat: Snapshot | None = None


class Ghost(NamedTuple):
    """What only the checks know: terminal events, starts and finishes by (node, attempt)."""

    ends: int = 0
    starts: tuple[tuple[int, int], ...] = ()
    finishes: tuple[tuple[int, int], ...] = ()


class State(NamedTuple):
    job: Job = Job()
    lives: tuple[Life, Life] = (Life(), Life())
    spaces: tuple[Space, Space] = (Space(), Space())
    machines: tuple[Machine, Machine] = (Machine(), Machine())
    ghost: Ghost = Ghost()
    used: frozenset[str] = frozenset()


def entry(machine: Machine, attempt: int) -> str | None:
    """The state of an attempt in the journal."""
    for known, state in machine.journal:
        if known == attempt:
            return state
    return None


def normalise(state: State, rules: frozenset[Rule]) -> State:
    machines, spaces = [], []
    for index in (0, 1):
        space = _without_effectless(state, index, rules)
        spaces.append(space)
        machines.append(state.machines[index])
    mentioned = [_mentioned(machines[i], spaces[i], state.job) for i in (0, 1)]
    rank = {a: n for n, a in enumerate(sorted({0} | mentioned[0] | mentioned[1]))}
    lives = []
    for index in (0, 1):
        life, space, machine = state.lives[index], spaces[index], machines[index]
        low = _lowest(life, machine)
        lives.append(life._replace(ack=life.ack - low))
        spaces[index] = _ranked_space(space, rank, low)
        machines[index] = _ranked_machine(machine, rank, low, mentioned[index])
    ghost = state.ghost
    return state._replace(
        job=state.job._replace(attempt=rank[state.job.attempt]),
        lives=(lives[0], lives[1]),
        spaces=(spaces[0], spaces[1]),
        machines=(machines[0], machines[1]),
        ghost=ghost._replace(
            starts=tuple((i, rank[a]) for i, a in ghost.starts if a in mentioned[i]),
            finishes=tuple((i, rank[a]) for i, a in ghost.finishes if a == state.job.attempt),
        ),
    )


def _without_effectless(state: State, index: int, rules: frozenset[Rule]) -> Space:
    """What nobody will act on."""
    space, life, machine = state.spaces[index], state.lives[index], state.machines[index]
    heard = life.status == READY or Rule.ALIVE_ONLY not in rules
    events = tuple(e for e in space.events if e[0] > life.ack) if heard else ()
    if life.status == DEAD:
        return Space(events=events)
    over = {a for a, s in machine.journal if s == ENDED} if Rule.JOURNAL_KEPT in rules else set()
    return Space(
        offers=tuple(a for a in space.offers if a not in over),
        messages=tuple(a for a in space.messages if a not in over),
        events=events,
        stops=tuple(a for a in space.stops if a not in over),
    )


def _mentioned(machine: Machine, space: Space, job: Job) -> set[int]:
    """Attempts that this node or its key space may still act on."""
    return {
        job.attempt,
        machine.shim,
        machine.container,
        *(machine.thread or ())[:1],
        *(machine.result or ())[:1],
        *(machine.beat.held if machine.beat else ()),
        *(event[2] for event in machine.outbox + space.events),
        *(attempt for attempt, state in machine.journal if state != ENDED),
        *space.offers,
        *space.messages,
        *space.stops,
    }


def _lowest(life: Life, machine: Machine) -> int:
    known = [life.ack, machine.next - 1, *(event[0] - 1 for event in machine.outbox)]
    if machine.beat and machine.beat.last_seq is not None:
        known.append(machine.beat.last_seq)
    return min(known)


def _ranked_space(space: Space, rank: dict[int, int], low: int) -> Space:
    if space == Space():
        return space
    return Space(
        offers=tuple(rank[a] for a in space.offers),
        messages=tuple(rank[a] for a in space.messages),
        events=_ranked_events(space.events, rank, low),
        stops=tuple(rank[a] for a in space.stops),
    )


def _ranked_machine(machine: Machine, rank: dict[int, int], low: int, live: set[int]) -> Machine:
    beat = machine.beat
    if beat is not None:
        last = None if beat.last_seq is None else beat.last_seq - low
        beat = Snapshot(tuple(rank[a] for a in beat.held), last)
    return machine._replace(
        journal=tuple((rank[a], s) for a, s in machine.journal if a in live),
        thread=machine.thread and (rank[machine.thread[0]], machine.thread[1]),
        shim=rank[machine.shim],
        container=rank[machine.container],
        result=machine.result and (rank[machine.result[0]], machine.result[1]),
        outbox=_ranked_events(machine.outbox, rank, low),
        next=machine.next - low,
        beat=beat,
    )


def _ranked_events(events: tuple[Event, ...], rank: dict[int, int], low: int) -> tuple[Event, ...]:
    return tuple((max(number - low, 0), word, rank[a]) for number, word, a in events)
