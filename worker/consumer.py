"""The Celery worker inside this process: one task, one queue, a pool of threads.

Celery brings messages; what they mean, and whether they are obeyed, is decided in `run.py`.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from celery import Celery
from celery.worker import WorkController

from worker.protocol import RUN_QUEUE, RUN_TASK, AttemptKey, key_prefix

logger = logging.getLogger(__name__)

THIRTY_DAYS_S = 30 * 24 * 3600
RESTART_S = 2.0

Handle = Callable[[Sequence[AttemptKey]], None]


def make_app(redis_url: str, incarnation: int, handle: Handle) -> Celery:
    """The Celery application of one incarnation."""
    app = Celery("prominence-node", set_as_current=False, fixups=[])
    app.conf.update(
        broker_url=redis_url,
        result_backend=None,
        broker_transport_options={
            "global_keyprefix": key_prefix(incarnation),
            # Redelivery is never wanted: the server sends again while the offer is there.
            "visibility_timeout": THIRTY_DAYS_S,
            "priority_steps": [0],
            "socket_timeout": 30,
            "socket_connect_timeout": 10,
            "socket_keepalive": True,
            "health_check_interval": 25,
        },
        task_default_queue=RUN_QUEUE,
        task_create_missing_queues=False,
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        task_send_sent_event=False,
        task_track_started=False,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_redirect_stdouts=False,
        worker_hijack_root_logger=False,
    )

    @app.task(name=RUN_TASK, ignore_result=True)  # type: ignore[untyped-decorator]
    def run(batch: str, keys: Sequence[Sequence[int]], **_: Any) -> None:
        handle([AttemptKey(*key) for key in keys])

    return app


class Consumer(threading.Thread):
    """Keeps a Celery worker going, whatever Redis does to it."""

    def __init__(self, app: Celery, *, concurrency: int) -> None:
        super().__init__(name="celery", daemon=True)
        self._app = app
        self._concurrency = concurrency

    def run(self) -> None:
        while True:
            try:
                self._consume()
            except Exception:
                logger.exception("the Celery worker failed")
            logger.warning("the Celery worker ended: starting it again")
            time.sleep(RESTART_S)

    def _consume(self) -> None:
        worker = WorkController(
            app=self._app,
            pool="threads",
            concurrency=self._concurrency,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            quiet=True,
        )
        worker.start()
