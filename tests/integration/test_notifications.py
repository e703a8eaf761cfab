"""Users are told of the end of their jobs, once it is certain, whatever happens in between (U20)."""

import json
from dataclasses import replace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core import mail
from django.db.models.functions import Now

from jobs import notifier, outbox
from jobs.models import Job, Outbox
from jobs.notifier import Notifier
from jobs.services import submit_job
from jobs.spec import parse_job
from jobs.transition import delete_jobs
from prominence.bus import server_redis
from prominence.errors import InvalidDocument
from tests.integration.plain_node import PlainNode
from tests.integration.test_control_plane import Plane, run
from tests.unit.test_webhooks import Receiver, receiver

__all__ = ["receiver"]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_server")]
SECRET = "a-secret-of-the-user"
MAIL = {"event": "jobFinished", "type": "email"}


@pytest.fixture
def user(settings: Any) -> User:
    settings.CONFIG = replace(settings.CONFIG, webhook_private_addresses=True)
    settings.EMAIL_HOST = "mail.example.org"
    return User.objects.create(username="ada@example.org")


def submit(user: User, *notifications: dict[str, str]) -> Job:
    document = {
        "name": "told",
        "resources": {"cpus": 1, "memory": 1, "disk": 1},
        "tasks": [{"image": "busybox", "cmd": "true"}],
        "notifications": list(notifications),
    }
    return submit_job(owner=user, document=parse_job(document))


def hook(receiver: Receiver) -> dict[str, str]:
    return {"event": "jobFinished", "type": "webhook", "url": receiver.url, "secret": SECRET}


def make_due() -> None:
    Outbox.objects.update(due_at=Now())


def pending() -> list[int]:
    return list(Outbox.objects.filter(topic=outbox.NOTIFY).values_list("tries", flat=True))


@pytest.mark.contract("U20")
def test_mail_and_webhook_tell_of_the_end_once(user: User, receiver: Receiver) -> None:
    plane, node, job = Plane(), PlainNode(), submit(user, MAIL, hook(receiver))
    plane.schedule()
    [[key]] = node.messages()
    Notifier().step()
    assert (mail.outbox, receiver.got) == ([], [])
    run(node, plane, key)
    server_redis().flushall()

    Notifier().step()
    Notifier().step()

    (message,) = mail.outbox
    assert message.to == ["ada@example.org"]
    assert message.subject == f"Your PROMINENCE job with id {job.pk} (told) has finished"
    assert "Status: completed\n" in message.body
    assert "Site: here\n" in message.body
    ((_, headers, body),) = receiver.got
    told = json.loads(body)
    assert (told["event"], told["delivery"]) == ("jobFinished", f"{job.pk}.1")
    assert (told["job"]["id"], told["job"]["status"]) == (job.pk, "completed")
    assert headers["x-prominence-signature"].startswith("sha256=")
    assert SECRET not in body.decode() + json.dumps(job.spec)
    assert pending() == []


def test_deleted_job_is_told_of_as_well(user: User, receiver: Receiver) -> None:
    job = submit(user, hook(receiver))

    delete_jobs([job.pk], actor="ada")
    Notifier().step()

    assert json.loads(receiver.got[0][2])["job"]["status"] == "deleted"


def test_failed_delivery_is_tried_again_later_and_given_up_in_the_end(
    user: User, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier, "TRIES", 3)
    job = submit(user, hook(receiver))
    delete_jobs([job.pk], actor="ada")
    receiver.answers = [500, 503, 500]

    Notifier().step()
    Notifier().step()
    assert (len(receiver.got), pending()) == (1, [1])
    make_due()
    Notifier().step()
    assert (len(receiver.got), pending()) == (2, [2])
    make_due()
    Notifier().step()

    assert (len(receiver.got), pending()) == (3, [])
    assert {headers["x-prominence-delivery"] for _, headers, _ in receiver.got} == {f"{job.pk}.0"}


def test_private_address_is_refused_and_given_up(
    user: User, receiver: Receiver, settings: Any
) -> None:
    settings.CONFIG = replace(settings.CONFIG, webhook_private_addresses=False)
    delete_jobs([submit(user, hook(receiver)).pk], actor="ada")

    Notifier().step()

    assert (receiver.got, pending()) == ([], [])


def test_mail_that_could_never_be_sent_is_refused(user: User, settings: Any) -> None:
    nobody = User.objects.create(username="nobody")
    with pytest.raises(InvalidDocument, match="no e-mail address"):
        submit(nobody, MAIL)

    settings.EMAIL_HOST = ""
    with pytest.raises(InvalidDocument, match="sends no e-mail") as caught:
        submit(user, MAIL)

    assert caught.value.problems[0]["pointer"] == "/notifications/0/type"
    assert not Job.objects.exists()


def test_job_that_is_gone_has_nothing_to_tell(user: User, receiver: Receiver) -> None:
    job = submit(user, hook(receiver))
    delete_jobs([job.pk], actor="ada")
    job.delete()

    Notifier().step()

    assert (receiver.got, pending()) == ([], [])
