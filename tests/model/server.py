"""What the server does, each step a transaction: `clouds` and `jobs.transition`."""

from tests.model.moves import (
    Move,
    Moves,
    active,
    change,
    ended,
    held,
    is_on,
    talks,
    with_life,
    with_space,
)
from tests.model.rules import Rule, Wrong
from tests.model.state import (
    DEAD,
    FENCED,
    FROZEN,
    LIVE,
    OVER,
    QUEUED,
    READY,
    SAID_CLAIMED,
    SAID_DONE,
    SAID_ENDED,
    Event,
    Job,
    Snapshot,
    State,
)

Rules = frozenset[Rule]
IN_STREAM = 3  # events of one node under way at a time


def moves(state: State, rules: Rules) -> Moves:
    yield from _publish(state, rules)
    for index in (0, 1):
        yield from _assign(state, index)
        yield from _ingest(state, index, rules)
        yield from _judge(state, index, rules)
        yield from _fence(state, index, rules)
        yield from _bury(state, index, rules)


def _assign(state: State, index: int) -> Moves:
    """Scheduler: the next attempt, on any node that is ready."""
    job = state.job
    if job.status != QUEUED or state.lives[index].status != READY:
        return
    if index == 1 and not job.attempt and _alike(state):
        return
    attempt = Job(status=LIVE, attempt=job.attempt + 1, node=index, same_life=True)
    yield Move(f"server assigns {attempt.attempt} to n{index}", state._replace(job=attempt))


def _alike(state: State) -> bool:
    return all(pair[0] == pair[1] for pair in (state.lives, state.spaces, state.machines))


def _publish(state: State, rules: Rules) -> Moves:
    """The first time by the scheduler, then by the outbox loop while the row is there."""
    job, space = state.job, state.spaces[state.job.node]
    if job.status != LIVE or job.claimed or state.lives[job.node].status != READY:
        return
    if job.published and Rule.ROW_KEPT not in rules:
        return
    if job.attempt in space.offers and job.attempt in space.messages:
        return
    after = state._replace(job=job._replace(published=True))
    yield Move(f"server offers {job.attempt} to n{job.node}", offered(after, again=False))


def offered(state: State, *, again: bool) -> State:
    """The offer is set and a message sent; one that still lies there is not doubled unless `again`."""
    job, space = state.job, state.spaces[state.job.node]
    messages = space.messages
    if again or job.attempt not in messages:
        messages = (*messages, job.attempt)
    offers = tuple(sorted({*space.offers, job.attempt}))
    return with_space(state, job.node, space._replace(offers=offers, messages=messages))


def _ingest(state: State, index: int, rules: Rules) -> Moves:
    """The next event of a stream. A fenced or dead incarnation has no reader."""
    life, space = state.lives[index], state.spaces[index]
    if not space.events or (life.status != READY and Rule.ALIVE_ONLY in rules):
        return
    event = space.events[0]
    number, word, attempt = event
    label = f"server reads {word} {attempt} as #{number} of n{index}"
    after = with_space(state, index, space._replace(events=space.events[1:]))
    follows = number == life.ack + 1 or (Rule.CONTIGUOUS not in rules and number > life.ack)
    if not follows:
        yield Move(f"{label}: out of sequence", after)
        return
    after = with_life(after, index, life._replace(ack=number))
    after, wrong = _accept(after, index, event, rules)
    yield Move(label, after, wrong)


def _accept(state: State, index: int, event: Event, rules: Rules) -> tuple[State, Wrong | None]:
    """What the event does to the job; nothing if its attempt is not live there."""
    _, word, attempt = event
    job, ghost = state.job, state.ghost
    current = is_on(job, index, attempt)
    if current and word == SAID_CLAIMED:
        return state._replace(job=job._replace(claimed=True)), None
    if current and word == SAID_ENDED:
        return ended(state), None
    if word == SAID_DONE and (current or (Rule.LIVE_ONLY not in rules and attempt)):
        wrong = Wrong.TWO_ENDS if ghost.ends else None
        over = job._replace(status=OVER, claimed=False, deleting=False)
        return state._replace(job=over, ghost=ghost._replace(ends=ghost.ends + 1)), wrong
    return state, None


def _judge(state: State, index: int, rules: Rules) -> Moves:
    """A heartbeat: one that arrives at once, and one that was under way."""
    machine, life = state.machines[index], state.lives[index]
    if talks(state, index):
        now = Snapshot(held(machine), life.ack)
        yield from _answer(state, index, now, rules)
    if life.status == READY and machine.beat and machine.beat.last_seq is not None:
        after = change(state, index, beat=None)
        yield Move(f"late heartbeat of n{index} says nothing", after)
        yield from _answer(after, index, machine.beat, rules)


def _answer(state: State, index: int, beat: Snapshot, rules: Rules) -> Moves:
    job, space, life = state.job, state.spaces[index], state.lives[index]
    mine = is_on(job, index, job.attempt)
    unwanted = {a for a in beat.held if not is_on(job, index, a)}
    if mine and job.deleting:
        unwanted.add(job.attempt)
    wrong = None
    fresh = beat.last_seq == life.ack or Rule.FRESH_SNAPSHOT not in rules
    if mine and job.claimed and fresh and job.attempt not in beat.held:
        if Rule.VOID not in rules:
            yield Move(f"n{index} lacks {job.attempt}: server offers it anew", ended(state))
            return
        unwanted.add(job.attempt)
        if job.attempt in active(state.machines[index]) and not job.deleting:
            wrong = Wrong.STOPPED
    stops = tuple(sorted({*space.stops, *unwanted}))
    if stops != space.stops:
        after = with_space(state, index, space._replace(stops=stops))
        yield Move(f"heartbeat of n{index}: server wants {sorted(unwanted)} stopped", after, wrong)


def _fence(state: State, index: int, rules: Rules) -> Moves:
    """A silent node, its stream read to the end; and then its Redis user, which matters to one rule only."""
    life, machine = state.lives[index], state.machines[index]
    silent = machine.cut or machine.pace == FROZEN or not machine.worker
    if life.status == READY and silent and not state.spaces[index].events:
        if Rule.WAIT in rules:
            after = with_life(state, index, life._replace(status=FENCED))
            yield Move(f"server fences n{index}", after)
        else:
            yield Move(f"server gives n{index} up at once", buried(state, index))
    if life.status == FENCED and life.user and Rule.RENEWED_BY_ANSWER not in rules:
        after = with_life(state, index, life._replace(user=False))
        yield Move(f"server removes the Redis user of n{index}", after)


def _bury(state: State, index: int, rules: Rules) -> Moves:
    """A lease after the fence, in which every lease not renewed since has ended on its node."""
    if state.lives[index].status != FENCED:
        return
    machine = state.machines[index]
    idle = not (machine.container or machine.shim or machine.thread)
    unwatched = not machine.worker and Rule.SHIM_LEASE not in rules
    if not machine.lease or idle or machine.pace == FROZEN or machine.renewed or unwatched:
        after = buried(state, index)
        if machine.pace != FROZEN and not machine.renewed and not unwatched:
            after = change(after, index, lease=False)
        yield Move(f"server waited a lease: n{index} is dead", after)


def buried(state: State, index: int) -> State:
    """The incarnation is dead, and so is its attempt."""
    after = with_life(state, index, state.lives[index]._replace(status=DEAD))
    return ended(after) if state.job.status == LIVE and state.job.node == index else after


def sends_to(state: State, index: int, event: Event) -> State:
    """An event arrives in the node's stream."""
    space = state.spaces[index]
    return with_space(state, index, space._replace(events=(*space.events, event)))
