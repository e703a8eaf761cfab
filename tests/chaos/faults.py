"""What can go wrong, as functions over the system: each does its harm and returns how long it lasts and its undoing.

A fault that cannot be had right now (its victim is down already, or in the middle of another one) returns None.
"""

import base64
import json
import shutil
import signal
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from celery import Celery

from tests.chaos import machine
from tests.chaos.load import Users
from tests.chaos.proxy import Mode
from tests.chaos.system import LEASE_S, Node, System

app = Celery("chaos", set_as_current=False)
BURST = 15  # posts
KILL, STOP, CONT = signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT


@dataclass(frozen=True)
class Effect:
    """`undo` is called after `lasts_s` seconds, or at the end of the schedule."""

    what: str
    lasts_s: float = 0.0
    undo: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Scene:
    """All that a fault may touch."""

    system: System
    users: Users
    random: Random

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


def kill_server(name: str) -> Fault:
    def fault(scene: Scene) -> Effect | None:
        return Effect(name) if scene.system.keeper.send(name, KILL) else None

    return fault


def stop_server(name: str) -> Fault:
    def fault(scene: Scene) -> Effect | None:
        lasts_s = scene.random.uniform(0.5, 1.5 * LEASE_S)
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


def _one(scene: Scene, find: Callable[[Node], list[int]]) -> tuple[Node, int] | None:
    """A process of a machine that is in no other trouble, and has such a one."""
    found = [(node, pid) for node in scene.free_nodes() for pid in find(node)]
    return scene.random.choice(found) if found else None


def _worker(scene: Scene) -> Callable[[Node], list[int]]:
    def find(node: Node) -> list[int]:
        pid = scene.system.keeper.pid(node.name)
        return [pid] if pid else []

    return find


def _spawners(_: Scene) -> Callable[[Node], list[int]]:
    return lambda node: machine.spawners(node.data)


def _shims(_: Scene) -> Callable[[Node], list[int]]:
    return lambda node: machine.shims(node.data)


Finder = Callable[[Scene], Callable[[Node], list[int]]]


def kill_one(finder: Finder) -> Fault:
    def fault(scene: Scene) -> Effect | None:
        found = _one(scene, finder(scene))
        if found is None:
            return None
        machine.send(found[1], KILL)
        return Effect(f"{found[0].name} process {found[1]}")

    return fault


def stop_one(finder: Finder, longest_s: float) -> Fault:
    def fault(scene: Scene) -> Effect | None:
        found = _one(scene, finder(scene))
        if found is None:
            return None
        node, pid = found
        lasts_s = scene.random.uniform(0.5, longest_s)
        machine.send(pid, STOP)
        what = f"{node.name} process {pid} for {lasts_s:.1f} s"
        return Effect(what, lasts_s, lambda: machine.send(pid, CONT))

    return fault


# ---- Redis and PostgreSQL


def flush(scene: Scene) -> Effect | None:
    scene.system.redis.flush()
    return Effect("everything, users too")


def restart_redis(scene: Scene) -> Effect | None:
    if scene.system.redis.process is None:
        return None
    number = scene.random.choice([signal.SIGTERM, KILL])
    scene.system.restart_redis(number=number, forget=False)
    return Effect(f"{number.name}, with its data")


def empty_redis(scene: Scene) -> Effect | None:
    if scene.system.redis.process is None:
        return None
    scene.system.restart_redis(number=KILL, forget=True)
    return Effect("without its data")


def redis_away(scene: Scene) -> Effect | None:
    if scene.system.redis.process is None:
        return None
    forget = scene.random.random() < 0.5
    lasts_s = scene.random.choice([3.0, 8.0, 2.5 * LEASE_S])
    scene.system.stop_redis(KILL, forget=forget)
    return Effect(f"for {lasts_s} s, forget={forget}", lasts_s, scene.system.redis.start)


def restart_postgres(scene: Scene) -> Effect | None:
    postgres = scene.system.world.postgres
    if postgres.process is None:
        return None
    postgres.stop()
    postgres.serve()
    return Effect("as after a crash")


def postgres_away(scene: Scene) -> Effect | None:
    postgres = scene.system.world.postgres
    if postgres.process is None:
        return None
    lasts_s = scene.random.choice([2.0, 6.0, 2.0 * LEASE_S])
    postgres.stop()
    return Effect(f"for {lasts_s} s", lasts_s, postgres.serve)


# ---- machines and their network


def freeze(scene: Scene) -> Effect | None:
    """The whole machine stands still, past its lease or not, and goes on as if nothing had happened."""
    lasts_s = scene.random.choice([2.0, 1.2 * LEASE_S, 2.6 * LEASE_S])
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
        machine.signal_all(node.data, CONT)
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
    node = scene.node(lasting_s=6.0)
    if node is None or not node.has_disk:
        return None
    node.was_full = True
    filler = machine.fill_disk(node.data)
    lasts_s = scene.random.uniform(1.0, 6.0)
    return Effect(f"{node.name} for {lasts_s:.1f} s", lasts_s, lambda: filler.unlink(True))


def cut(mode: Mode) -> Fault:
    def fault(scene: Scene) -> Effect | None:
        lasts_s = scene.random.choice([2.0, 0.9 * LEASE_S, 1.4 * LEASE_S, 2.6 * LEASE_S])
        node = scene.node(lasting_s=lasts_s)
        if node is None:
            return None
        ways = scene.random.choice([(node.api, node.redis)] * 2 + [(node.api,), (node.redis,)])
        delay_s = scene.random.uniform(0.2, 1.5) if mode is Mode.DELAYED else 0.0
        for way in ways:
            scene.system.network.become(way, mode, delay_s)

        def heal() -> None:
            for way in ways:
                scene.system.network.become(way, Mode.OPEN)

        names = "+".join("api" if way is node.api else "redis" for way in ways)
        return Effect(f"{node.name} {names} for {lasts_s:.1f} s", lasts_s, heal)

    return fault


# ---- messages


def double_messages(scene: Scene) -> Effect | None:
    """Messages of attempts, old and new, come again, some with their offers."""
    rows = scene.system.query(
        "SELECT a.job_id, a.number, p.rank, p.incarnation FROM jobs_placement p "
        "JOIN jobs_attempt a ON a.id = p.attempt_id JOIN clouds_incarnation i ON i.id = p.incarnation "
        "WHERE i.status = 'ready' ORDER BY a.id DESC LIMIT 60"
    )
    chosen = scene.random.sample(rows, min(20, len(rows)))
    with scene.system.redis_client() as client:
        for job, attempt, rank, incarnation in chosen:
            prefix, key = f"n.{incarnation}:", [job, attempt, rank]
            if scene.random.random() < 0.5:
                offer = json.dumps({"version": 1, "key": key})
                client.set(f"{prefix}offer:{job}.{attempt}.{rank}", offer)
            client.lpush(f"{prefix}jobs", celery_message([key]))
    return Effect(f"{len(chosen)} messages")


def celery_message(keys: list[list[int]]) -> bytes:
    """As kombu's Redis transport keeps it."""
    kwargs = {"batch": "chaos", "keys": keys}
    message = app.amqp.as_task_v2(uuid.uuid4().hex, "prominence.run", args=(), kwargs=kwargs)
    properties = {
        **message.properties,
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": "jobs"},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": uuid.uuid4().hex,
    }
    envelope = {
        "body": base64.b64encode(json.dumps(message.body).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": message.headers,
        "properties": properties,
    }
    return json.dumps(envelope).encode()


def drop_keys(scene: Scene) -> Effect | None:
    """Half of what Redis holds for nodes is lost: queues, offers, events, words, output."""
    with scene.system.redis_client() as client:
        names = sorted(client.scan_iter(match="n.*", count=1000))
        lost = [name for name in names if scene.random.random() < 0.5]
        if lost:
            client.delete(*lost)
    return Effect(f"{len(lost)} of {len(names)} keys")


def double_outbox(scene: Scene) -> Effect | None:
    """Everything in the outbox is published again, early."""
    scene.system.execute("UPDATE jobs_outbox SET due_at = now() - interval '1 second'")
    return Effect("all rows due")


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
    "worker killed": (4, kill_one(_worker)),
    "spawner killed": (2, kill_one(_spawners)),
    "shim killed": (3, kill_one(_shims)),
    "worker stopped": (2, stop_one(_worker, 2.5 * LEASE_S)),
    "spawner stopped": (1, stop_one(_spawners, LEASE_S)),
    "shim stopped": (2, stop_one(_shims, 0.8 * LEASE_S)),
    "FLUSHALL": (3, flush),
    "Redis restarted": (2, restart_redis),
    "Redis restarted empty": (2, empty_redis),
    "Redis away": (2, redis_away),
    "PostgreSQL restarted": (2, restart_postgres),
    "PostgreSQL away": (1, postgres_away),
    "node frozen": (3, freeze),
    "node rebooted": (2, reboot),
    "node lost": (2, lose),
    "node wiped": (2, wipe),
    "disk full": (2, fill_disk),
    "network closed": (2, cut(Mode.CLOSED)),
    "network dropped": (2, cut(Mode.DROPPED)),
    "network slow": (2, cut(Mode.DELAYED)),
    "messages doubled": (3, double_messages),
    "keys dropped": (2, drop_keys),
    "outbox doubled": (2, double_outbox),
}
