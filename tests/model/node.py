"""What a node does: `worker` (run, journal, jobs, shim, sweep, up, ctl, lease, enrol)."""

from tests.model.moves import (
    Move,
    Moves,
    active,
    change,
    ended,
    is_entered,
    is_on,
    is_waiting,
    noted,
    reaches,
    stopped,
    talks,
    told,
    with_life,
    with_machine,
    with_space,
    works,
    writes,
)
from tests.model.rules import Rule, Wrong
from tests.model.server import IN_STREAM, sends_to
from tests.model.state import (
    ASKING,
    CLAIMED,
    DEAD,
    ENDED,
    ENTERED,
    FENCED,
    FROZEN,
    GONE,
    LIVE,
    READY,
    RUNS,
    SAID_CLAIMED,
    SAID_DONE,
    SAID_ENDED,
    TAKEN,
    THAWED,
    TO_FETCH,
    TO_START,
    Life,
    Machine,
    Space,
    State,
    entry,
)

Rules = frozenset[Rule]


def moves(state: State, index: int, rules: Rules) -> Moves:
    yield from _message(state, index, rules)
    yield from _thread(state, index, rules)
    yield from _shim(state, index, rules)
    yield from _result(state, index, rules)
    yield from _send(state, index, rules)
    yield from _obey(state, index)
    yield from _lease(state, index, rules)
    yield from _life(state, index, rules)
    yield from _mend(state, index, rules)


# ---- a message's way


def _message(state: State, index: int, rules: Rules) -> Moves:
    machine, space = state.machines[index], state.spaces[index]
    busy = machine.thread or machine.shim or machine.container or machine.result
    if not space.messages or busy or not writes(state, index):
        return
    attempt = space.messages[0]
    taken = with_space(state, index, space._replace(messages=space.messages[1:]))
    if entry(machine, attempt) is not None:
        yield Move(f"n{index}: message {attempt} is known", taken)
        return
    if Rule.JOURNAL in rules:
        machine = noted(machine, attempt, ENTERED)
    machine = machine._replace(thread=(attempt, ASKING))
    yield Move(f"n{index}: message {attempt}, entered", with_machine(taken, index, machine))


def _thread(state: State, index: int, rules: Rules) -> Moves:
    machine = state.machines[index]
    if machine.thread is None or not works(machine) or machine.enrolling:
        return
    attempt, phase = machine.thread
    if phase == ASKING and writes(state, index):
        yield _ask(state, index, attempt)
    elif phase in (TAKEN, GONE):
        yield _record(state, index, rules)
    elif phase == TO_FETCH:
        yield _fetch(state, index, rules)
    elif phase == TO_START and machine.lease and machine.pace == RUNS:
        begun = machine._replace(thread=None, shim=attempt)
        yield Move(f"n{index}: asks for a shim for {attempt}", with_machine(state, index, begun))


def _ask(state: State, index: int, attempt: int) -> Move:
    """GETDEL."""
    space, machine = state.spaces[index], state.machines[index]
    if attempt not in space.offers:
        after = change(state, index, thread=(attempt, GONE))
        return Move(f"n{index}: no offer of {attempt}", after)
    offers = tuple(a for a in space.offers if a != attempt)
    after = with_space(state, index, space._replace(offers=offers))
    after = with_machine(after, index, machine._replace(thread=(attempt, TAKEN)))
    return Move(f"n{index}: takes the offer of {attempt}", after)


def _record(state: State, index: int, rules: Rules) -> Move:
    """The outcome of the claim into the journal, with its event."""
    machine = state.machines[index]
    attempt, phase = machine.thread or (0, "")
    machine = machine._replace(thread=None)
    if Rule.JOURNAL in rules and not is_entered(machine, attempt):
        return Move(f"n{index}: {attempt} ended before", with_machine(state, index, machine))
    word = CLAIMED if phase == TAKEN else ENDED
    if Rule.JOURNAL in rules:
        machine = noted(machine, attempt, word)
    if phase == TAKEN:
        machine = told(machine, SAID_CLAIMED, attempt)._replace(thread=(attempt, TO_FETCH))
    elif Rule.REFUSED_REPORTED in rules:
        machine = told(machine, SAID_ENDED, attempt)
    return Move(f"n{index}: {attempt} recorded as {word}", with_machine(state, index, machine))


def _fetch(state: State, index: int, rules: Rules) -> Move:
    """Over HTTPS; refused, or after a while without an answer, the attempt is given up."""
    machine = state.machines[index]
    attempt = (machine.thread or (0, ""))[0]
    given = is_on(state.job, index, attempt) or Rule.FETCH_LIVE not in rules
    if talks(state, index) and given:
        after = change(state, index, thread=(attempt, TO_START))
        return Move(f"n{index}: fetches {attempt}", after)
    machine = _given_up(machine, attempt)
    return Move(f"n{index}: cannot fetch {attempt}, gives up", with_machine(state, index, machine))


def _given_up(machine: Machine, attempt: int) -> Machine:
    return told(noted(machine, attempt, ENDED), SAID_ENDED, attempt)._replace(thread=None)


# ---- shim and container


def _shim(state: State, index: int, rules: Rules) -> Moves:
    machine = state.machines[index]
    if machine.shim and machine.pace == RUNS:
        yield _begin(state, index, rules)
    if machine.container and machine.pace != FROZEN:
        attempt, ghost = machine.container, state.ghost
        finishes = tuple(sorted({*ghost.finishes, (index, attempt)}))
        done = machine._replace(container=0, result=(attempt, SAID_DONE))
        after = with_machine(state, index, done)._replace(ghost=ghost._replace(finishes=finishes))
        yield Move(f"n{index}: {attempt} finishes", after)


def _begin(state: State, index: int, rules: Rules) -> Move:
    """The file `run` first; its stand-in here is the journal, which its loser or winner wrote."""
    machine, ghost = state.machines[index], state.ghost
    attempt = machine.shim
    if {Rule.RUN_FILE, Rule.JOURNAL} <= rules and attempt not in active(machine):
        after = change(state, index, shim=0)
        return Move(f"n{index}: shim of {attempt} is excluded", after)
    if not machine.lease and Rule.SHIM_LEASE in rules:
        after = with_machine(state, index, stopped(machine, SAID_ENDED))
        return Move(f"n{index}: shim of {attempt} has no lease", after)
    wrong = Wrong.TWO_STARTS if (index, attempt) in ghost.starts else None
    starts = tuple(sorted({*ghost.starts, (index, attempt)}))
    after = change(state, index, shim=0, container=attempt)
    after = after._replace(ghost=ghost._replace(starts=starts))
    return Move(f"n{index}: {attempt} starts", after, wrong)


def _result(state: State, index: int, rules: Rules) -> Moves:
    machine = state.machines[index]
    if machine.result is None or not works(machine) or machine.enrolling:
        return
    attempt, word = machine.result
    after = machine._replace(result=None)
    if Rule.JOURNAL not in rules or attempt in active(machine):
        after = told(noted(after, attempt, ENDED), word, attempt)
    if Rule.JOURNAL not in rules:
        after = after._replace(journal=())
    yield Move(f"n{index}: end of {attempt} into the outbox", with_machine(state, index, after))


# ---- words up and down


def acknowledged(state: State, index: int, rules: Rules) -> Move | None:
    """Reading the acknowledgement: local and in nobody's way, so it is taken before anything else."""
    machine, life = state.machines[index], state.lives[index]
    if not machine.outbox or machine.outbox[0][0] > life.ack or not talks(state, index):
        return None
    kept = tuple(event for event in machine.outbox if event[0] > life.ack)
    closed = {e[2] for e in machine.outbox if e[0] <= life.ack and e[1] != SAID_CLAIMED}
    after = machine._replace(outbox=kept)
    if Rule.JOURNAL_KEPT not in rules:
        journal = tuple(pair for pair in machine.journal if pair[0] not in closed)
        after = after._replace(journal=journal)
    return Move(f"n{index}: reads ack {life.ack}", with_machine(state, index, after))


def _send(state: State, index: int, rules: Rules) -> Moves:
    machine, space, life = state.machines[index], state.spaces[index], state.lives[index]
    heard = life.status == READY or Rule.ALIVE_ONLY not in rules
    if not heard or not reaches(machine) or len(space.events) >= IN_STREAM:
        return
    unsent = [e for e in machine.outbox if e[0] > life.ack and e not in space.events]
    if not unsent:
        return
    if Rule.EVENTS_KEPT not in rules:
        kept = tuple(e for e in machine.outbox if e != unsent[0])
        state = change(state, index, outbox=kept)
    number, word, attempt = unsent[0]
    label = f"n{index}: sends {word} {attempt} as #{number}"
    yield Move(label, sends_to(state, index, unsent[0]))


def _obey(state: State, index: int) -> Moves:
    """A control word; it stays in the stream and may be read again."""
    machine = state.machines[index]
    if not talks(state, index):
        return
    for attempt in state.spaces[index].stops:
        after = _ended_by_word(machine, attempt)
        if after != machine:
            label = f"n{index}: obeys, {attempt} is to end"
            yield Move(label, with_machine(state, index, after))


def _ended_by_word(machine: Machine, attempt: int) -> Machine:
    known = entry(machine, attempt)
    if known is None:
        return told(noted(machine, attempt, ENDED), SAID_ENDED, attempt)
    if is_waiting(machine, attempt):
        return _given_up(machine, attempt)
    if attempt in (machine.shim, machine.container):
        return stopped(machine, SAID_ENDED)
    return machine


# ---- lease and lives


def _lease(state: State, index: int, rules: Rules) -> Moves:
    machine, life = state.machines[index], state.lives[index]
    by_write = Rule.RENEWED_BY_ANSWER not in rules
    renewing = writes(state, index) if by_write else talks(state, index)
    guarded = machine.worker or Rule.SHIM_LEASE in rules
    busy = machine.container or machine.shim or machine.thread
    over = stopped(machine, SAID_ENDED)._replace(lease=False, pace=RUNS)
    if machine.pace == THAWED:
        if life.status != DEAD or machine.renewed:
            yield Move(f"n{index}: its lease is good", change(state, index, pace=RUNS))
        if guarded:
            label = f"n{index}: its lease is over, kills"
            yield Move(label, with_machine(state, index, over))
    elif machine.pace == RUNS and machine.lease and guarded and not renewing and busy:
        label = f"n{index}: lease over, kills"
        yield Move(label, with_machine(state, index, over))
    if not machine.lease and talks(state, index) and machine.pace == RUNS:
        yield Move(f"n{index}: an answer renews the lease", change(state, index, lease=True))
    if by_write and writes(state, index) and life.status == FENCED and not machine.renewed:
        after = change(state, index, renewed=True, lease=True, pace=RUNS)
        yield Move(f"n{index}: a write renews the lease", after)


def _life(state: State, index: int, rules: Rules) -> Moves:
    machine, life = state.machines[index], state.lives[index]
    if not works(machine) or machine.cut:
        return
    if machine.enrolling:
        yield Move(f"n{index}: enrols anew", _enrolled(state, index, rules))
    elif life.status != READY:
        after = machine._replace(enrolling=True, thread=None, beat=None)
        if Rule.SWEEP in rules:
            after = after._replace(shim=0, container=0, result=None)
        label = f"n{index}: hears that it is fenced, ends everything"
        yield Move(label, with_machine(state, index, after))


def _enrolled(state: State, index: int, rules: Rules) -> State:
    """Sweep, then a new incarnation; the server buries the one before."""
    machine, job = state.machines[index], state.job
    fresh = Machine()
    if Rule.SWEEP not in rules:
        fresh = fresh._replace(container=machine.container, shim=machine.shim)
    ack = 0 if Rule.ACK_PER_LIFE in rules else state.lives[index].ack
    state = with_life(state, index, Life(ack=ack))
    state = with_space(with_machine(state, index, fresh), index, Space())
    if job.node != index:
        return state
    if job.status == LIVE:
        state = ended(state)
    return state._replace(job=state.job._replace(same_life=False))


def _mend(state: State, index: int, rules: Rules) -> Moves:
    machine = state.machines[index]
    if machine.pace == FROZEN:
        yield Move(f"n{index}: thaws", change(state, index, pace=THAWED), mends=index)
    if machine.cut:
        yield Move(f"n{index}: is connected again", change(state, index, cut=False), mends=index)
    if not machine.worker and machine.pace != FROZEN:
        back = machine._replace(worker=True)
        if Rule.RECOVERY in rules and not machine.enrolling:
            back = _taken_over(back)
        yield Move(f"n{index}: worker restarts", with_machine(state, index, back), mends=index)


def _taken_over(machine: Machine) -> Machine:
    """What neither runs nor left a result never started; a shim that has not begun is excluded by that."""
    for attempt in active(machine):
        if attempt != machine.container and attempt not in (machine.result or ())[:1]:
            machine = told(noted(machine, attempt, ENDED), SAID_ENDED, attempt)
    return machine
