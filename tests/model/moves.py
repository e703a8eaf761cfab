"""A move from one state to the next, and the small words in which moves are written. No rule is decided here."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.model.rules import Wrong
from tests.model.state import (
    DEAD,
    ENDED,
    ENTERED,
    FROZEN,
    LIVE,
    OVER,
    QUEUED,
    READY,
    Event,
    Job,
    Life,
    Machine,
    Space,
    State,
)


class Move(NamedTuple):
    """`mends`: the node that gets well by it, which nothing may depend on while the other one is well."""

    label: str
    state: State
    wrong: Wrong | None = None
    is_fault: bool = False
    mends: int | None = None


Moves = Iterator[Move]


def with_machine(state: State, index: int, machine: Machine) -> State:
    first, second = state.machines
    pair = (machine, second) if index == 0 else (first, machine)
    return state._replace(machines=pair)


def with_space(state: State, index: int, space: Space) -> State:
    first, second = state.spaces
    return state._replace(spaces=(space, second) if index == 0 else (first, space))


def with_life(state: State, index: int, life: Life) -> State:
    first, second = state.lives
    return state._replace(lives=(life, second) if index == 0 else (first, life))


def change(state: State, index: int, **values: Any) -> State:
    """Some fields of a machine."""
    return with_machine(state, index, state.machines[index]._replace(**values))


def noted(machine: Machine, attempt: int, word: str) -> Machine:
    """The journal with this entry in this state."""
    others = [pair for pair in machine.journal if pair[0] != attempt]
    return machine._replace(journal=tuple(sorted([*others, (attempt, word)])))


def told(machine: Machine, word: str, attempt: int) -> Machine:
    """One more event in the outbox."""
    event: Event = (machine.next, word, attempt)
    return machine._replace(outbox=(*machine.outbox, event), next=machine.next + 1)


def works(machine: Machine) -> bool:
    """The worker can do something."""
    return machine.worker and machine.pace != FROZEN


def reaches(machine: Machine) -> bool:
    """... and it reaches Redis and the API in its incarnation."""
    return works(machine) and not machine.cut and not machine.enrolling


def talks(state: State, index: int) -> bool:
    """The node and the server hear each other."""
    return reaches(state.machines[index]) and state.lives[index].status == READY


def writes(state: State, index: int) -> bool:
    """Redis takes what the node writes."""
    life = state.lives[index]
    return reaches(state.machines[index]) and life.user and life.status != DEAD


def active(machine: Machine) -> tuple[int, ...]:
    """Attempts in the journal that have not ended."""
    return tuple(attempt for attempt, word in machine.journal if word != ENDED)


def held(machine: Machine) -> tuple[int, ...]:
    """The node's snapshot: what is active, and ends that are not acknowledged."""
    waiting = {attempt for _, _, attempt in machine.outbox}
    return tuple(a for a, word in machine.journal if word != ENDED or a in waiting)


def is_on(job: Job, index: int, attempt: int) -> bool:
    """The attempt is the current one, lives, and this node's present incarnation has it."""
    return job.status == LIVE and job.node == index and job.attempt == attempt and job.same_life


def ended(state: State) -> State:
    """The current attempt is over without effect: offered anew, or deleted if that was asked."""
    job, ghost = state.job, state.ghost
    if job.deleting:
        over = Job(status=OVER, attempt=job.attempt, node=job.node, same_life=job.same_life)
        return state._replace(
            job=over._replace(published=job.published), ghost=ghost._replace(ends=ghost.ends + 1)
        )
    queued = Job(status=QUEUED, attempt=job.attempt, node=job.node)
    return state._replace(job=queued._replace(published=job.published, same_life=job.same_life))


def stopped(machine: Machine, word: str) -> Machine:
    """Container and shim are gone; what became of the attempt is in the result."""
    attempt = machine.container or machine.shim
    if not attempt:
        return machine
    return machine._replace(container=0, shim=0, result=(attempt, word))


def is_waiting(machine: Machine, attempt: int) -> bool:
    """In the journal, and no shim was asked for."""
    return attempt in active(machine) and attempt not in (
        machine.shim,
        machine.container,
        *(machine.result or ())[:1],
    )


def is_entered(machine: Machine, attempt: int) -> bool:
    return (attempt, ENTERED) in machine.journal
