"""The users: they submit jobs and delete some, and try again whatever happens to the API.

Owns what was promised to users: which ids were acknowledged for which name, what each job is to print, and the file of
notes in which jobs leave their marks.
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any

import httpx

PROCESS, CONTAINER = "process", "singularity"
RETRY_S = 0.3

# Notes: WORD JOB.ATTEMPT.RANK SECONDS-SINCE-BOOT, appended in one write. By a network that may be cut, each is
# sent until it has arrived, under an id, and kept once.
_STEPS = """
a=${PROMINENCE_ATTEMPT#*/}
note begin
echo "begin $a"; echo "error $a" >&2
i=0
while [ $i -lt $CHAOS_STEPS ]; do
  i=$((i+1)); echo "line $i of $a"; sleep $CHAOS_PAUSE; note tick
done
[ $CHAOS_PAD -gt 0 ] && { head -c $CHAOS_PAD /dev/zero | tr '\\0' x; echo; }
note end
echo "done $a"
exit $CHAOS_CODE
"""
_TO_FILE = 'note() { read u r < /proc/uptime; echo "$1 $a $u" >> $CHAOS_NOTES; }'
_TO_SERVER = """
note() {
  read u r < /proc/uptime; read id < /proc/sys/kernel/random/uuid
  until wget -q -O /dev/null $CHAOS_NOTES/$1/$a/$u/$id; do sleep 0.3; done
}
"""


@dataclass(frozen=True)
class Plan:
    """One job of the schedule, and what it is to do."""

    name: str
    at_s: float
    runtime: str
    steps: int
    pause_s: float
    pad: int
    code: int
    retries: int
    twin: bool  # sent with an Idempotency-Key

    def stdout(self, key: str) -> bytes:
        """What attempt `key` prints."""
        lines = [f"begin {key}", *(f"line {n} of {key}" for n in range(1, self.steps + 1))]
        lines += ["x" * self.pad] if self.pad else []
        return "".join(f"{line}\n" for line in [*lines, f"done {key}"]).encode()

    def stderr(self, key: str) -> bytes:
        return f"error {key}\n".encode()

    def document(self, notes_file: Path, notes_url: str) -> dict[str, Any]:
        inside = self.runtime != PROCESS
        env = {
            "CHAOS_STEPS": str(self.steps),
            "CHAOS_PAUSE": str(self.pause_s),
            "CHAOS_PAD": str(self.pad),
            "CHAOS_CODE": str(self.code),
            "CHAOS_NOTES": notes_url if inside else str(notes_file),
        }
        script = (_TO_SERVER if inside else _TO_FILE) + _STEPS
        task = {"image": "busybox", "runtime": self.runtime, "cmd": "sh", "args": ["-c", script]}
        return {
            "name": self.name,
            "resources": {"cpus": 1, "memory": 1, "disk": 1},
            "tasks": [{**task, "env": env}],
            "policies": {"maximumRetries": self.retries},
        }


def make_plans(random: Random, *, jobs: int, over_s: float, prefix: str) -> list[Plan]:
    """Jobs over `over_s` seconds: half at once in waves, the others one by one."""
    count = max(4, int(over_s / 60))
    waves = [random.uniform(0, over_s * 0.7) for _ in range(count)]
    plans = [_plan(random, f"{prefix}-{number}", over_s, waves) for number in range(jobs)]
    return sorted(plans, key=lambda plan: plan.at_s)


def _plan(random: Random, name: str, over_s: float, waves: list[float]) -> Plan:
    at_s = random.choice(waves) if random.random() < 0.5 else random.uniform(0, over_s)
    inside = random.random() < 0.12
    quick = random.random() < 0.5
    return Plan(
        name=name,
        at_s=at_s,
        runtime=CONTAINER if inside else PROCESS,
        steps=random.randint(0, 2) if quick else random.randint(3, 20),
        pause_s=0.1 if quick else 0.3,
        pad=random.choice([0] * 8 + [2_000, 70_000, 300_000]),
        code=3 if random.random() < 0.08 else 0,
        retries=random.choice([0, 0, 1]),
        twin=random.random() < 0.5,
    )


@dataclass
class Notes:
    """The file of notes, and a server through which containers write into it."""

    path: Path
    _server: ThreadingHTTPServer = field(init=False)

    def __post_init__(self) -> None:
        self.path.touch()
        self.path.chmod(0o666)
        notes = self
        known: set[str] = set()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                *words, note = self.path.strip("/").split("/")
                if note not in known:
                    known.add(note)
                    notes.write(" ".join(words))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        return self._server.server_port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def write(self, line: str) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, f"{line}\n".encode())
        finally:
            os.close(descriptor)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Users:
    """Threads that submit the plans when they are due, and delete some of what was acknowledged."""

    url: str
    token: str
    plans: list[Plan]
    notes: Notes
    random: Random
    delete_share: float = 0.1
    acknowledged: dict[str, set[int]] = field(default_factory=dict)
    deleted: set[int] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    retried: int = 0
    more_to_come: bool = False  # plans are added, so threads wait for them
    keys_work: bool = False  # an Idempotency-Key was seen to work
    _probed: bool = False
    _hurry: int = 0  # plans up to this one are due, whatever their time
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)
    _began: float = 0.0
    _next: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    def start(self, count: int = 4) -> None:
        self._began = time.monotonic()
        work: list[Callable[[], None]] = [self._submit_all] * count + [self._delete_some]
        self._threads = [threading.Thread(target=each, daemon=True) for each in work]
        for thread in self._threads:
            thread.start()

    @property
    def submitted(self) -> bool:
        """Everything is acknowledged (or was refused)."""
        return not any(thread.is_alive() for thread in self._threads[:-1])

    def hurry(self, count: int) -> None:
        """The next jobs are due now."""
        self._hurry = self._next + count

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(40)

    def client(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=10, trust_env=False)

    def _submit_all(self) -> None:
        with self.client() as client:
            while not self._over.is_set():
                plan = self._take()
                if plan is None:
                    if not self.more_to_come:
                        return
                    self._over.wait(0.1)
                    continue
                while not self._is_due(*plan) and not self._over.wait(0.02):
                    pass
                self._submit(client, plan[1])

    def _take(self) -> tuple[int, Plan] | None:
        with self._lock:
            number = self._next
            if number >= len(self.plans):
                return None
            self._next += 1
            return number, self.plans[number]

    @property
    def taken(self) -> int:
        """Plans that are submitted, or wait for their time in a thread's hands."""
        return self._next

    def add(self, plans: list[Plan]) -> None:
        """More of them, their times counted from now."""
        now_s = time.monotonic() - self._began
        self.plans += [replace(plan, at_s=plan.at_s + now_s) for plan in plans]

    def _is_due(self, number: int, plan: Plan) -> bool:
        return number < self._hurry or time.monotonic() - self._began >= plan.at_s

    def _submit(self, client: httpx.Client, plan: Plan) -> None:
        document = plan.document(self.notes.path, self.notes.url)
        headers = {"Idempotency-Key": plan.name} if plan.twin else {}
        answer = self._insist(lambda: client.post("/jobs", json=document, headers=headers))
        if answer is None:
            return
        if plan.twin and not self._probed:
            self._probed = True
            again = self._insist(lambda: client.post("/jobs", json=document, headers=headers))
            self.keys_work = again is not None and again.json() == answer.json()
        with self._lock:
            if answer.status_code == 201:
                self.acknowledged.setdefault(plan.name, set()).add(answer.json()["id"])
            else:
                self.refused.append(f"{plan.name}: {answer.status_code} {answer.text[:300]}")

    def _insist(self, call: Callable[[], httpx.Response]) -> httpx.Response | None:
        """Until there is an answer that is not the server's fault."""
        while not self._over.is_set():
            try:
                answer = call()
                if answer.status_code < 500:
                    return answer
            except httpx.HTTPError:
                pass
            self.retried += 1
            self._over.wait(RETRY_S)
        return None

    def _delete_some(self) -> None:
        seen: set[int] = set()
        with self.client() as client:
            while not self._over.wait(self.random.uniform(0.02, 0.3)):
                with self._lock:
                    known = set().union(*self.acknowledged.values()) if self.acknowledged else set()
                for job in sorted(known - seen):
                    seen.add(job)
                    if self.random.random() < self.delete_share:
                        self._over.wait(self.random.choice([0, 0, 0.2, 1.0]))
                        self._delete(client, job)
                if self.submitted and known <= seen:
                    return

    def _delete(self, client: httpx.Client, job: int) -> None:
        self.deleted.add(job)
        self._insist(lambda: client.delete(f"/jobs/{job}"))
