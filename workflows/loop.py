"""The control plane's loop for workflows: expands released stages, and reconciles the canvas with the database.

A `clouds.loops.Step`, run by `manage.py control`.
"""

import time

from django.conf import settings

from prominence.bus import EPOCH, WORKFLOWS, server_redis
from prominence.streams import Doorbell
from workflows.expand import expand_workflow, expanding_workflows
from workflows.reconcile import GRACE_S, JoinCheck

# Transactions of expansion for one workflow before the others have their turn.
TURN = 5


class Workflows:
    """One step expands what there is room for; now and then all open joins are looked at."""

    name = "workflows"
    idle_s = 0.5

    def __init__(self) -> None:
        self._bell = Doorbell(WORKFLOWS)
        self._checks = JoinCheck(grace_s=min(GRACE_S, settings.CONFIG.republish_s))
        self._checked = 0.0
        self._epoch: object = None

    def start(self) -> None:
        self._bell.seek_end()

    def wait(self, timeout_s: float) -> None:
        self._bell.wait(timeout_s)

    def step(self) -> None:
        for workflow_id in expanding_workflows():
            for _ in range(TURN):
                if not expand_workflow(workflow_id):
                    break
        self._reconcile()

    def _reconcile(self) -> None:
        """Every few seconds, and at once when Redis has lost its contents."""
        epoch = server_redis().get(EPOCH)
        flushed, self._epoch = epoch != self._epoch, epoch
        due = time.monotonic() - self._checked > settings.CONFIG.republish_s
        if flushed or due:
            self._checked = time.monotonic()
            self._checks.run()
