"""Workflows against a node's words: every loop and every Celery task stepped by hand."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from celery.app.trace import build_tracer
from django.contrib.auth.models import User
from django.db.models.functions import Now

from clouds.ingest_loop import Ingest
from clouds.outbox_loop import OutboxLoop
from clouds.reconciler import Reconciler
from clouds.scheduler import Scheduler
from jobs.models import Job, Outbox
from jobs.states import ACTIVE
from prominence.bus import server_redis
from prominence.celery import KEY_SPACE, QUEUE, app
from tests.integration.plain_node import PlainNode
from workflows import tasks  # noqa: F401 registers them
from workflows.loop import Workflows
from workflows.models import Workflow
from workflows.serializers import progress_of
from workflows.services import submit_workflow
from workflows.spec import parse_workflow
from workflows.states import TERMINAL

TASK = {"image": "busybox", "cmd": "true"}


def job(name: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "tasks": [TASK], "resources": {"memory": 1, "disk": 1}} | changes


class Worker:
    """Takes Celery messages of the control plane one by one and runs them as a worker would, chords included."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def take(self) -> dict[str, Any] | None:
        raw = server_redis().rpop(f"{KEY_SPACE}{QUEUE}")
        return json.loads(raw) if raw else None

    def run(self, message: dict[str, Any]) -> None:
        with app.connection_for_read() as connection, connection.channel() as channel:
            real = channel.Message(message, channel=channel)
            self.seen.append(message["headers"]["task"])
            _execute(real)

    def run_all(self) -> int:
        done = 0
        while message := self.take():
            self.run(message)
            done += 1
        return done


def _execute(message: Any) -> None:
    """What a worker's process does with a message: the traced task, with the chord's counter behind it."""
    args, kwargs, embed = message.decode()
    headers = message.headers
    task = app.tasks[headers["task"]]
    request = {
        "id": headers["id"],
        "args": args,
        "kwargs": kwargs,
        "group": headers["group"],
        "group_index": headers["group_index"],
        "chord": embed["chord"],
        "ignore_result": headers["ignore_result"],
        "is_eager": False,
        "called_directly": False,
    }
    tracer = build_tracer(task.name, task, app=app)
    _, info, *_ = tracer(headers["id"], args, kwargs, request)
    assert info is None, info


@dataclass
class Flow:
    """A control plane, a worker and a node; `decide` says how each job ends: its exit code."""

    user: User
    decide: Callable[[Job], int] = lambda job: 0
    cpus: int = 16
    started: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scheduler, self.ingest = Scheduler(), Ingest()
        self.outbox, self.reconciler, self.workflows = OutboxLoop(), Reconciler(), Workflows()
        for loop in (self.scheduler, self.ingest, self.outbox, self.reconciler, self.workflows):
            loop.start()
        self.worker = Worker()
        self.node = PlainNode(cpus=self.cpus)

    def submit(self, document: dict[str, Any]) -> Workflow:
        return submit_workflow(owner=self.user, document=parse_workflow(document))

    def turn(self) -> None:
        """Everything once."""
        self.outbox.step()
        self.worker.run_all()
        self.workflows.step()
        self.scheduler.wait(0.001)
        self.scheduler.step()
        self.run_jobs()
        self.hear()

    def hear(self) -> None:
        """What the node said is applied."""
        self.ingest._listed = 0.0
        self.ingest.wait(0.005)
        self.ingest.step()

    def run_jobs(self) -> None:
        """Every job that was offered runs and ends."""
        for batch in self.node.messages():
            for key in batch:
                if self.node.claim(key):
                    self.started.append(key.job)
                    code = self.decide(Job.objects.get(pk=key.job))
                    self.node.start(key)
                    self.node.end(key, exit_code=code)

    def overdue(self) -> None:
        """As if the time to publish again had come for everything."""
        Outbox.objects.update(due_at=Now() - timedelta(seconds=1))

    def flush(self) -> None:
        """Redis loses all but the users, whom a node needs to go on at once."""
        server_redis().flushall()

    def run(self, workflow: Workflow, turns: int = 200) -> Workflow:
        """Until the workflow has ended."""
        for _ in range(turns):
            workflow.refresh_from_db()
            if workflow.status in TERMINAL:
                return workflow
            self.turn()
        raise AssertionError(self.story(workflow))

    def story(self, workflow: Workflow) -> str:
        stages = [
            (s.name, s.status, s.size, s.adopted, s.well, s.badly, s.expanded, s.chunks)
            for s in workflow.stages.order_by("position")
        ]
        jobs = list(
            Job.objects.filter(workflow=workflow.pk, status__in=ACTIVE).values_list(
                "name", "status"
            )
        )
        joins = list(
            workflow.joins.values_list("pk", "members", "generation", "armed", "closed_at")
        )
        rows = list(Outbox.objects.values_list("topic", "key", "tries"))
        return f"{workflow.status}\n{stages}\n{jobs}\n{joins}\n{rows}"

    def progress(self, workflow: Workflow) -> tuple[int, int, int, int, int]:
        """done, failed, queued, waiting, total"""
        found = progress_of([workflow])[workflow.pk]
        return found.done, found.failed, found.queued, found.waiting, found.total
