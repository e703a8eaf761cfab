"""Telling users that their jobs have ended (U20), by e-mail and webhooks, apart from the loops that jobs wait for.

Owns the outbox rows of topic NOTIFY, one for each notification of an ended job; a row goes when its message was taken,
or when it was given up. A message may be sent twice, if this process dies between the sending and the row's end.
"""

import json
import logging
import smtplib
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.mail import EmailMessage
from django.db.models.functions import Now

from jobs import outbox
from jobs.models import Job, Outbox
from jobs.notifications import EMAIL, address_of, signing_key
from jobs.serializers import full_entries
from prominence.seals import SealBroken
from prominence.webhooks import Delivery, NotDelivered, deliver

logger = logging.getLogger(__name__)

BATCH = 50
AT_ONCE = 8
# 30 s, 1 min, 2 min … at most an hour apart: about a day.
FIRST_PAUSE_S = 30.0
LONGEST_PAUSE_S = 3600.0
TRIES = 30
_HIDDEN = ("inputs", "notifications")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What a row asks to be sent."""

    row: Outbox
    job: Job
    entry: Mapping[str, Any]
    notification: Mapping[str, str]


class Notifier:
    """One step sends everything that is due, several at once."""

    name = "notifier"
    idle_s = 1.0

    def __init__(self) -> None:
        self._senders = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="notify")

    def start(self) -> None:
        """Nothing is kept in memory."""

    def wait(self, timeout_s: float) -> None:
        time.sleep(timeout_s)

    def step(self) -> None:
        while messages := due_messages():
            # Database work stays in this thread: sending is all that the others do.
            for message, error in zip(messages, self._senders.map(_outcome, messages), strict=True):
                _settle(message, error)


def due_messages() -> list[Message]:
    """Rows whose time has come, with their jobs: a constant number of queries. Rows without a job go."""
    rows = list(
        Outbox.objects.filter(topic=outbox.NOTIFY, due_at__lte=Now()).order_by("due_at")[:BATCH]
    )
    keys = {row.pk: tuple(map(int, row.key.split("."))) for row in rows}
    jobs = {
        job.pk: job
        for job in Job.objects.filter(pk__in={key[0] for key in keys.values()}).select_related(
            "owner"
        )
    }
    entries = {entry["id"]: entry for entry in _entries(list(jobs.values()))}
    gone = [row.key for row in rows if keys[row.pk][0] not in jobs]
    if gone:
        outbox.settle(outbox.NOTIFY, gone)
    return [
        Message(
            row=row,
            job=jobs[number],
            entry=entries[number],
            notification=jobs[number].spec["notifications"][index],
        )
        for row, (number, index) in ((row, keys[row.pk]) for row in rows)
        if number in jobs
    ]


def _entries(jobs: list[Job]) -> list[dict[str, Any]]:
    """What is told of each job: as described, without what may be large or secret."""
    return [
        {key: value for key, value in entry.items() if key not in _HIDDEN}
        for entry in full_entries(jobs)
    ]


def _outcome(message: Message) -> NotDelivered | None:
    """Send it; None if that worked. Nothing may fail but the sending."""
    try:
        if message.notification["type"] == EMAIL:
            _send_mail(message)
        else:
            _post(message)
    except NotDelivered as error:
        return error
    except (OSError, smtplib.SMTPException, SealBroken) as error:
        return NotDelivered(type(error).__name__)
    return None


def _settle(message: Message, error: NotDelivered | None) -> None:
    row = message.row
    if error is None or error.final or row.tries + 1 >= TRIES:
        outbox.settle(outbox.NOTIFY, [row.key])
        if error is not None:
            logger.warning("notification %s given up: %s", row.key, error)
        return
    pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**row.tries)
    logger.info("notification %s not sent: %s; again in %.0f s", row.key, error, pause_s)
    Outbox.objects.filter(pk=row.pk).update(
        due_at=Now() + timedelta(seconds=pause_s), tries=row.tries + 1
    )


def _post(message: Message) -> None:
    now = int(time.time())
    body = {
        "event": message.notification["event"],
        "delivery": message.row.key,
        "job": message.entry,
    }
    deliver(
        Delivery(
            url=message.notification["url"],
            identity=message.row.key,
            body=json.dumps(body).encode(),
            key=signing_key(message.notification),
        ),
        now=now,
        allow_private=settings.CONFIG.webhook_private_addresses,
    )


def _send_mail(message: Message) -> None:
    address = address_of(message.job.owner.email, message.job.owner.get_username())
    if not address:
        raise NotDelivered("the user has no e-mail address", final=True)
    name = f" ({message.job.name})" if message.job.name else ""
    EmailMessage(
        subject=f"Your PROMINENCE job with id {message.job.pk}{name} has finished",
        body=_mail_text(message),
        to=[address],
        headers={"Message-ID": f"<job-{message.row.key}@prominence>"},
    ).send()


def _mail_text(message: Message) -> str:
    entry = message.entry
    execution = entry.get("execution", {})
    tasks = execution.get("tasks", [])
    lines = {
        "Status": entry["status"],
        "Reason": entry.get("statusReason", ""),
        "Site": execution.get("site", ""),
        "Exit codes": ", ".join(str(task.get("exitCode", "-")) for task in tasks),
        "Wall time": f"{sum(task.get('wallTimeUsage', 0) for task in tasks):.1f} s",
        "CPU time": f"{sum(task.get('cpuTimeUsage', 0) for task in tasks):.1f} s",
        "Memory": f"{execution['maxMemoryUsageKB']} KB" if "maxMemoryUsageKB" in execution else "",
    }
    return "".join(f"{name}: {value}\n" for name, value in lines.items() if value)
