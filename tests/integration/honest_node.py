"""A node in memory that keeps the rules of the protocol: journal, outbox, lease, recovery. It runs nothing.

For tests that interleave it with the real server: every method is one step, and Redis or the server may fail in it.
"""

from dataclasses import dataclass, field

import msgspec
import redis
from django.http import HttpResponse
from django.test import Client

from tests.integration.plain_node import PlainNode
from worker.protocol import (
    AttemptKey,
    Claimed,
    EndReason,
    Event,
    FetchAnswer,
    FetchRequest,
    Heartbeat,
    Held,
    Up,
    Word,
    encode,
)

ENTERED, CLAIMED, RUNNING, ENDED = "entered", "claimed", "running", "ended"


class Fenced(Exception):
    """The server says that this life is over."""


@dataclass
class HonestNode(PlainNode):
    """`events` is everything ever said in this life; `acked` and `sent` are how far it got."""

    states: dict[AttemptKey, str] = field(default_factory=dict)
    started: set[AttemptKey] = field(default_factory=set)
    acked: int = 0
    sent: int = 0
    lease: bool = True
    _last_seqs: dict[int, int] = field(default_factory=dict)
    _http: Client = field(default_factory=Client)

    def __post_init__(self) -> None:
        self.mute = True
        super().__post_init__()

    def in_state(self, *states: str) -> list[AttemptKey]:
        return sorted(key for key, state in self.states.items() if state in states)

    # ---- lives

    def reborn(self) -> None:
        """Everything is killed; then a new incarnation."""
        self.redis.close()
        self.enrol(key=self.enrolment.key)
        self.states, self.started, self._last_seqs = {}, set(), {}
        self.acked = self.sent = 0
        self.lease, self._ctl = True, b"0-0"

    def restart(self) -> None:
        """The worker dies and comes back: what runs runs on, what did not start never will."""
        self.sent, self._ctl, self._last_seqs = self.acked, b"0-0", {}
        for key in self.in_state(ENTERED, CLAIMED):
            self._end(key, EndReason.NEVER_STARTED)

    def lose_lease(self) -> None:
        self.lease = False
        for key in self.in_state(RUNNING):
            self._end(key, EndReason.LEASE_EXPIRED)

    # ---- a job's way

    def receive(self) -> None:
        """One message: enter, claim, record."""
        fresh = [key for key in self.next_message() if key not in self.states]
        self.states |= dict.fromkeys(fresh, ENTERED)
        for key in fresh:
            if self.redis.getdel(self.keys.offer(key)) is None:
                self._end(key, EndReason.NEVER_STARTED)
            else:
                self.states[key] = CLAIMED
                self.say(Claimed(seq=self.next_seq, key=key))

    def begin(self, key: AttemptKey) -> None:
        """Fetch, and start under the lease."""
        answer = self._post("attempts/fetch", FetchRequest(keys=(key,)))
        fetched = msgspec.json.decode(answer.content, type=FetchAnswer)
        if key in fetched.refused:
            self._end(key, EndReason.NEVER_STARTED)
        elif self.lease:
            assert key not in self.started, f"{key} starts twice"
            self.started.add(key)
            self.states[key] = RUNNING
            self.start(key)

    def finish(self, key: AttemptKey, reason: EndReason, exit_code: int | None) -> None:
        self.states[key] = ENDED
        self.end(key, reason=reason, exit_code=exit_code)

    def _end(self, key: AttemptKey, reason: EndReason) -> None:
        self.finish(key, reason, None)

    # ---- up

    def unsent(self) -> list[Event]:
        return self.events[self.sent :]

    def send_all(self) -> None:
        if events := self.unsent():
            self.send(*events)
            self.sent = events[-1].seq

    def send_one(self, pick: int) -> None:
        """Any event that is not acknowledged, whether its time has come or not."""
        if waiting := self.events[self.acked :]:
            self.send(waiting[pick % len(waiting)])

    def beat_by_redis(self) -> None:
        self.send(heartbeat=self._heartbeat(self.sent))

    def beat_by_https(self) -> None:
        """Events included. Raises Fenced."""
        events = tuple(self.events[self.acked :])
        beat = self._heartbeat(events[-1].seq if events else self.acked)
        answer = self._post("heartbeat", Up(events=events, heartbeat=beat))
        self._obey(msgspec.json.decode(answer.content, type=Word))

    def _heartbeat(self, last_seq: int) -> Heartbeat:
        self.beats += 1
        self._last_seqs[self.beats] = last_seq
        ends = {e.key: e.seq for e in self.events}
        held = tuple(
            Held(key, state)
            for key, state in self.states.items()
            if state != ENDED or ends[key] > self.acked
        )
        return Heartbeat(number=self.beats, boot=self.boot, held=held, last_seq=last_seq)

    def _post(self, path: str, message: msgspec.Struct) -> HttpResponse:
        answer = self._http.post(
            f"/node/v1/{path}",
            encode(message),
            content_type="application/json",
            headers={"authorization": f"Bearer {self.enrolment.node_token}"},
        )
        if answer.status_code == 401:
            raise Fenced
        assert answer.status_code == 200, answer.content
        return answer

    # ---- down

    def obey_words(self) -> None:
        for word in self.words():
            self._obey(word)

    def _obey(self, word: Word) -> None:
        if word.ack is not None and self.acked < word.ack <= len(self.events):
            self.acked = word.ack
            self.sent = max(self.sent, self.acked)
        last_seq = self._last_seqs.pop(word.answers, None) if word.answers else None
        if last_seq is not None:
            self.lease = True
            if word.ack is not None and word.ack < last_seq:
                self.sent = min(self.sent, max(word.ack, self.acked))
        for key in word.stop:
            self._stop(key)

    def _stop(self, key: AttemptKey) -> None:
        state = self.states.get(key)
        if state in (None, ENTERED, CLAIMED):
            self._end(key, EndReason.NEVER_STARTED)
        elif state == RUNNING:
            self._end(key, EndReason.STOPPED)


REDIS_IS_CLOSED = (redis.RedisError, Fenced)
