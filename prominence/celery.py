"""The control plane's Celery: short, idempotent tasks on the server's own Redis, and chord counters.

Messages here are hints: losing, doubling or delaying one costs time only. Redis is the result backend for the
counters of chords alone; nothing reads a result. Nodes have an application of their own (`worker.consumer`).
"""

from celery import Celery
from django.conf import settings

QUEUE = "control"
KEY_SPACE = "s:celery:"
# Longer than any task takes: what a killed worker had is delivered again after it.
VISIBILITY_S = 60
CHORD_LIFE_S = 30 * 86_400

_REDIS = {
    "global_keyprefix": KEY_SPACE,
    "socket_timeout": 10,
    "socket_connect_timeout": 2,
    "socket_keepalive": True,
}

app = Celery("prominence.control", set_as_current=False)
app.conf.update(
    broker_url=settings.CONFIG.redis_url,
    broker_transport_options={
        **_REDIS,
        "visibility_timeout": VISIBILITY_S,
        "priority_steps": [0],
    },
    result_backend=settings.CONFIG.redis_url,
    result_backend_transport_options=_REDIS,
    result_chord_expires=CHORD_LIFE_S,
    task_default_queue=QUEUE,
    task_ignore_result=True,
    task_acks_late=True,
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
    task_publish_retry=False,  # the outbox publishes again
    task_send_sent_event=False,
    worker_prefetch_multiplier=4,
    worker_enable_remote_control=False,  # with it, a worker that loses Redis ends
    worker_send_task_events=False,
    worker_redirect_stdouts=False,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_connection_retry=True,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
)
