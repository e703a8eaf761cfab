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
from tests.chaos.faults import CABLES, FAULTS, LONG
from tests.chaos.load import Notes, Users, make_plans
from tests.chaos.scene import Scene
from tests.chaos.system import System, World

TICK_S = 0.03
FAULT_EVERY_S = 1.5
STUCK_S = 150.0
"""Without any job's end after the last fault: longer than a fetch is tried, and twenty leases."""

SETTLE_S = 60.0
ONCE_S = 40.0
"""How long users go on submitting while each fault happens once."""

ONCE_EVERY_S = 0.9
ONCE_LIMIT_S = 300.0
"""When a fault that cannot be had is given up: a multiple of what they take on a machine that has time."""

AWAY = (psycopg2.Error, redis.RedisError, OSError)


@dataclass(order=True)
class Due:
    """Something to do at a time. `ends`: a fault; `whole`: not before its time."""

    at: float
    number: int
    name: str = field(compare=False)
    action: Callable[[], object] = field(compare=False)
    ends: bool = field(default=False, compare=False)
    whole: bool = field(default=False, compare=False)


@dataclass
class Schedule:
    """`run` leaves everything up, for the checker; `close` ends it. `once`: every kind of fault once, and briefly.

    `kinds`: of faults, when not all; they are brief then.
    `length_s`: of the time of faults, when it does not follow from the number of jobs.
    """

    world: World
    room: Path
    seed: int
    jobs: int
    once: bool = False
    length_s: float = 0.0
    kinds: frozenset[str] = frozenset()
    fault_every_s: float = FAULT_EVERY_S
    missing: set[str] = field(default_factory=set)
    system: System = field(init=False)
    users: Users = field(init=False)
    notes: Notes = field(init=False)
    faults: Counter[str] = field(default_factory=Counter)
    timeline: list[str] = field(default_factory=list)
    fault_s: float = 0.0
    drain_s: float = 0.0

    def __post_init__(self) -> None:
        random = Random(self.seed)
        self._fault_s = self.length_s or (ONCE_S if self.once else max(15.0, self.jobs / 5))
        self._random = Random(random.random())
        self.system = System(self.world, self.room)
        self.notes = Notes(self.room / "notes")
        self.system.served = (self.notes.port,)
        plans = make_plans(
            random, jobs=self.jobs, over_s=0.9 * self._fault_s, prefix=f"chaos-{self.seed}"
        )
        self.plans = {plan.name: plan for plan in plans}
        self._more = random
        self.users = Users(
            url=self.system.url,
            token=self.world.token,
            plans=plans,
            notes=self.notes,
            random=Random(random.random()),
            more_to_come=self.once,
        )
        self._due: list[Due] = []
        self._numbers = itertools.count()

    def run(self) -> None:
        self.system.start()
        self._began = time.monotonic()
        self.say("everything is up")
        self.users.start()
        if self.once:
            self._do_each()
        else:
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
        names = [name for name in FAULTS if not self.kinds or name in self.kinds]
        weights = [FAULTS[name][0] for name in names]
        at_s = 2.0
        while at_s < self._fault_s - 1.0:
            [name] = self._random.choices(names, weights)
            if not self._is_wanted(name, at_s):
                at_s += 0.1
                continue
            random = Random(self._random.random())
            self._at(at_s, name, lambda name=name, random=random: self._begin(name, random))
            at_s += self._random.expovariate(1 / self.fault_every_s)

    def _is_wanted(self, _name: str, _at_s: float) -> bool:
        """For schedules that have some faults at some times only."""
        return True

    def _do_each(self) -> None:
        """Every kind of fault once, those that last first; again later when it could not be had."""
        kinds = [name for name in FAULTS if name not in LONG]
        kinds = [name for name in kinds if self.world.cabled or name not in CABLES]
        self._random.shuffle(kinds)
        kinds.sort(key=lambda name: "past" not in name and "answers" not in name)
        self.missing = set(kinds)
        for number, name in enumerate(kinds):
            self._at(2.0 + ONCE_EVERY_S * number, name, lambda name=name: self._until_had(name))
        deadline = time.monotonic() + ONCE_LIMIT_S
        while (self.missing or self._due) and time.monotonic() < deadline:
            self._step()
            if self.users.taken == len(self.users.plans):
                self._add_plans()
        self.users.more_to_come = False

    def _add_plans(self) -> None:
        """Faults that took long shall still find jobs."""
        prefix = f"chaos-{self.seed}-{len(self.plans)}"
        plans = make_plans(self._more, jobs=20, over_s=10.0, prefix=prefix)
        self.plans |= {plan.name: plan for plan in plans}
        self.users.add(plans)

    @property
    def brief(self) -> bool:
        return self.once or bool(self.kinds)

    def _until_had(self, name: str) -> None:
        self._begin(name, Random(self._random.random()))
        if self.faults[name]:
            self.missing.discard(name)
        else:
            self._at(self._now() + 1.0, name, lambda: self._until_had(name))

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _at(
        self,
        at_s: float,
        name: str,
        action: Callable[[], object],
        *,
        ends: bool = False,
        whole: bool = False,
    ) -> None:
        due = Due(self._began + at_s, next(self._numbers), name, action, ends, whole)
        heapq.heappush(self._due, due)

    def _begin(self, name: str, random: Random) -> None:
        try:
            effect = FAULTS[name][1](Scene(self.system, self.users, random, self.brief))
        except AWAY as error:
            self.say(f"{name}: not now ({type(error).__name__}: {error})")
            return
        if effect is None:
            self.say(f"{name}: not now")
            return
        self.faults[name] += 1
        self.say(f"{name}: {effect.what}")
        at_s = self._now() + effect.lasts_s
        self._at(at_s, f"end of {name}", effect.undo, ends=True, whole=effect.whole)

    def _step(self) -> None:
        self.system.keeper.step()
        while self._due and self._due[0].at <= time.monotonic():
            self._do(heapq.heappop(self._due))
            self.system.keeper.step()  # on a slow machine there is always something due
        time.sleep(TICK_S)

    def _do(self, due: Due) -> None:
        try:
            due.action()
        except AWAY as error:
            self.say(f"{due.name}: again later ({type(error).__name__})")
            due.at = time.monotonic() + 1.0
            heapq.heappush(self._due, due)

    def _heal(self) -> None:
        """Undo what still lasts, at once but for what is to last; begin nothing new."""
        ends = [due for due in self._due if due.ends]
        # PostgreSQL first: others need it.
        ends.sort(key=lambda due: ("PostgreSQL" not in due.name, due.number))
        for number, due in enumerate(ends):
            due.at = due.at if due.whole else number / 1e6
        self._due = ends
        heapq.heapify(self._due)
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
