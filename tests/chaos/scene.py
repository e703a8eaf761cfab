"""What a fault gets to see and gives back, and how it finds a victim."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tests.chaos.load import Users
from tests.chaos.system import Node, System


@dataclass(frozen=True)
class Effect:
    """`undo` is called after `lasts_s` seconds, or at the end of the schedule; `whole`: not before its time."""

    what: str
    lasts_s: float = 0.0
    undo: Callable[[], object] = lambda: None
    whole: bool = False


@dataclass(frozen=True)
class Scene:
    """All that a fault may touch. `brief`: it is to be over soon."""

    system: System
    users: Users
    random: Random
    brief: bool = False

    def lasting_s(self, *choices: float) -> float:
        """One of these times; the first one when it is to be brief."""
        return choices[0] if self.brief else self.random.choice(choices)

    def node(self, *, lasting_s: float) -> Node | None:
        """A machine that is in no other trouble; at most half of them are in long trouble at a time."""
        free, everything = self.free_nodes(), len(self.system.nodes)
        if not free or everything - len(free) >= everything // 2:
            return None
        node = self.random.choice(free)
        node.busy_until = time.monotonic() + lasting_s + 1.0
        return node

    def free_nodes(self) -> list[Node]:
        nodes = self.system.nodes.values()
        now, pid = time.monotonic(), self.system.keeper.pid
        return [node for node in nodes if node.busy_until < now and pid(node.name)]


Fault = Callable[[Scene], Effect | None]


def one_process(scene: Scene, find: Callable[[Node], list[int]]) -> tuple[Node, int] | None:
    """A process of a machine that is in no other trouble, and has such a one."""
    found = [(node, pid) for node in scene.free_nodes() for pid in find(node)]
    return scene.random.choice(found) if found else None


def workers(scene: Scene) -> Callable[[Node], list[int]]:
    def find(node: Node) -> list[int]:
        pid = scene.system.keeper.pid(node.name)
        return [pid] if pid else []

    return find
