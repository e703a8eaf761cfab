"""A node reduced to its words: enrols, takes offers, says what happened. The other side of the control plane's tests.

It has what a real node has, its own Redis user and key space, and runs nothing.
"""

import base64
import json
from dataclasses import dataclass, field

import redis

from clouds.enrolment import create_enrol_token, enrol
from worker.protocol import (
    AttemptKey,
    Capacity,
    Claimed,
    Ended,
    EndReason,
    Enrolment,
    EnrolRequest,
    Event,
    Heartbeat,
    Held,
    Keys,
    LogEnd,
    Started,
    TaskResult,
    Up,
    Word,
    decode_word,
    encode,
    key_prefix,
)

OPEN: list["redis.Redis"] = []
"""Clients of the nodes of the present test; its fixture closes them."""


@dataclass
class PlainNode:
    """Every word is sent at once unless `mute`; `events` is the outbox, kept whole."""

    name: str = "plain"
    cpus: int = 2
    boot: str = "boot-1"
    site: str = "here"
    enrolment: Enrolment = field(init=False)
    events: list[Event] = field(default_factory=list)
    mute: bool = False
    beats: int = 0
    _ctl: bytes = b"0-0"

    def __post_init__(self) -> None:
        self.enrol(token=create_enrol_token(name=self.name, site=self.site))

    def enrol(self, *, token: str | None = None, key: str | None = None) -> None:
        self.enrolment = enrol(
            EnrolRequest(
                token=token,
                key=key,
                boot=self.boot,
                hostname=self.name,
                capacity=Capacity(cpus=self.cpus, memory_mb=8192, disk_mb=100_000),
                runtimes={"singularity": "1", "udocker": "1"},
            )
        )
        self.events = []
        self.keys = Keys(key_prefix(self.enrolment.incarnation))
        self.redis = redis.Redis.from_url(self.enrolment.redis_url)
        OPEN.append(self.redis)

    def messages(self) -> list[list[AttemptKey]]:
        """Celery messages waiting in the queue: taken, batches of keys."""
        batches = []
        while batch := self.next_message():
            batches.append(batch)
        return batches

    def next_message(self) -> list[AttemptKey]:
        """One Celery message, taken; [] when there is none."""
        raw = self.redis.rpop(f"{self.keys.prefix}jobs")
        if raw is None:
            return []
        _, kwargs, _ = json.loads(_unpack(json.loads(raw)))
        return [AttemptKey(*key) for key in kwargs["keys"]]

    def claim(self, key: AttemptKey) -> bool:
        taken = self.redis.getdel(self.keys.offer(key)) is not None
        if taken:
            self.say(Claimed(seq=self.next_seq, key=key))
        return taken

    @property
    def next_seq(self) -> int:
        return len(self.events) + 1

    def start(self, key: AttemptKey) -> None:
        self.say(Started(seq=self.next_seq, key=key))

    def end(
        self,
        key: AttemptKey,
        *,
        reason: EndReason = EndReason.FINISHED,
        exit_code: int | None = 0,
        stdout: bytes = b"",
        detail: str = "",
        wall_s: float = 0.1,
    ) -> None:
        tasks = (TaskResult(exit_code=exit_code, wall_s=wall_s),) if exit_code is not None else ()
        self.say(
            Ended(
                seq=self.next_seq,
                key=key,
                reason=reason,
                detail=detail,
                tasks=tasks,
                stdout=LogEnd(size=len(stdout), tail=stdout),
            )
        )

    def say(self, event: Event) -> None:
        self.events.append(event)
        if not self.mute:
            self.send(event)

    def send(self, *events: Event, heartbeat: Heartbeat | None = None) -> None:
        self.redis.xadd(self.keys.up, {"d": encode(Up(events=events, heartbeat=heartbeat))})

    def beat(self, *held: Held) -> int:
        """A heartbeat with this snapshot; returns its number."""
        self.beats += 1
        beat = Heartbeat(number=self.beats, boot=self.boot, held=held, last_seq=len(self.events))
        self.send(heartbeat=beat)
        return self.beats

    def words(self) -> list[Word]:
        """What the server said since the last time."""
        found = self.redis.xrange(self.keys.ctl, min=f"({self._ctl.decode()}")
        if found:
            self._ctl = found[-1][0]
        return [decode_word(fields[b"d"]) for _, fields in found]


def _unpack(body: dict[str, object]) -> bytes:
    return base64.b64decode(str(body["body"]))
