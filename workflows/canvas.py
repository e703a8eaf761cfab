"""Joins as Celery chords: counters in Redis that tell when the last of a join's chunks has ended.

A join of N > 1 members is a chord on the control plane's Celery, or several of at most 1,000 members: its header tasks
are completion signals, one per chunk, sent when the chunk has been counted; its body is `release(join)`, which asks the
database. Nothing is published before its chunk has ended, and no header task ever fails. Task ids follow from join,
generation and member: a signal sent twice counts once. A lost chord is armed anew as the next generation with the
members that remain; signals of an older generation then have no effect.

Owns the names in Redis and what is sent. Must not be called inside a transaction.
"""

import logging
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kombu.exceptions import OperationalError

from prominence.celery import app

logger = logging.getLogger(__name__)

PART = 1000  # members of one chord at most
CHUNK_ENDED = "workflows.chunk_ended"
RELEASE = "workflows.release"
DELETE_CHUNK = "workflows.delete_chunk"
_NAMESPACE = uuid.UUID("0b1d6c9a-6f2e-4f0f-9a53-5f6a3f6b2a11")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Member:
    """One signal of a join: `index` counts the chunks of its parents."""

    join: int
    generation: int
    index: int

    def __str__(self) -> str:
        return f"{self.join}.{self.generation}.{self.index}"

    @classmethod
    def parse(cls, text: str) -> "Member":
        join, generation, index = map(int, text.split("."))
        return cls(join=join, generation=generation, index=index)

    @property
    def part(self) -> int:
        return self.index // PART


def arm(join: int, generation: int, indexes: Iterable[int]) -> None:
    """Say how many members each chord of the join has; again is harmless. Raises redis.RedisError."""
    sizes: dict[int, int] = {}
    for index in indexes:
        sizes[index // PART] = sizes.get(index // PART, 0) + 1
    for part, size in sizes.items():
        app.backend.set_chord_size(_group(join, generation, part), size)


def is_armed(join: int, generation: int, parts: Iterable[int]) -> bool:
    """Does Redis still count for these chords? Raises redis.RedisError."""
    client = app.backend.client
    keys = [app.backend.get_key_for_group(_group(join, generation, part), ".s") for part in parts]
    return all(client.exists(key) for key in keys)


def signal(members: Sequence[Member]) -> bool:
    """Send the signals of these members. False after an error, which is logged: some may not have been sent."""
    messages = []
    for member in members:
        body = app.signature(RELEASE, args=(member.join,), immutable=True)
        body.set(ignore_result=True)
        options = {
            "task_id": str(uuid.uuid5(_NAMESPACE, f"member {member}")),
            "group_id": _group(member.join, member.generation, member.part),
            "group_index": member.index,
            "chord": body,
        }
        messages.append((CHUNK_ENDED, str(member), options))
    return _publish(messages)


def request_deletion(chunks: Iterable[int]) -> None:
    """Ask for the deletion of the jobs of these chunks. Errors are logged; the outbox asks again."""
    _publish([(DELETE_CHUNK, chunk, {}) for chunk in chunks])


def _publish(messages: Sequence[tuple[str, object, Mapping[str, Any]]]) -> bool:
    try:
        with app.producer_pool.acquire(block=True) as producer:
            for task, argument, options in messages:
                app.send_task(
                    task,
                    args=(argument,),
                    producer=producer,
                    ignore_result=True,
                    add_to_parent=False,
                    **options,
                )
    except OperationalError as error:
        logger.warning("signals not published: %s", error)
        return False
    return True


def _group(join: int, generation: int, part: int) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"join {join}.{generation}.{part}"))
