"""A small real server on the other side of a node's wire: HTTP API and reader of the up-stream.

A double of the control plane, built on `worker.protocol` alone; the Redis is real. Keeps everything in
memory, so tests can look at it.
"""

import hashlib
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import redis
from celery import Celery
from kombu.connection import Connection

from tests.servers import RedisServer
from worker.protocol import (
    RUN_QUEUE,
    RUN_TASK,
    AttemptKey,
    Ended,
    Enrolment,
    EnrolRequest,
    Event,
    FetchAnswer,
    Fetched,
    FetchRequest,
    Heartbeat,
    Keys,
    NodeError,
    Offer,
    RunSpec,
    Started,
    TaskSpec,
    Up,
    Word,
    decode_up,
    encode,
    key_prefix,
    redis_user,
)

ACL = (
    "+brpop +rpop +lpush +rpush +llen +zadd +zrem +zrange +zrevrangebyscore +hset +hget +hdel +sadd "
    "+srem +smembers +set +get +getdel +del +exists +expire +pexpire +evalsha +eval +script|load +multi "
    "+exec +watch +unwatch +discard +ping +select +auth +hello +client|setname +client|id +echo +xadd "
    "+xread +xtrim +xrange +xlen +xdel +client|setinfo"
)
ONE_TIME_TOKEN = "once"


class Refusal(Exception):
    """Ends a call."""

    def __init__(self, status: int, code: str = "") -> None:
        super().__init__(code)
        self.status = status
        self.code = code


class OtherSide:
    """What the tests ask of it is in its public attributes and methods."""

    def __init__(self, directory: Path, *, lease_s: float = 60.0, heartbeat_s: float = 0.5) -> None:
        self.redis_server = RedisServer(directory / "redis", backend="embedded")
        self.lease_s = lease_s
        self.heartbeat_s = heartbeat_s
        self.window_bytes = 1 << 20
        self.cap_bytes = 64 << 20
        self.mirrors: dict[str, str] = {}
        self.answering = True  # heartbeats and events
        self.incarnation = 0
        self.fenced: set[int] = set()
        self.acknowledged: dict[int, int] = defaultdict(int)
        self.events: list[Event] = []
        self.words: list[Word] = []
        self.beats: list[Heartbeat] = []
        self.enrolments: list[EnrolRequest] = []
        self.https_beats = 0
        self.specs: dict[AttemptKey, RunSpec] = {}
        self.inputs: dict[str, bytes] = {}
        self.segments: dict[tuple[AttemptKey, str], bytearray] = defaultdict(bytearray)
        self.puts = 0
        self.pieces: dict[tuple[AttemptKey, int], bytearray] = {}
        self.outputs: dict[tuple[AttemptKey, str], bytes] = {}
        self.output_refusals: list[Refusal] = []  # the next answers to output files
        self._token_used = False
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self._threads = [
            threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True),
            threading.Thread(target=self._ingest, daemon=True),
        ]
        self._celery = Celery("other-side", set_as_current=False)
        self._celery.conf.update(task_serializer="json", task_ignore_result=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    @property
    def keys(self) -> Keys:
        return Keys(key_prefix(self.incarnation))

    def start(self) -> None:
        self.redis_server.start()
        self.redis = self.redis_server.client()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._http.shutdown()
        self._http.server_close()
        self._threads[1].join(10)
        self.redis.close()
        self._celery.close()
        self.redis_server.stop()

    # ---- what tests do

    def offer(self, specs: dict[AttemptKey, RunSpec], *, publish: bool = True) -> None:
        """Offer these attempts in one message."""
        self.specs |= specs
        for key in specs:
            self.redis.set(self.keys.offer(key), encode(Offer(key=key)))
        if publish:
            self.publish(list(specs))

    def publish(self, keys: list[AttemptKey]) -> None:
        with Connection(
            self.redis_server.url,
            transport_options={
                "global_keyprefix": key_prefix(self.incarnation),
                "priority_steps": [0],
            },
        ) as connection:
            self._celery.send_task(
                RUN_TASK,
                kwargs={"batch": str(keys[0]), "keys": [[k.job, k.attempt, k.rank] for k in keys]},
                queue=RUN_QUEUE,
                connection=connection,
            )

    def say(self, word: Word) -> None:
        self.redis.xadd(self.keys.ctl, {"d": encode(word)})

    def fence(self) -> None:
        """As the control plane does: the life is over, its Redis user gone."""
        with self._lock:
            self.fenced.add(self.incarnation)
        user = redis_user(self.incarnation)
        self.redis.acl_setuser(user, enabled=False)
        self.redis.execute_command("CLIENT", "KILL", "USER", user)
        self.redis.acl_deluser(user)

    # ---- what tests look at

    def of(self, key: AttemptKey) -> list[Event]:
        with self._lock:
            return [event for event in self.events if event.key == key]

    def ended(self, key: AttemptKey) -> Ended | None:
        ends = [event for event in self.of(key) if isinstance(event, Ended)]
        assert len(ends) <= 1, ends
        return ends[0] if ends else None

    def started(self, key: AttemptKey) -> bool:
        return any(isinstance(event, Started) for event in self.of(key))

    def log(self, key: AttemptKey, stream: str = "stdout") -> bytes:
        """The stored log of an ended attempt."""
        ended = self.ended(key)
        assert ended is not None
        end = getattr(ended, stream)
        stored = bytes(self.segments[key, stream])
        assert len(stored) == end.stored
        assert end.stored + len(end.tail) == end.size
        return stored + end.tail

    def live(self, key: AttemptKey, stream: str = "stdout") -> bytes:
        """What Redis holds of a log now."""
        entries: Any = self.redis.xrange(self.keys.out(key, stream))
        return b"".join(fields[b"d"] for _, fields in entries)

    # ---- the up-stream

    def _ingest(self) -> None:
        last: dict[str, bytes] = {}
        while not self._ended.wait(0.005):
            if not self.incarnation or not self.answering:
                continue
            incarnation, stream = self.incarnation, self.keys.up
            try:
                entries: Any = self.redis.xrange(
                    stream, min=b"(" + last[stream] if stream in last else "-"
                )
                for entry, fields in entries:
                    last[stream] = entry
                    word = self.apply(incarnation, decode_up(fields[b"d"]))
                    self.redis.xadd(Keys(key_prefix(incarnation)).ctl, {"d": encode(word)})
            except redis.RedisError:
                self._ended.wait(0.1)

    def apply(self, incarnation: int, up: Up) -> Word:
        with self._lock:
            if incarnation in self.fenced:
                raise Refusal(401, "fenced")
            for event in up.events:
                if event.seq == self.acknowledged[incarnation] + 1:
                    self.acknowledged[incarnation] = event.seq
                    self.events.append(event)
            if up.heartbeat is None:
                return Word(ack=self.acknowledged[incarnation])
            self.beats.append(up.heartbeat)
            return Word(answers=up.heartbeat.number, ack=self.acknowledged[incarnation])

    # ---- HTTP

    def answer(self, method: str, path: str, query: str, token: str, body: bytes) -> bytes:
        parts = path.removeprefix("/node/v1/").split("/")
        if parts == ["enrol"]:
            return encode(self._enrol(msgspec.json.decode(body, type=EnrolRequest)))
        incarnation = self._speaker(token)
        if parts == ["heartbeat"]:
            if not self.answering:
                raise Refusal(503)
            self.https_beats += 1
            return encode(self.apply(incarnation, decode_up(body)))
        if parts == ["attempts", "fetch"]:
            return encode(self._fetch(msgspec.json.decode(body, type=FetchRequest)))
        if parts[2] == "outputs":
            return self._keep(AttemptKey.parse(parts[1]), int(parts[3]), query, body)
        if parts[2] == "inputs":
            return self.inputs[parts[3]]
        return self._store(AttemptKey.parse(parts[1]), parts[2], query, body)

    def _enrol(self, request: EnrolRequest) -> Enrolment:
        with self._lock:
            if request.token:
                if request.token != ONE_TIME_TOKEN or self._token_used:
                    raise Refusal(403, "refused")
                self._token_used = True
            elif request.key != "the-key":
                raise Refusal(403, "refused")
            self.enrolments.append(request)
            number = self.incarnation + 1
            password = hashlib.sha256(str(number).encode()).hexdigest()
            rules = f"reset on >{password} resetchannels -@all ~{key_prefix(number)}* {ACL}"
            self.redis.execute_command("ACL", "SETUSER", redis_user(number), *rules.split())
            self.redis.execute_command("ACL", "SAVE")
            self.incarnation = number
        return Enrolment(
            node=1,
            node_name="test",
            site="test",
            incarnation=number,
            node_token=f"token-{number}",
            key="the-key",
            redis_url=f"redis://{redis_user(number)}:{password}@127.0.0.1:{self.redis_server.port}/0",
            api_url=self.url,
            lease_s=self.lease_s,
            heartbeat_s=self.heartbeat_s,
            mirrors=self.mirrors,
            log_window_bytes=self.window_bytes,
            log_cap_bytes=self.cap_bytes,
            allow_process_runtime=True,
        )

    def _speaker(self, token: str) -> int:
        number = int(token.rpartition("-")[2] or 0)
        if number in self.fenced:
            raise Refusal(401, "fenced")
        return number

    def _fetch(self, request: FetchRequest) -> FetchAnswer:
        return FetchAnswer(
            items=tuple(
                Fetched(key=key, spec=self.specs[key], secret_env={"SECRET": "hidden"})
                for key in request.keys
                if key in self.specs
            ),
            refused=tuple(key for key in request.keys if key not in self.specs),
        )

    def _store(self, key: AttemptKey, stream: str, query: str, body: bytes) -> bytes:
        offset = int(parse_qs(query)["offset"][0])
        with self._lock:
            self.puts += 1
            log = self.segments[key, stream]
            assert offset <= len(log), "a hole"
            log[offset : offset + len(body)] = body
        return b""

    def _keep(self, key: AttemptKey, number: int, query: str, body: bytes) -> bytes:
        """A piece of an output file."""
        if self.output_refusals:
            raise self.output_refusals.pop()
        words = parse_qs(query)
        size, offset = int(words["size"][0]), int(words["offset"][0])
        with self._lock:
            name = words["name"][0] + ("/" if words["directory"] == ["1"] else "")
            data = self.pieces.setdefault((key, number), bytearray())
            if offset > len(data):
                raise Refusal(409, str(len(data)))
            data[offset : offset + len(body)] = body
            if len(data) == size:
                self.outputs[key, name] = bytes(data)
        return b""


def _handler(side: OtherSide) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            url = urlsplit(self.path)
            try:
                status, answer = 200, side.answer(self.command, url.path, url.query, token, body)
            except Refusal as refusal:
                status = refusal.status
                answer = encode(NodeError(error="refused", code=refusal.code))
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = do_PUT = _do

        def log_message(self, *_: object) -> None:
            """Quiet."""

    return Handler


def spec(*command: str, **changes: Any) -> RunSpec:
    """A job of one bare process."""
    return RunSpec(tasks=(task(*command),), **{"memory_mb": 64, "disk_mb": 64, **changes})


def task(*command: str, runtime: str = "process", **changes: Any) -> TaskSpec:
    return TaskSpec(image=changes.pop("image", "none"), runtime=runtime, command=command, **changes)


def shell(script: str, **changes: Any) -> RunSpec:
    """A job of one shell script."""
    return spec("/bin/sh", "-c", script, **changes)
