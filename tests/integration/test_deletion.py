"""A deletion at every moment of an attempt: it never starts again, and is `deleted` only by a word that nothing runs.

The deletion is committed at a fixed place between other steps; what the node does then is what it would do.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.db.models.functions import Now

from clouds import lifecycle
from clouds.models import Incarnation
from jobs.models import Attempt, Event, Outbox
from jobs.services import submit_job
from jobs.spec import parse_job
from jobs.states import ACTIVE, TERMINAL, JobStatus, Reason, is_legal_path
from jobs.transition import delete_jobs
from tests.integration.plain_node import PlainNode
from tests.integration.test_control_plane import Plane, free
from worker.protocol import AttemptKey, EndReason, Held

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_server")]


@dataclass
class Scene:
    """One job on one node, and a user who wants it gone."""

    plane: Plane = field(default_factory=Plane)
    node: PlainNode = field(default_factory=PlainNode)

    def __post_init__(self) -> None:
        owner = User.objects.create(username="ada")
        document = {
            "tasks": [{"image": "busybox"}],
            "policies": {"maximumRetries": 3},
        }
        self.job = submit_job(owner=owner, document=parse_job(document))
        self.key = AttemptKey(self.job.pk, 1)

    # ---- moments

    def match(self) -> None:
        self.plane.schedule()

    def claim(self) -> None:
        self.match()
        assert self.node.claim(self.key)

    def begin(self) -> None:
        self.claim()
        self.node.start(self.key)

    def begin_heard(self) -> None:
        self.begin()
        self.plane.hear()

    def fail(self) -> None:
        self.begin()
        self.node.end(self.key, exit_code=1)

    def finish(self) -> None:
        self.begin()
        self.node.end(self.key)

    def give_back(self) -> None:
        self.claim()
        self.node.end(self.key, reason=EndReason.NEVER_STARTED, exit_code=None, detail="given back")

    def lose(self) -> None:
        self.begin()
        self.node.end(self.key, reason=EndReason.SHIM_LOST, exit_code=None)

    # ---- what is looked at

    def delete(self) -> None:
        delete_jobs([self.job.pk], actor="ada")
        delete_jobs([self.job.pk], actor="ada")  # twice is once

    def status(self) -> str:
        self.job.refresh_from_db()
        return self.job.status

    def obey(self) -> None:
        """The node hears the stop, and says that nothing runs."""
        self.plane.outbox.step()
        assert any(self.key in word.stop for word in self.node.words())
        begun = any(type(event).__name__ == "Started" for event in self.node.events)
        reason = EndReason.STOPPED if begun else EndReason.NEVER_STARTED
        self.node.end(self.key, reason=reason, exit_code=None)
        self.plane.hear()

    def check_gone(self) -> None:
        """Deleted, once, by a legal path; nothing is left of it, and nothing starts it again."""
        path = [JobStatus(e.after) for e in Event.objects.filter(job=self.job).order_by("pk")]
        assert path[-1] == JobStatus.DELETED
        assert is_legal_path(path)
        assert sum(status in TERMINAL for status in path) == 1
        assert self.status() == JobStatus.DELETED
        assert self.job.reason == Reason.DELETED_BY_USER
        attempts = Attempt.objects.filter(job=self.job).count()
        self.node.messages()
        self.plane.scheduler.start()
        self.plane.schedule()
        self.plane.republish()
        assert self.node.messages() == []
        assert Attempt.objects.filter(job=self.job).count() == attempts
        assert not Outbox.objects.exists()


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.mark.parametrize(
    "moment", [Scene.match, Scene.claim, Scene.begin, Scene.begin_heard], ids=lambda m: m.__name__
)
@pytest.mark.parametrize("heard_first", [True, False], ids=["heard", "unheard"])
def test_attempt_under_way_is_deleted_by_the_nodes_word(
    scene: Scene, moment: Callable[[Scene], None], heard_first: bool
) -> None:
    moment(scene)
    if heard_first:
        scene.plane.hear()
    scene.delete()
    assert scene.status() in ACTIVE
    scene.plane.hear()
    scene.plane.republish()
    assert scene.status() in ACTIVE
    scene.obey()
    scene.check_gone()
    assert free(scene.node).cpus == 2


@pytest.mark.parametrize(
    "moment", [Scene.fail, Scene.finish, Scene.give_back, Scene.lose], ids=lambda m: m.__name__
)
def test_end_on_its_way_when_the_deletion_comes_is_the_word_for_it(
    scene: Scene, moment: Callable[[Scene], None]
) -> None:
    """Even a good end: its user does not want it any more. Nothing is tried again."""
    moment(scene)
    scene.delete()
    assert scene.status() in ACTIVE
    scene.plane.hear()
    scene.check_gone()


@pytest.mark.parametrize(
    "moment", [Scene.fail, Scene.give_back, Scene.lose], ids=lambda m: m.__name__
)
def test_job_queued_again_is_deleted_at_once(scene: Scene, moment: Callable[[Scene], None]) -> None:
    moment(scene)
    scene.plane.hear()
    assert scene.status() == JobStatus.PENDING
    scene.delete()
    scene.check_gone()


def test_job_that_ended_stays_as_it_is(scene: Scene) -> None:
    scene.finish()
    scene.plane.hear()
    scene.delete()
    assert scene.status() == JobStatus.COMPLETED
    assert not Outbox.objects.exists()


def test_deletion_between_match_and_attempt_leaves_no_attempt(scene: Scene) -> None:
    scene.plane.scheduler.wait(0.01)
    batches = scene.plane.scheduler._match()
    assert batches
    scene.delete()
    assert scene.plane.scheduler._commit(batches) == []
    scene.check_gone()
    assert free(scene.node).cpus == 2


def test_offer_published_again_after_the_stop_does_not_start_it(scene: Scene) -> None:
    """The stop comes before the message: the node voids what it does not know, and takes no message of it later."""
    scene.match()
    scene.delete()
    scene.obey()
    scene.check_gone()


def test_stop_lost_with_redis_is_said_again(scene: Scene, redis_server: object) -> None:
    scene.begin_heard()
    scene.delete()
    scene.plane.outbox.step()
    redis_server.flush()  # type: ignore[attr-defined]
    scene.plane.reconciler.step()
    scene.plane.republish()
    assert any(scene.key in word.stop for word in scene.node.words())


def test_deleted_job_on_a_silent_node_is_deleted_when_its_lease_is_over_for_certain(
    scene: Scene,
) -> None:
    scene.begin_heard()
    rows = Incarnation.objects.filter(pk=scene.node.enrolment.incarnation)
    rows.update(heard_at=Now() - timedelta(hours=1))
    scene.delete()
    lifecycle.fence_silent()
    scene.plane.republish()
    assert scene.status() == JobStatus.RUNNING
    rows.update(fenced_at=Now() - timedelta(hours=1))
    lifecycle.bury_fenced()
    assert scene.status() == JobStatus.DELETED
    assert not Outbox.objects.exists()


def test_deletion_while_fenced_waits_for_the_burial(scene: Scene) -> None:
    scene.begin_heard()
    rows = Incarnation.objects.filter(pk=scene.node.enrolment.incarnation)
    rows.update(heard_at=Now() - timedelta(hours=1))
    lifecycle.fence_silent()
    scene.delete()
    scene.plane.republish()
    assert scene.status() == JobStatus.RUNNING
    rows.update(fenced_at=Now() - timedelta(hours=1))
    lifecycle.bury_fenced()
    assert scene.status() == JobStatus.DELETED


def test_claim_that_comes_after_the_deletion_is_stopped_with_each_heartbeat(scene: Scene) -> None:
    scene.match()
    scene.delete()
    scene.plane.outbox.step()
    scene.node.words()  # said, and lost on the node
    assert scene.node.claim(scene.key)
    scene.node.start(scene.key)
    for _ in range(2):
        scene.node.beat(Held(scene.key, "running"))
        scene.plane.hear()
        assert scene.node.words()[-1].stop == (scene.key,)
        assert scene.status() == JobStatus.RUNNING
    scene.node.end(scene.key, reason=EndReason.STOPPED, exit_code=None)
    scene.plane.hear()
    scene.check_gone()
