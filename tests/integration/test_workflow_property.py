"""Random graphs against a reference model, with signals lost and doubled, Redis flushed and chords armed anew.

The real services, loops and Celery tasks are stepped; chunks and chords are small, so that every kind of join occurs.
"""

from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from django.contrib.auth.models import User
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from jobs.models import Chunk, Event, Job
from jobs.states import TERMINAL, JobStatus, is_legal_path
from tests.integration.flow_scene import Flow, job
from workflows import canvas, expand, ranges
from workflows.models import Workflow
from workflows.services import rerun_workflow

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_server")]
ALWAYS = 99


@dataclass
class Plan:
    """A workflow and how its instances behave: failures before the first success, by (stage, instance)."""

    sizes: dict[str, int]
    parents: dict[str, set[str]]
    allowed: dict[str, int]
    retries: int
    failures: dict[tuple[str, int], int]
    tries: dict[tuple[str, int], int] = field(default_factory=dict)

    @classmethod
    def make(cls, rng: Random) -> "Plan":
        count = rng.choice([1, 2, 3, 5, 8, 8, 12, 20, 60])
        stages = [f"s{n}" for n in range(count)]
        density = rng.choice([0.05, 0.2, 0.5]) if count < 20 else 2 / count
        sizes = {s: rng.choice([1, 1, 2, 3, 4, 7] if count < 20 else [1, 1, 2]) for s in stages}
        bad = rng.choice([0.0, 0.03, 0.2])
        return cls(
            sizes=sizes,
            parents={
                s: {p for p in stages[:n] if rng.random() < density} for n, s in enumerate(stages)
            },
            allowed={s: rng.choice([0, 0, 1, 9]) for s in stages},
            retries=rng.choice([0, 0, 1]),
            failures={
                (s, i): rng.choice([1, ALWAYS]) if rng.random() < bad else 0
                for s in stages
                for i in range(sizes[s])
            },
        )

    @property
    def document(self) -> dict[str, Any]:
        children: dict[str, list[str]] = {}
        for child, parents in self.parents.items():
            for parent in sorted(parents):
                children.setdefault(parent, []).append(child)
        return {
            "name": "w",
            "jobs": [job(s, policies={"failureTolerance": self.allowed[s]}) for s in self.sizes],
            "factories": [
                {"type": "repeat", "jobs": [s], "number": n} for s, n in self.sizes.items() if n > 1
            ],
            "dependencies": children,
            "policies": {"maximumRetries": self.retries},
        }

    def exit_code(self, row: Job) -> int:
        key = key_of(row)
        self.tries[key] = self.tries.get(key, 0) + 1
        return int(self.tries[key] <= self.failures[key])


def key_of(row: Job) -> tuple[str, int]:
    return row.name.split("/")[1], row.instance or 0


@dataclass
class Model:
    """What must come of a plan, of what is kept from earlier runs, and of tries made there."""

    plan: Plan
    kept: set[tuple[str, int]] = field(default_factory=set)
    ran: set[tuple[str, int]] = field(default_factory=set)
    bad: set[tuple[str, int]] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)

    def run(self) -> "Model":
        for stage, size in self.plan.sizes.items():
            mine = {(stage, n) for n in range(size)} - self.kept
            if mine and self.plan.parents[stage] & self.broken:
                self.broken.add(stage)
                continue
            self.ran |= mine
            bad = {key for key in mine if self._left(key) > self.plan.retries}
            self.bad |= bad
            if len(bad) > self.plan.allowed[stage]:
                self.broken.add(stage)
        return self

    def _left(self, key: tuple[str, int]) -> int:
        """Failures still to come."""
        return self.plan.failures[key] - self.plan.tries.get(key, 0)

    @property
    def progress(self) -> tuple[int, int, int, int, int]:
        total = sum(self.plan.sizes.values())
        done = len(self.kept | self.ran) - len(self.bad)
        return done, len(self.bad), 0, total - done - len(self.bad), total


class Watched(Flow):
    """A flow that checks at each start that the job may start."""

    plan: Plan
    workflow: Workflow
    kept: set[tuple[str, int]]
    before: frozenset[int]

    def watch(self, plan: Plan, workflow: Workflow, kept: set[tuple[str, int]]) -> None:
        self.plan, self.workflow, self.kept = plan, workflow, kept
        self.decide = self._decide

    def _decide(self, row: Job) -> int:
        rows = Job.objects.filter(workflow=self.workflow.pk).only(
            "name", "instance", "status", "outcome"
        )
        ended = {key_of(r): r.outcome for r in rows if r.status in TERMINAL}
        for parent in self.plan.parents[key_of(row)[0]]:
            keys = {(parent, n) for n in range(self.plan.sizes[parent])} - self.kept
            assert keys <= ended.keys(), f"{row.name} starts before {parent} ended"
            bad = sum(ended[key] == "badly" for key in keys)
            assert bad <= self.plan.allowed[parent], f"{row.name} starts after {parent} failed"
        return self.plan.exit_code(row)

    def disturb(self, rng: Random) -> None:
        """Messages are lost, doubled and reordered; now and then everything in Redis is lost."""
        self.outbox.step()
        messages = []
        while message := self.worker.take():
            messages += [message] * rng.choice([0, 1, 1, 1, 2])
        rng.shuffle(messages)
        for message in messages:
            self.worker.run(message)
        if rng.random() < 0.1:
            self.hear()
            self.flush()
            self.reconciler.step()
        if rng.random() < 0.3:
            self.overdue()
        if rng.random() < 0.3:
            self.workflows._checked = 0.0

    def finish(self, rng: Random) -> None:
        for turn in range(400):
            self.workflow.refresh_from_db()
            if self.workflow.ended_at is not None:
                return
            if turn < 40:
                self.disturb(rng)
            else:  # the faults have ended
                self.overdue()
                self.workflows._checked = 0.0
            self.turn()
        raise AssertionError(self.story(self.workflow))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 3, chords of 4, 5 jobs ahead: constants whose real values would need thousands of jobs."""
    monkeypatch.setattr(ranges, "CHUNK", 3)
    monkeypatch.setattr(canvas, "PART", 4)
    monkeypatch.setattr(expand, "LOOK_AHEAD", 5)
    monkeypatch.setattr(expand, "BUDGET", 5)


@settings(
    max_examples=8,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(seed=st.integers(0, 2**32))
@pytest.mark.usefixtures("small")
def test_a_workflow_ends_as_the_model_says_whatever_is_lost_or_doubled(seed: int) -> None:
    rng = Random(seed)
    plan = Plan.make(rng)
    flow = Watched(
        User.objects.create(username=f"user{User.objects.count()}"), cpus=rng.choice([2, 8, 32])
    )
    flow.workflows._checks.grace_s = 0.0
    model = Model(plan).run()

    workflow = flow.submit(plan.document)
    flow.watch(plan, workflow, set())
    flow.finish(rng)
    check(flow, workflow, model)
    while model.broken:
        for key in model.bad:
            plan.failures[key] = plan.tries[key] + rng.choice([0, 0, ALWAYS])
        kept = (model.kept | model.ran) - model.bad
        model = Model(plan, kept=kept).run()
        workflow = rerun_workflow(owner=flow.user, workflow_id=workflow.pk)
        flow.watch(plan, workflow, kept)
        flow.finish(rng)
        check(flow, workflow, model)


def check(flow: Watched, workflow: Workflow, model: Model) -> None:
    assert flow.progress(workflow) == model.progress, flow.story(workflow)
    assert workflow.status == ("failed" if model.broken else "completed")
    rows = list(Job.objects.filter(workflow=workflow.pk))
    assert {key_of(row) for row in rows} == model.ran
    assert len(rows) == len(model.ran)
    assert {key_of(row) for row in rows if row.outcome == "badly"} == model.bad
    assert all(row.status in TERMINAL for row in rows)
    assert not workflow.joins.filter(closed_at__isnull=True).exists()
    for chunk in Chunk.objects.filter(workflow=workflow.pk):
        mine = [row for row in rows if row.chunk_id == chunk.pk]
        assert (chunk.size, chunk.well + chunk.badly) == (len(mine), len(mine))
        assert chunk.badly == sum(row.outcome == "badly" for row in mine)
    paths: dict[int, list[JobStatus]] = {}
    for event in Event.objects.filter(job__workflow=workflow.pk).order_by("pk"):
        paths.setdefault(event.job_id, []).append(JobStatus(event.after))
    assert all(is_legal_path(path) for path in paths.values())
