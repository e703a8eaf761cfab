"""Breadth-first search through all states, for the shortest way to one that breaks a promise."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.model import faults as things_wrong
from tests.model import node, server
from tests.model.checks import is_settled, is_well, wrong_in
from tests.model.moves import Move
from tests.model.rules import Fault, Rule, Wrong
from tests.model.state import State, normalise

LIMIT = 3_000_000
START = State()


class SearchTooLarge(Exception):
    """More states than the limit: nothing is known."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`wrong` is None when everything was searched and is well; `trace`: what leads there, step by step."""

    wrong: Wrong | None
    trace: tuple[str, ...]
    states: int

    def __str__(self) -> str:
        lines = [f"{self.wrong or 'no violation'} ({self.states} states)"]
        return "\n".join([*lines, *(f"  {n}. {step}" for n, step in enumerate(self.trace, 1))])


@dataclass(slots=True)
class Search:
    """One search. `faults`: kinds that may happen, each once, in any order. `seeking`: checks that end it."""

    rules: frozenset[Rule]
    faults: frozenset[Fault]
    seeking: frozenset[Wrong] = frozenset(Wrong)
    limit: int = LIMIT
    _reached: dict[State, tuple[State, str] | None] = field(default_factory=dict)
    _before: dict[State, list[State]] = field(default_factory=dict)

    def run(self) -> Finding:
        """Raises SearchTooLarge."""
        self._reached = {START: None}
        queue = deque([START])
        while queue:
            state = queue.popleft()
            for move in self._moves(state):
                finding = self._take(state, move, queue)
                if finding:
                    return finding
        return self._find_stuck()

    def _moves(self, state: State) -> Iterator[Move]:
        for index in (0, 1):
            move = node.acknowledged(state, index, self.rules)
            if move:
                yield move
                return
        yield from server.moves(state, self.rules)
        yield from node.moves(state, 0, self.rules)
        yield from node.moves(state, 1, self.rules)
        yield from things_wrong.moves(state, self.rules, self.faults)

    def _take(self, state: State, move: Move, queue: deque[State]) -> Finding | None:
        after = normalise(move.state, self.rules)
        wrong = move.wrong if move.wrong in self.seeking else None
        if _may_be_relied_on(state, move):
            self._before.setdefault(after, []).append(state)
        if after in self._reached:
            return self._finding(wrong, state, move.label) if wrong else None
        if len(self._reached) >= self.limit:
            raise SearchTooLarge(f"more than {self.limit} states")
        self._reached[after] = (state, move.label)
        queue.append(after)
        wrong = wrong or wrong_in(after)
        return self._finding(wrong, after) if wrong in self.seeking else None

    def _find_stuck(self) -> Finding:
        """A state from which no way without a fault leads to a settled one."""
        if Wrong.STUCK not in self.seeking:
            return Finding(None, (), len(self._reached))
        settled = {state for state in self._reached if is_settled(state)}
        waiting = deque(settled)
        while waiting:
            for state in self._before.get(waiting.popleft(), ()):
                if state not in settled:
                    settled.add(state)
                    waiting.append(state)
        for state in self._reached:  # in the order of the search: the first is the nearest
            if state not in settled:
                return self._finding(Wrong.STUCK, state)
        return Finding(None, (), len(self._reached))

    def _finding(self, wrong: Wrong | None, state: State, *last: str) -> Finding:
        trace = list(last)
        while step := self._reached[state]:
            state, label = step
            trace.append(label)
        return Finding(wrong, tuple(reversed(trace)), len(self._reached))


def _may_be_relied_on(state: State, move: Move) -> bool:
    """Not on faults, nor on the recovery of a node while the other one is well."""
    if move.is_fault:
        return False
    return move.mends is None or not is_well(state, 1 - move.mends)
