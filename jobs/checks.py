"""What health and metrics ask of this room: how long the outbox and the queue have been waiting. One row each."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.db.models import QuerySet
from django.db.models.functions import Now
from prometheus_client.core import Metric

from jobs.models import Job, Outbox
from prominence.health import on_lag
from prominence.metrics import gauge, on_gauges


def register() -> None:
    """Called when the app is ready."""
    on_lag("outbox", "its oldest row has been due", outbox_lag_s)
    on_gauges(_gauges)


def outbox_lag_s() -> float:
    """How long the row that has been due longest has been due."""
    return _age_s(Outbox.objects.all(), "due_at")


def _gauges() -> Iterable[Metric]:
    yield gauge(
        "queue_age_seconds",
        "How long the job that has waited longest for a node has waited.",
        _age_s(Job.objects.filter(queued=True), "queued_at"),
    )
    yield gauge(
        "outbox_age_seconds",
        "How long the oldest effect has not come.",
        _age_s(Outbox.objects.order_by("pk"), "created_at"),
    )


def _age_s(rows: QuerySet[Any], moment: str) -> float:
    """Of the first row (by `moment` unless the rows are ordered), by the database's clock; 0 when there is none."""
    ordered = rows if rows.query.order_by else rows.order_by(moment)
    found: tuple[datetime, datetime] | None = ordered.values_list(moment, Now()).first()
    if found is None:
        return 0.0
    return max(timedelta(0), found[1] - found[0]).total_seconds()
