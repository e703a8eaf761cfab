"""One schedule: a seed decides jobs, faults and their times; what the machine makes of them differs from run to run."""

import heapq
import itertools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psycopg2
import redis

from tests.chaos import machine
from tests.chaos.faults import FAULTS
from tests.chaos.load import Notes, Users, make_plans
from tests.chaos.scene import Scene
from tests.chaos.system import System, World

TICK_S = 0.03
FAULT_EVERY_S = 1.5
STUCK_S = 150.0
"""Without any job's end after the last fault: longer than a fetch is tried, and twenty leases."""

SETTLE_S = 60.0
AWAY = (psycopg2.Error, redis.RedisError, OSError)


@dataclass
class Schedule:
    """`run` leaves everything up, for the checker; `close` ends it."""

    world: World
    room: Path
    seed: int
    jobs: int
    system: System = field(init=False)
    users: Users = field(init=False)
    notes: Notes = field(init=False)
    faults: Counter[str] = field(default_factory=Counter)
    timeline: list[str] = field(default_factory=list)
    fault_s: float = 0.0
    drain_s: float = 0.0

    def __post_init__(self) -> None:
        random = Random(self.seed)
        self._fault_s = max(15.0, self.jobs / 5)
        self._random = Random(random.random())
        self.system = System(self.world, self.room)
        self.notes = Notes(self.room / "notes")
        plans = make_plans(
            random, jobs=self.jobs, over_s=0.9 * self._fault_s, prefix=f"chaos-{self.seed}"
        )
        self.plans = {plan.name: plan for plan in plans}
        self.users = Users(
            url=self.system.url,
            token=self.world.token,
            plans=plans,
            notes=self.notes,
            random=Random(random.random()),
        )
        self._due: list[tuple[float, int, str, Callable[[], object]]] = []
        self._numbers = itertools.count()

    def run(self) -> None:
        self.system.start()
        self._began = time.monotonic()
        self.say("everything is up")
        self.users.start()
        self._plan_faults()
        while time.monotonic() - self._began < self._fault_s:
            self._step()
        self._heal()
        self.fault_s = time.monotonic() - self._began
        self.say("faults are over")
        self._drain()
        self.drain_s = time.monotonic() - self._began - self.fault_s
        self.say("drained")

    def close(self) -> None:
        try:
            self.users.stop()
        finally:
            if self.world.postgres.process is None:
                self.world.postgres.serve()
            self.system.stop()
            self.notes.close()

    def say(self, text: str) -> None:
        """A line of the schedule's own story."""
        at_s = time.monotonic() - self._began
        self.timeline.append(f"{at_s:8.2f} s  up {machine.uptime():.2f}  {text}")

    def wait(self, predicate: Callable[[], bool], timeout_s: float) -> bool:
        """Keep parts going until this is so."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self._step()
            if predicate():
                return True
            time.sleep(0.3)
        return False

    # ---- faults

    def _plan_faults(self) -> None:
        names = list(FAULTS)
        weights = [weight for weight, _ in FAULTS.values()]
        at_s = 2.0
        while at_s < self._fault_s - 1.0:
            [name] = self._random.choices(names, weights)
            random = Random(self._random.random())
            self._at(at_s, name, lambda name=name, random=random: self._begin(name, random))
            at_s += self._random.expovariate(1 / FAULT_EVERY_S)

    def _at(self, at_s: float, name: str, action: Callable[[], object]) -> None:
        heapq.heappush(self._due, (self._began + at_s, next(self._numbers), name, action))

    def _begin(self, name: str, random: Random) -> None:
        try:
            effect = FAULTS[name][1](Scene(self.system, self.users, random))
        except AWAY as error:
            self.say(f"{name}: not now ({type(error).__name__}: {error})")
            return
        if effect is None:
            self.say(f"{name}: not now")
            return
        self.faults[name] += 1
        self.say(f"{name}: {effect.what}")
        self._at(time.monotonic() - self._began + effect.lasts_s, f"end of {name}", effect.undo)

    def _step(self) -> None:
        self.system.keeper.step()
        while self._due and self._due[0][0] <= time.monotonic():
            self._do(*heapq.heappop(self._due)[2:])
        time.sleep(TICK_S)

    def _do(self, name: str, action: Callable[[], object]) -> None:
        try:
            action()
        except AWAY as error:
            self.say(f"{name}: again later ({type(error).__name__})")
            self._at(time.monotonic() - self._began + 1.0, name, action)

    def _heal(self) -> None:
        """Undo what still lasts, at once; begin nothing new."""
        due, self._due = self._due, []
        self._due = [(0.0, *rest) for _, *rest in due if rest[1].startswith("end of ")]  # type: ignore[misc]
        # PostgreSQL first: others need it.
        self._due.sort(key=lambda entry: ("PostgreSQL" not in entry[2], entry[1]))
        self._due = [(number / 1e6, *entry[1:]) for number, entry in enumerate(self._due)]
        while self._due:
            self._step()

    # ---- afterwards

    def _drain(self) -> None:
        """Until every job has ended, or none has for too long."""
        last, since = (-1, -1), time.monotonic()
        while time.monotonic() - since < STUCK_S:
            self._step()
            time.sleep(0.3)
            try:
                now = self.system.counts()
            except psycopg2.Error:
                continue
            if now != last:
                last, since = now, time.monotonic()
            if now[1] == 0 and self.users.submitted:
                self.users.stop()
                if self.system.counts()[1] == 0:
                    return
