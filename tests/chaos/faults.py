"""What can go wrong, as functions over the system: each does its harm and returns how long it lasts and its undoing.

A fault that cannot be had right now (its victim is down already, or in the middle of another one) returns None.
"""

import shutil
import signal
import time
from collections.abc import Callable

from tests.chaos import machine
from tests.chaos.database_faults import (
    empty_redis,
    flush,
    postgres_away,
    redis_away,
    restart_postgres,
    restart_redis,
    stop_postgres,
    stop_redis,
)
from tests.chaos.message_faults import (
    double_messages,
    double_outbox,
    drop_keys,
    lose_offers,
    spoil_events,
)
from tests.chaos.network_faults import block, pull, spoil
from tests.chaos.proxy import Mode
from tests.chaos.scene import Effect, Fault, Scene, one_process, workers
from tests.chaos.system import LEASE_S, Node

BURST = 15  # posts
KILL, STOP, CONT = signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT


def kill_server(name: str) -> Fault:
    def fault(scene: Scene) -> Effect | None:
        return Effect(name) if scene.system.keeper.send(name, KILL) else None

    return fault


def stop_server(name: str) -> Fault:
    def fault(scene: Scene) -> Effect | None:
        lasts_s = scene.lasting_s(1.0, scene.random.uniform(0.5, 1.5 * LEASE_S))
        pid = scene.system.keeper.pid(name)
        if pid is None:
            return None
        machine.send(pid, STOP)
        return Effect(f"{name} for {lasts_s:.1f} s", lasts_s, lambda: machine.send(pid, CONT))

    return fault


def kill_api_in_posts(scene: Scene) -> Effect | None:
    """Many jobs are posted at once, and the API dies in the middle of it."""
    if scene.system.keeper.pid("api") is None:
        return None
    scene.users.hurry(BURST)
    time.sleep(scene.random.uniform(0.02, 0.15))
    scene.system.keeper.send("api", KILL)
    return Effect(f"{BURST} at once")


def _spawners(_: Scene) -> Callable[[Node], list[int]]:
    return lambda node: machine.spawners(node.data)


def _shims(_: Scene) -> Callable[[Node], list[int]]:
    return lambda node: machine.shims(node.data)


Finder = Callable[[Scene], Callable[[Node], list[int]]]


def kill_one(finder: Finder) -> Fault:
    def fault(scene: Scene) -> Effect | None:
        found = one_process(scene, finder(scene))
        if found is None:
            return None
        machine.send(found[1], KILL)
        return Effect(f"{found[0].name} process {found[1]}")

    return fault


def stop_one(finder: Finder, longest_s: float) -> Fault:
    def fault(scene: Scene) -> Effect | None:
        found = one_process(scene, finder(scene))
        if found is None:
            return None
        node, pid = found
        lasts_s = scene.lasting_s(1.0, scene.random.uniform(0.5, longest_s))
        machine.send(pid, STOP)
        what = f"{node.name} process {pid} for {lasts_s:.1f} s"
        return Effect(what, lasts_s, lambda: machine.send(pid, CONT))

    return fault


# ---- machines and their network


def freeze(*choices_s: float) -> Fault:
    """The whole machine stands still and goes on as if nothing had happened."""

    def fault(scene: Scene) -> Effect | None:
        return _freeze(scene, scene.lasting_s(*choices_s))

    return fault


def _freeze(scene: Scene, lasts_s: float) -> Effect | None:
    node = scene.node(lasting_s=lasts_s)
    if node is None:
        return None
    begin = machine.uptime()
    scene.system.keeper.send(node.name, STOP)
    machine.signal_all(node.data, STOP)
    node.thaws.append((begin, float("inf")))
    index = len(node.thaws) - 1

    def thaw() -> None:
        node.thaws[index] = (begin, machine.uptime())
        machine.signal_all(
            node.data, CONT, newest_first=True
        )  # jobs may go on before who ends them
        scene.system.keeper.send(node.name, CONT)

    return Effect(f"{node.name} for {lasts_s:.1f} s", lasts_s, thaw)


def reboot(scene: Scene) -> Effect | None:
    """All its processes end at once; it comes back with its disk and another boot id."""
    node = scene.node(lasting_s=1.0)
    if node is None:
        return None
    scene.system.kill_machine(node)
    (node.data / "id").unlink(missing_ok=True)
    return Effect(node.name, 0.5, lambda: scene.system.keeper.hold(node.name, held=False))


def lose(scene: Scene) -> Effect | None:
    """A machine is gone for good, with its disk; another one comes."""
    node = scene.node(lasting_s=1.0)
    if node is None:
        return None
    scene.system.retire(node)
    return Effect(node.name, scene.random.uniform(0.5, 5), scene.system.add_node)


def wipe(scene: Scene) -> Effect | None:
    """The worker and its data directory are gone, its shims and jobs go on; it is enrolled again, with a new token."""
    node = scene.node(lasting_s=3.0)
    if node is None:
        return None
    keeper = scene.system.keeper
    keeper.hold(node.name, held=True)
    keeper.send(node.name, KILL)
    for pid in machine.spawners(node.data):
        machine.send(pid, KILL)
    shutil.rmtree(node.data, ignore_errors=True)

    def enrol() -> None:
        shutil.rmtree(node.data, ignore_errors=True)
        scene.system.new_token(node.name)
        keeper.hold(node.name, held=False)

    return Effect(node.name, scene.random.uniform(0.2, 3.0), enrol)


def fill_disk(scene: Scene) -> Effect | None:
    lasts_s = scene.lasting_s(3.0, scene.random.uniform(1.0, 6.0))
    node = scene.node(lasting_s=lasts_s)
    if node is None or not node.has_disk:
        return None
    node.was_full = True
    filler = machine.fill_disk(node.data)
    return Effect(f"{node.name} for {lasts_s:.1f} s", lasts_s, lambda: filler.unlink(True))


FAULTS: dict[str, tuple[int, Fault]] = {
    "api killed": (2, kill_server("api")),
    "api killed in POSTs": (3, kill_api_in_posts),
    "scheduler killed": (2, kill_server("scheduler")),
    "ingest killed": (2, kill_server("ingest")),
    "outbox+reconciler killed": (2, kill_server("control")),
    "api stopped": (1, stop_server("api")),
    "scheduler stopped": (1, stop_server("scheduler")),
    "ingest stopped": (1, stop_server("ingest")),
    "outbox+reconciler stopped": (1, stop_server("control")),
    "worker killed": (4, kill_one(workers)),
    "spawner killed": (2, kill_one(_spawners)),
    "shim killed": (3, kill_one(_shims)),
    "worker stopped": (2, stop_one(workers, 2.5 * LEASE_S)),
    "spawner stopped": (1, stop_one(_spawners, LEASE_S)),
    "shim stopped": (2, stop_one(_shims, 0.8 * LEASE_S)),
    "FLUSHALL": (3, flush),
    "Redis restarted": (2, restart_redis),
    "Redis restarted empty": (2, empty_redis),
    "Redis away": (2, redis_away(3.0, 8.0, 2.5 * LEASE_S)),
    "Redis away for a minute": (1, redis_away(60.0, whole=True)),
    "Redis stopped": (2, stop_redis),
    "PostgreSQL restarted": (2, restart_postgres),
    "PostgreSQL away": (1, postgres_away(2.0, 6.0, 2 * LEASE_S)),
    "PostgreSQL away for 30 s": (1, postgres_away(30.0, whole=True)),
    "PostgreSQL stopped": (1, stop_postgres),
    "node frozen": (1, freeze(2.0, 0.6 * LEASE_S)),
    "node frozen past its lease": (2, freeze(1.6 * LEASE_S, 2.6 * LEASE_S)),
    "node rebooted": (2, reboot),
    "node lost": (2, lose),
    "node wiped": (2, wipe),
    "disk full": (2, fill_disk),
    "cable pulled": (2, pull(2.0, 0.9 * LEASE_S)),
    "cable pulled past the lease": (3, pull(1.4 * LEASE_S, 2.6 * LEASE_S)),
    "answers cut off": (2, block(1.4 * LEASE_S, 2.0, 2.6 * LEASE_S)),
    "network closed": (2, spoil(Mode.CLOSED)),
    "network dropped": (1, spoil(Mode.DROPPED)),
    "network slow": (2, spoil(Mode.DELAYED)),
    "messages doubled": (3, double_messages),
    "keys dropped": (2, drop_keys),
    "events lost": (3, spoil_events(lose_all=True)),
    "events reordered": (2, spoil_events(lose_all=False)),
    "offers lost": (3, lose_offers),
    "outbox doubled": (2, double_outbox),
}

LONG = {"Redis away for a minute", "PostgreSQL away for 30 s"}
"""Not for a schedule that is to be short; shorter ones of their kind are."""

CABLES = {"cable pulled", "cable pulled past the lease", "answers cut off"}
"""Only for nodes in network namespaces."""
