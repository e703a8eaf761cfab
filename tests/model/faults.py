"""What goes wrong, each kind at most once in a run, and only where it can matter."""

from collections.abc import Callable, Mapping

from tests.model.moves import (
    Move,
    Moves,
    change,
    ended,
    held,
    is_on,
    reaches,
    stopped,
    talks,
    told,
    with_life,
    with_machine,
    with_space,
    works,
)
from tests.model.rules import Fault, Rule
from tests.model.server import IN_STREAM, offered
from tests.model.state import (
    ASKING,
    FENCED,
    FROZEN,
    LIVE,
    OVER,
    QUEUED,
    READY,
    RUNS,
    SAID_ENDED,
    SAID_OTHER,
    Snapshot,
    Space,
    State,
)

Rules = frozenset[Rule]
AFTER_THE_END = frozenset({Fault.DOUBLE})  # other faults change nothing once the job is over


def moves(state: State, rules: Rules, faults: frozenset[Fault]) -> Moves:
    for fault in sorted(faults - state.used):
        if state.job.status == OVER and fault not in AFTER_THE_END:
            continue
        for move in _MAKERS[fault](state, rules):
            after = move.state._replace(used=state.used | {fault})
            yield move._replace(state=after, is_fault=True)
    yield from _late_heartbeat(state)


def _at_nodes(make: Callable[[State, int, Rules], Moves]) -> Callable[[State, Rules], Moves]:
    """A fault of one node, if anything happens there."""

    def both(state: State, rules: Rules) -> Moves:
        for index in (0, 1):
            if _matters(state, index):
                yield from make(state, index, rules)

    return both


def _matters(state: State, index: int) -> bool:
    job, machine = state.job, state.machines[index]
    here = job.status == LIVE and job.node == index
    inside = machine.container or machine.shim or machine.thread or machine.result
    return bool(here or inside or machine.outbox or state.spaces[index].messages)


# ---- words


def _lose(state: State, index: int, _rules: Rules) -> Moves:
    space, machine = state.spaces[index], state.machines[index]
    if space.messages:
        after = with_space(state, index, space._replace(messages=space.messages[1:]))
        yield Move(f"message {space.messages[0]} to n{index} is lost", after)
    if space.events:
        after = with_space(state, index, space._replace(events=space.events[1:]))
        yield Move(f"event #{space.events[0][0]} of n{index} is lost", after)
    attempt, phase = machine.thread or (0, "")
    if phase == ASKING and attempt in space.offers:
        offers = tuple(a for a in space.offers if a != attempt)
        after = with_space(state, index, space._replace(offers=offers))
        yield Move(f"n{index} takes the offer of {attempt} but hears no answer", after)


def _double(state: State, _rules: Rules) -> Moves:
    job = state.job
    space = state.spaces[job.node]
    if job.published and job.same_life and len(space.messages) < 2:
        label = f"offer of {job.attempt} to n{job.node} is published late once more"
        yield Move(label, offered(state, again=True))
    for index in (0, 1):
        space = state.spaces[index]
        if 0 < len(space.events) < IN_STREAM:
            events = (*space.events, space.events[0])
            after = with_space(state, index, space._replace(events=events))
            yield Move(f"event #{events[0][0]} of n{index} is doubled", after)


def _reorder(state: State, index: int, _rules: Rules) -> Moves:
    space = state.spaces[index]
    if len(space.events) > 1:
        first, second, *rest = space.events
        after = with_space(state, index, space._replace(events=(second, first, *rest)))
        yield Move(f"events of n{index} change places", after)


def _flush(state: State, _rules: Rules) -> Moves:
    if any(space != Space() for space in state.spaces):
        yield Move("FLUSHALL", state._replace(spaces=(Space(), Space())))


def _other(state: State, index: int, _rules: Rules) -> Moves:
    machine = state.machines[index]
    if reaches(machine):
        after = with_machine(state, index, told(machine, SAID_OTHER, 0))
        yield Move(f"n{index}: event of another job", after)


# ---- machines


def _worker(state: State, index: int, _rules: Rules) -> Moves:
    if works(state.machines[index]):
        after = change(state, index, worker=False, thread=None, beat=None)
        yield Move(f"n{index}: worker killed", after)


def _shim(state: State, index: int, _rules: Rules) -> Moves:
    machine = state.machines[index]
    if machine.shim or machine.container:
        yield Move(
            f"n{index}: shim killed", with_machine(state, index, stopped(machine, SAID_ENDED))
        )


def _freeze(state: State, index: int, _rules: Rules) -> Moves:
    if state.machines[index].pace == RUNS:
        yield Move(f"n{index}: freezes", change(state, index, pace=FROZEN))


def _reboot(state: State, index: int, rules: Rules) -> Moves:
    machine = state.machines[index]
    gone = machine._replace(worker=False, pace=RUNS, thread=None, shim=0, container=0, beat=None)
    gone = gone._replace(enrolling=machine.enrolling or Rule.NEW_LIFE in rules)
    yield Move(f"n{index}: reboots", with_machine(state, index, gone))


def _disk(state: State, index: int, rules: Rules) -> Moves:
    machine = state.machines[index]
    if machine.pace == FROZEN:
        return
    bare = machine._replace(worker=False, thread=None, journal=(), result=None, beat=None)
    bare = bare._replace(outbox=(), next=1, enrolling=machine.enrolling or Rule.NEW_LIFE in rules)
    yield Move(f"n{index}: data directory lost, worker dies", with_machine(state, index, bare))


def _cut(state: State, index: int, _rules: Rules) -> Moves:
    if not state.machines[index].cut:
        yield Move(f"n{index}: is cut off", change(state, index, cut=True))


# ---- the server's doubts, and the user


def _uncounted(state: State, index: int, _rules: Rules) -> Moves:
    life = state.lives[index]
    if life.status == READY:
        after = with_life(state, index, life._replace(status=FENCED))
        yield Move(f"server fences n{index}, which works", after)


def _impatience(state: State, rules: Rules) -> Moves:
    job = state.job
    if job.status != LIVE or job.claimed or not job.published:
        return
    if state.lives[job.node].status != READY:
        return
    if Rule.VOID not in rules:
        yield Move(f"{job.attempt} is not claimed: server offers it anew", ended(state))
        return
    space = state.spaces[job.node]
    stops = tuple(sorted({*space.stops, job.attempt}))
    after = with_space(state, job.node, space._replace(stops=stops))
    yield Move(f"{job.attempt} is not claimed: server withdraws it", after)


def _late(state: State, index: int, rules: Rules) -> Moves:
    """A heartbeat is made, and judged some time later. It may say more was sent than is acknowledged."""
    machine = state.machines[index]
    if not talks(state, index):
        return
    if Rule.SNAPSHOT_LAST not in rules:
        beat = Snapshot(held(machine), None)
        yield Move(f"n{index}: begins a heartbeat", change(state, index, beat=beat))
        return
    for last in {state.lives[index].ack, machine.next - 1}:
        beat = Snapshot(held(machine), last)
        yield Move(f"n{index}: heartbeat up to #{last}, under way", change(state, index, beat=beat))


def _late_heartbeat(state: State) -> Moves:
    """With the rule off that `last_seq` comes first: it is fixed now."""
    for index in (0, 1):
        machine = state.machines[index]
        if machine.beat and machine.beat.last_seq is None and talks(state, index):
            beat = Snapshot(machine.beat.held, machine.next - 1)
            label = f"n{index}: ends the heartbeat, up to #{beat.last_seq}"
            yield Move(label, change(state, index, beat=beat))


def _users(state: State, index: int, _rules: Rules) -> Moves:
    life = state.lives[index]
    if life.status == FENCED and not life.user:
        after = with_life(state, index, life._replace(user=True))
        yield Move(f"Redis restarts and knows the user of n{index} again", after)


def _delete(state: State, rules: Rules) -> Moves:
    """One that waits is over at once; one that is live when its node has said so."""
    job, ghost = state.job, state.ghost
    if job.status == QUEUED or Rule.PROVEN not in rules:
        over = job._replace(status=OVER, claimed=False)
        after = state._replace(job=over, ghost=ghost._replace(ends=ghost.ends + 1))
        yield Move("user deletes the job: over", after)
    elif is_on(job, job.node, job.attempt):
        after = state._replace(job=job._replace(deleting=True))
        yield Move("user asks for the job's deletion", after)


_MAKERS: Mapping[Fault, Callable[[State, Rules], Moves]] = {
    Fault.LOSE: _at_nodes(_lose),
    Fault.DOUBLE: _double,
    Fault.REORDER: _at_nodes(_reorder),
    Fault.FLUSH: _flush,
    Fault.WORKER: _at_nodes(_worker),
    Fault.SHIM: _at_nodes(_shim),
    Fault.FREEZE: _at_nodes(_freeze),
    Fault.REBOOT: _at_nodes(_reboot),
    Fault.DISK: _at_nodes(_disk),
    Fault.CUT: _at_nodes(_cut),
    Fault.UNCOUNTED: _at_nodes(_uncounted),
    Fault.IMPATIENCE: _impatience,
    Fault.LATE: _at_nodes(_late),
    Fault.USERS: _at_nodes(_users),
    Fault.OTHER: _at_nodes(_other),
    Fault.DELETE: _delete,
}
