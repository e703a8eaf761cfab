"""The graph of a workflow's jobs: pure functions over names.

Dependencies are by exact name (X18). Owns cycles (X19), unknown names and the distinct parent sets that joins are
made of. Every function is linear in the number of edges.
"""

from collections.abc import Mapping, Sequence

Dependencies = Mapping[str, Sequence[str]]


def find_cycle(dependencies: Dependencies) -> list[str]:
    """Names along one cycle, the first one repeated at the end; [] when there is none. Not recursive."""
    finished: set[str] = set()
    for root in dependencies:
        if root in finished:
            continue
        path: list[str] = [root]
        on_path = {root}
        rest = [iter(dependencies.get(root, ()))]
        while path:
            child = next(rest[-1], None)
            if child is None:
                rest.pop()
                done = path.pop()
                on_path.discard(done)
                finished.add(done)
            elif child in on_path:
                return [*path[path.index(child) :], child]
            elif child not in finished:
                path.append(child)
                on_path.add(child)
                rest.append(iter(dependencies.get(child, ())))
    return []


def parents_of(dependencies: Dependencies) -> dict[str, frozenset[str]]:
    """The parents of every name that has some."""
    parents: dict[str, set[str]] = {}
    for parent, children in dependencies.items():
        for child in children:
            parents.setdefault(child, set()).add(parent)
    return {child: frozenset(names) for child, names in parents.items()}


def parent_sets(dependencies: Dependencies) -> dict[frozenset[str], list[str]]:
    """Each distinct parent set with the names that wait for exactly it: one join each."""
    joins: dict[frozenset[str], list[str]] = {}
    for child, parents in parents_of(dependencies).items():
        joins.setdefault(parents, []).append(child)
    return joins
