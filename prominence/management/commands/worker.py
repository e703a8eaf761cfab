"""`manage.py worker`: a Celery worker of the control plane, for the canvas of workflows. Any number may run."""

from typing import Any

from django.core.management.base import BaseCommand

from prominence.celery import QUEUE, app
from workflows import tasks


class Command(BaseCommand):
    help = (
        "Run a Celery worker of the control plane (signals, releases and deletions of workflows)."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        """One task at a time (they are short), nothing of Celery's chatter between workers."""
        self.stdout.write(f"worker: {tasks.__name__}")
        app.worker_main(
            [
                *("worker", "--pool", "solo", "--queues", QUEUE, "--loglevel", "WARNING"),
                *("--without-gossip", "--without-mingle", "--without-heartbeat"),
            ]
        )
