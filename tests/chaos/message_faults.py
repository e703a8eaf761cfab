"""Messages, offers, events and words that are lost, doubled or reordered on their way through Redis."""

import base64
import json
import signal
import uuid
from random import Random

import redis
from celery import Celery

from tests.chaos import machine
from tests.chaos.scene import Effect, Fault, Scene, one_process, workers

app = Celery("chaos", set_as_current=False)
STOP, CONT = signal.SIGSTOP, signal.SIGCONT


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


def spoil_events(*, lose_all: bool) -> Fault:
    """What nodes say while ingest stands still is lost, or arrives in another order and partly twice."""

    def fault(scene: Scene) -> Effect | None:
        pid = scene.system.keeper.pid("ingest")
        if pid is None:
            return None
        machine.send(pid, STOP)

        def go_on() -> None:
            try:
                with scene.system.redis_client() as client:
                    for name in client.scan_iter(match="n.*:up", count=1000):
                        _spoil(client, name, [] if lose_all else [1, 1, 1, 2], scene.random)
            finally:
                machine.send(pid, CONT)

        # Nodes that hear nothing for longer say it again by HTTPS.
        return Effect("of all nodes", scene.random.uniform(0.2, 0.9), go_on)

    return fault


def _spoil(client: "redis.Redis", name: bytes, copies: list[int], random: Random) -> None:
    entries = [fields for _, fields in client.xrange(name)]
    client.delete(name)
    if copies:
        again = [fields for fields in entries for _ in range(random.choice(copies))]
        random.shuffle(again)
        for fields in again:
            client.xadd(name, fields)


def lose_offers(scene: Scene) -> Effect | None:
    """What is sent to a node while its worker stands still is lost: offers, messages, or words, or all of them."""
    found = one_process(scene, workers(scene))
    if found is None:
        return None
    machine.send(found[1], STOP)
    kinds = scene.random.choice([["jobs"], ["offer:*"], ["ctl"], ["jobs", "offer:*", "ctl"]])

    def go_on() -> None:
        try:
            with scene.system.redis_client() as client:
                for kind in kinds:
                    names = list(client.scan_iter(match=f"n.*:{kind}", count=1000))
                    client.delete("n.0:none", *names)
        finally:
            machine.send(found[1], CONT)

    what = f"{', '.join(kinds)} while {found[0].name} stood still"
    return Effect(what, scene.random.uniform(0.3, 2.0), go_on)


def double_outbox(scene: Scene) -> Effect | None:
    """Everything in the outbox is published again, early."""
    scene.system.execute("UPDATE jobs_outbox SET due_at = now() - interval '1 second'")
    return Effect("all rows due")
