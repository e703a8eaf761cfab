"""Random interleavings of everything that server and nodes do and lose, against the real server.

PROMINENCE_EXAMPLES=1000 searches with chance; without it the same 30 examples are tried each time.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.db.models.functions import Now
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from clouds import lifecycle
from clouds.capacity import recount
from clouds.models import EnrolToken, Incarnation, Node, Site
from clouds.states import IncarnationStatus
from jobs.models import Attempt, Event, Job, Kind, Outbox, Placement
from jobs.services import submit_job
from jobs.spec import kind_of, parse_job
from jobs.states import TERMINAL, AttemptStatus, JobStatus, is_legal_path
from jobs.transition import delete_jobs
from prominence.bus import server_redis
from tests.integration.honest_node import CLAIMED, REDIS_IS_CLOSED, RUNNING, HonestNode
from tests.integration.test_control_plane import Plane
from tests.servers import RedisServer
from worker.protocol import EndReason

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(600)]

EXAMPLES = int(os.environ.get("PROMINENCE_EXAMPLES", "0"))
PROFILE = settings(
    max_examples=EXAMPLES or 30,
    derandomize=not EXAMPLES,
    stateful_step_count=80,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
ROUNDS = 40
CPUS = 2
ENDS = [
    (EndReason.FINISHED, 0), (EndReason.FINISHED, 3), (EndReason.WALLTIME, None),
    (EndReason.SHIM_LOST, None), (EndReason.NODE_ERROR, None),
]  # fmt: skip
ONE_CPU = {
    "resources": {"cpus": 1, "memory": 1, "disk": 1},
    "tasks": [{"image": "busybox", "cmd": "true"}],
    "policies": {"maximumRetries": 1},
}
# What is tried, as often as it is named: mostly work, so that there is something to harm.
WORK = [
    "schedule", "receive", "receive", "start", "start", "start", "end", "end",
    "send", "send", "ingest", "ingest", "submit",
]  # fmt: skip
WORDS = ["beat", "beat_by_https", "obey", "outbox_due", "reconcile", "delete"]
HARM = [
    "lose_message", "double_message", "lose_words_up", "lose_words_up", "double_words_up",
    "send_out_of_order", "send_out_of_order", "send_out_of_order", "send_out_of_order",
    "lose_words_down", "flush_all", "restart", "reboot", "fence", "bury",
]  # fmt: skip
STEPS = [*WORK, *WORK, *WORK, *WORDS, *HARM]
TABLES = (Job, Outbox, Kind, EnrolToken, Incarnation, Node, Site, User)


class Protocol(RuleBasedStateMachine):
    """Two honest nodes, one user, a server stepped by hand."""

    redis_server: RedisServer

    @initialize(short=st.booleans())
    def begin(self, short: bool) -> None:
        for table in TABLES:
            table.objects.all().delete()
        self.redis_server.flush()
        self.user = User.objects.create(username="ada")
        if short:
            kind = kind_of(self.user.pk, parse_job(ONE_CPU))
            Kind.objects.create(pk=kind, recent_s=[0.1], short=True)
        self.plane = Plane()
        self.nodes = [HonestNode(name=name, cpus=CPUS) for name in ("one", "two")]

        for _ in range(3):
            self.submit()
        self.schedule()

    @rule(name=st.sampled_from(STEPS), which=st.integers(0, 1), pick=st.integers(0, 9))
    def step(self, name: str, which: int, pick: int) -> None:
        getattr(self, name)(which, pick)

    # ---- user

    def submit(self, which: int = 0, pick: int = 0) -> None:
        for _ in range(1 + pick % 3):
            submit_job(owner=self.user, document=parse_job(ONE_CPU))

    def delete(self, which: int = 0, pick: int = 0) -> None:
        ids = list(Job.objects.order_by("pk").values_list("pk", flat=True))
        if ids:
            delete_jobs([ids[pick % len(ids)]], actor="ada")

    # ---- server

    def schedule(self, which: int = 0, pick: int = 0) -> None:
        Incarnation.objects.update(shunned_until=None)
        self.plane.scheduler._polled = self.plane.scheduler._kinds_read = -1000.0
        self.plane.scheduler.wait(0.001)
        self.plane.scheduler.step()

    def ingest(self, which: int = 0, pick: int = 0) -> None:
        self.plane.ingest._listed = 0.0
        self.plane.ingest.wait(0.001)
        self.plane.ingest.step()

    def outbox_due(self, which: int = 0, pick: int = 0) -> None:
        self.plane.republish()

    def reconcile(self, which: int = 0, pick: int = 0) -> None:
        self.plane.reconciler.step()

    def fence(self, which: int = 0, pick: int = 0) -> None:
        """Its heartbeats have not counted for a lease; the node does not know."""
        mine = Incarnation.objects.filter(pk=self.nodes[which].enrolment.incarnation)
        mine.update(heard_at=Now() - timedelta(hours=1))
        lifecycle.fence_silent()

    def bury(self, which: int = 0, pick: int = 0) -> None:
        """A lease after the fence: the node's own is over, since nothing was answered."""
        node = self.nodes[which]
        mine = Incarnation.objects.filter(
            pk=node.enrolment.incarnation, status=IncarnationStatus.FENCED
        )
        if mine.update(fenced_at=Now() - timedelta(hours=1)):
            node.lose_lease()
            lifecycle.bury_fenced()

    # ---- Redis

    def flush_all(self, which: int = 0, pick: int = 0) -> None:
        server_redis().flushall()

    def lose_message(self, which: int = 0, pick: int = 0) -> None:
        server_redis().rpop(f"{self.nodes[which].keys.prefix}jobs")

    def double_message(self, which: int = 0, pick: int = 0) -> None:
        queue = f"{self.nodes[which].keys.prefix}jobs"
        if raw := server_redis().lindex(queue, -1):
            server_redis().lpush(queue, raw)

    def lose_words_up(self, which: int = 0, pick: int = 0) -> None:
        server_redis().delete(self.nodes[which].keys.up)

    def double_words_up(self, which: int = 0, pick: int = 0) -> None:
        up = self.nodes[which].keys.up
        for _, fields in server_redis().xrange(up):
            server_redis().xadd(up, fields)

    def lose_words_down(self, which: int = 0, pick: int = 0) -> None:
        server_redis().delete(self.nodes[which].keys.ctl)

    # ---- nodes

    def at_node(self, which: int, step: Callable[[HonestNode], None]) -> None:
        """A fenced node gets nowhere until it hears why."""
        with suppress(*REDIS_IS_CLOSED):
            step(self.nodes[which])

    def receive(self, which: int = 0, pick: int = 0) -> None:
        self.at_node(which, HonestNode.receive)

    def start(self, which: int = 0, pick: int = 0) -> None:
        waiting = self.nodes[which].in_state(CLAIMED)
        if waiting:
            self.at_node(which, lambda node: node.begin(waiting[pick % len(waiting)]))

    def end(self, which: int = 0, pick: int = 0) -> None:
        running = self.nodes[which].in_state(RUNNING)
        if running:
            reason, exit_code = ENDS[pick % len(ENDS)]
            self.nodes[which].finish(running[pick % len(running)], reason, exit_code)

    def send(self, which: int = 0, pick: int = 0) -> None:
        self.at_node(which, HonestNode.send_all)

    def send_out_of_order(self, which: int = 0, pick: int = 0) -> None:
        self.at_node(which, lambda node: node.send_one(pick))

    def beat(self, which: int = 0, pick: int = 0) -> None:
        self.at_node(which, HonestNode.beat_by_redis)

    def beat_by_https(self, which: int = 0, pick: int = 0) -> None:
        try:
            self.nodes[which].beat_by_https()
        except REDIS_IS_CLOSED:
            self.nodes[which].reborn()

    def obey(self, which: int = 0, pick: int = 0) -> None:
        self.at_node(which, HonestNode.obey_words)

    def restart(self, which: int = 0, pick: int = 0) -> None:
        self.nodes[which].restart()

    def reboot(self, which: int = 0, pick: int = 0) -> None:
        self.nodes[which].reborn()

    # ---- what holds at any time

    @invariant()
    def story_of_each_job_is_legal(self) -> None:
        stories: dict[int, list[JobStatus]] = {}
        for job_id, after in Event.objects.order_by("pk").values_list("job", "after"):
            stories.setdefault(job_id, []).append(JobStatus(after))
        for job_id, status in Job.objects.values_list("pk", "status"):
            story = stories[job_id]
            assert is_legal_path(story), story
            assert sum(word in TERMINAL for word in story) <= 1
            assert story[-1] == status

    @invariant()
    def attempts_are_numbered_without_gaps(self) -> None:
        numbers: dict[int, list[tuple[int, str]]] = {}
        rows = Attempt.objects.order_by("job", "number").values_list("job", "number", "status")
        for job_id, number, status in rows:
            numbers.setdefault(job_id, []).append((number, status))
        for job_id, attempt, queued in Job.objects.values_list("pk", "attempt", "queued"):
            mine = numbers.get(job_id, [])
            assert [number for number, _ in mine] == list(range(1, attempt + 1))
            live = [number for number, status in mine if status != AttemptStatus.ENDED]
            assert live in ([], [attempt])
            assert not (live and queued)

    @invariant()
    def capacity_equals_a_recount(self) -> None:
        rows = list(Incarnation.objects.all())
        used = recount([row.pk for row in rows])
        for row in rows:
            assert row.cpus_free == row.cpus - used[row.pk].cpus
            assert row.memory_mb_free == row.memory_mb - used[row.pk].memory_mb
            ahead = Placement.objects.filter(incarnation=row.pk, live=True, charged=False)
            assert row.ahead == ahead.count()

    @invariant()
    def each_job_runs_once_and_only_while_it_lives(self) -> None:
        running = [key.job for node in self.nodes for key in node.in_state(RUNNING)]
        assert len(running) == len(set(running))
        assert not Job.objects.filter(pk__in=running, status__in=TERMINAL).exists()

    # ---- at the end

    def teardown(self) -> None:
        if not hasattr(self, "nodes"):
            return
        try:
            self.settle()
        finally:
            for node in self.nodes:
                node.redis.close()

    def settle(self) -> None:
        """Nothing more goes wrong: every job ends, and nothing is left over."""
        for _ in range(ROUNDS):
            self.round()
            if not Job.objects.filter(ended_at__isnull=True).exists():
                break
        self.story_of_each_job_is_legal()
        self.capacity_equals_a_recount()
        assert set(Job.objects.values_list("status", flat=True)) <= set(TERMINAL)
        assert list(Outbox.objects.all()) == []
        for row in Incarnation.objects.all():
            assert (row.cpus_free, row.ahead) == (row.cpus, 0)

    def round(self) -> None:
        self.reconcile()
        self.schedule()
        self.outbox_due()
        for which, node in enumerate(self.nodes):
            self.beat_by_https(which)
            for _ in range(10):
                self.receive(which)
            for key in node.in_state(CLAIMED):
                node.begin(key)
            for key in node.in_state(RUNNING):
                node.finish(key, EndReason.FINISHED, 0)
            self.send(which)
        self.ingest()
        for which in (0, 1):
            self.obey(which)


def test_any_interleaving_keeps_the_rules_and_settles(redis_server: RedisServer) -> None:
    Protocol.redis_server = redis_server
    run_state_machine_as_test(Protocol, settings=PROFILE)
    connection.close()
