"""What must hold: in each state, and from each state on. Looks at states only, knows no step."""

from tests.model.rules import Fault, Wrong
from tests.model.state import LIVE, OVER, READY, RUNS, SAID_DONE, State


def wrong_in(state: State) -> Wrong | None:
    """What is wrong in this state, if anything. Machines frozen or just thawed are not counted."""
    containers = [m.container for m in state.machines if m.pace == RUNS and m.container]
    if len(containers) > 1:
        return Wrong.TWO_CONTAINERS
    if containers and state.job.status == OVER:
        return Wrong.RUNS_ON
    if _finish_forgotten(state):
        return Wrong.FORGOTTEN
    return None


def _finish_forgotten(state: State) -> bool:
    """The server waits for an attempt that has finished on a node that is well, and nothing there says so."""
    job = state.job
    index, attempt = job.node, job.attempt
    machine = state.machines[index]
    if job.status != LIVE or (index, attempt) not in state.ghost.finishes:
        return False
    if state.lives[index].status != READY or machine.enrolling or Fault.DISK in state.used:
        return False
    said = [event[1:] for event in machine.outbox + state.spaces[index].events]
    return machine.result != (attempt, SAID_DONE) and (SAID_DONE, attempt) not in said


def is_settled(state: State) -> bool:
    """The job is over, and nothing of it is left on a machine that runs."""
    running = [m for m in state.machines if m.pace == RUNS]
    return state.job.status == OVER and not any(m.container or m.shim for m in running)


def is_well(state: State, index: int) -> bool:
    """The node could do all the work alone."""
    machine = state.machines[index]
    return machine.pace == RUNS and machine.worker and not machine.cut
