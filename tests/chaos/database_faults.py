"""What can go wrong with Redis and PostgreSQL: flushed, restarted, emptied, away, standing still."""

import signal

from prominence.embedded.processes import descendants
from tests.chaos import machine
from tests.chaos.scene import Effect, Fault, Scene
from tests.chaos.system import LEASE_S

KILL, STOP, CONT = signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT


def flush(scene: Scene) -> Effect | None:
    if scene.system.redis_pid is None:
        return None
    scene.system.redis.flush()
    return Effect("everything, users too")


def restart_redis(scene: Scene) -> Effect | None:
    if scene.system.redis_pid is None:
        return None
    number = scene.random.choice([signal.SIGTERM, KILL])
    scene.system.restart_redis(number=number, forget=False)
    return Effect(f"{number.name}, with its data")


def empty_redis(scene: Scene) -> Effect | None:
    if scene.system.redis_pid is None:
        return None
    scene.system.restart_redis(number=KILL, forget=True)
    return Effect("without its data")


def redis_away(*choices_s: float, whole: bool = False) -> Fault:
    def fault(scene: Scene) -> Effect | None:
        if scene.system.redis_pid is None:
            return None
        forget = scene.random.random() < 0.5
        lasts_s = scene.lasting_s(*choices_s)
        scene.system.stop_redis(KILL, forget=forget)
        what = f"for {lasts_s} s, forget={forget}"
        return Effect(what, lasts_s, scene.system.redis.start, whole)

    return fault


def stop_redis(scene: Scene) -> Effect | None:
    """It takes connections and words, and answers nothing."""
    pid = scene.system.redis_pid
    if pid is None:
        return None
    return _halt(scene, "redis", {pid})


def restart_postgres(scene: Scene) -> Effect | None:
    if scene.system.postgres_pid is None:
        return None
    scene.system.world.postgres.stop()
    scene.system.world.postgres.serve()
    return Effect("as after a crash")


def postgres_away(*choices_s: float, whole: bool = False) -> Fault:
    def fault(scene: Scene) -> Effect | None:
        if scene.system.postgres_pid is None:
            return None
        lasts_s = scene.lasting_s(*choices_s)
        scene.system.world.postgres.stop()
        return Effect(f"for {lasts_s} s", lasts_s, scene.system.world.postgres.serve, whole)

    return fault


def stop_postgres(scene: Scene) -> Effect | None:
    """It and all its helpers stand still, transactions open."""
    pid = scene.system.postgres_pid
    if pid is None:
        return None
    machine.send(pid, STOP)
    return _halt(scene, "postgres", {pid, *descendants(pid)})


def _halt(scene: Scene, name: str, pids: set[int]) -> Effect:
    lasts_s = scene.lasting_s(2.0, LEASE_S, 2 * LEASE_S)
    scene.system.halted.add(name)
    for pid in pids:
        machine.send(pid, STOP)

    def go_on() -> None:
        for pid in pids:
            machine.send(pid, CONT)
        scene.system.halted.discard(name)

    return Effect(f"for {lasts_s} s", lasts_s, go_on)
