"""The control plane against a node's words, loops stepped by hand, with a real database and a real Redis."""

from datetime import timedelta

import pytest
import redis
from django.contrib.auth.models import User
from django.db.models.functions import Now

from clouds import lifecycle
from clouds.capacity import NOTHING, Amount, recount
from clouds.ingest_loop import Ingest
from clouds.models import Incarnation
from clouds.outbox_loop import OutboxLoop
from clouds.reconciler import Reconciler
from clouds.scheduler import Scheduler
from clouds.states import IncarnationStatus
from jobs.kinds import note_runs
from jobs.models import Attempt, Event, Job, Kind, Outbox, Placement
from jobs.output import read_output
from jobs.reports import EndReport
from jobs.services import submit_job
from jobs.spec import parse_job
from jobs.states import AttemptStatus, JobStatus, Outcome, Reason, is_legal_path
from jobs.transition import delete_jobs
from prominence.bus import server_redis
from tests.integration.plain_node import PlainNode
from worker.protocol import AttemptKey, EndReason, Held

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_server")]


class Plane:
    """All loops, stepped by hand."""

    def __init__(self) -> None:
        self.scheduler = Scheduler()
        self.ingest = Ingest()
        self.outbox = OutboxLoop()
        self.reconciler = Reconciler()
        for loop in (self.scheduler, self.ingest, self.outbox, self.reconciler):
            loop.start()

    def schedule(self) -> None:
        self.scheduler.wait(0.01)
        self.scheduler.step()

    def hear(self) -> None:
        self.ingest._listed = 0.0
        self.ingest.wait(0.05)
        self.ingest.step()

    def republish(self) -> None:
        Outbox.objects.update(due_at=Now() - timedelta(seconds=1))
        self.outbox.step()


@pytest.fixture
def plane() -> Plane:
    return Plane()


@pytest.fixture
def user() -> User:
    return User.objects.create(username="ada")


def submit(user: User, *, cpus: int = 1, retries: int = 0) -> Job:
    document = {
        "resources": {"cpus": cpus, "memory": 1, "disk": 1},
        "tasks": [{"image": "busybox", "cmd": "true"}],
        "policies": {"maximumRetries": retries},
    }
    return submit_job(owner=user, document=parse_job(document))


def path_of(job: Job) -> list[JobStatus]:
    return [JobStatus(e.after) for e in Event.objects.filter(job=job).order_by("pk")]


def free(node: PlainNode) -> Amount:
    row = Incarnation.objects.get(pk=node.enrolment.incarnation)
    used = recount([row.pk])[row.pk]
    assert row.cpus_free == row.cpus - used.cpus
    assert row.memory_mb_free == row.memory_mb - used.memory_mb
    live = Placement.objects.filter(incarnation=row.pk, live=True, charged=False).count()
    assert row.ahead == live
    return Amount(cpus=row.cpus_free, memory_mb=row.memory_mb_free, disk_mb=row.disk_mb_free)


def run(node: PlainNode, plane: Plane, key: AttemptKey, **end: object) -> None:
    assert node.claim(key)
    node.start(key)
    node.end(key, **end)
    plane.hear()


def test_job_from_submit_to_completed(plane: Plane, user: User) -> None:
    node, job = PlainNode(), submit(user)
    plane.schedule()
    [[key]] = node.messages()
    assert key == AttemptKey(job.pk, 1)
    run(node, plane, key, stdout=b"hello\n")
    job.refresh_from_db()
    assert (job.status, job.outcome) == (JobStatus.COMPLETED, Outcome.WELL)
    assert path_of(job) == [JobStatus.PENDING, JobStatus.RUNNING, JobStatus.COMPLETED]
    assert b"".join(read_output(job=job, stream="stdout")) == b"hello\n"
    assert free(node).cpus == 2
    assert not Outbox.objects.exists()


def test_capacity_is_never_exceeded(plane: Plane, user: User) -> None:
    node = PlainNode(cpus=3)
    for _ in range(4):
        submit(user, cpus=2)
    plane.schedule()
    assert len(node.messages()) == 1
    assert free(node).cpus == 1


def test_owners_take_turns(plane: Plane, user: User) -> None:
    other = User.objects.create(username="bob")
    for _ in range(3):
        submit(user)
    theirs = submit(other)
    node = PlainNode(cpus=2)
    plane.schedule()
    assert AttemptKey(theirs.pk, 1) in [key for [key] in node.messages()]


def test_lost_message_is_published_again(plane: Plane, user: User) -> None:
    node, job = PlainNode(), submit(user)
    plane.schedule()
    server_redis().flushall()
    assert node.messages() == []
    plane.republish()
    [[key]] = node.messages()
    run(node, plane, key)
    job.refresh_from_db()
    assert (job.status, job.attempt) == (JobStatus.COMPLETED, 1)


def test_claimed_offer_is_not_published_again(plane: Plane, user: User) -> None:
    node = PlainNode()
    submit(user)
    plane.schedule()
    [[key]] = node.messages()
    assert node.claim(key)
    plane.hear()
    plane.republish()
    assert node.messages() == []


def test_flush_is_noticed_and_everything_due_comes_again(plane: Plane, user: User) -> None:
    node = PlainNode()
    submit(user)
    plane.reconciler.step()
    plane.schedule()
    server_redis().flushall()
    plane.reconciler.step()
    plane.outbox.step()
    assert len(node.messages()) == 1


def test_job_missed_by_its_hint_is_found_by_the_poll(plane: Plane, user: User) -> None:
    node = PlainNode()
    submit(user)
    server_redis().flushall()
    plane.scheduler._polled = -1000.0
    plane.schedule()
    assert len(node.messages()) == 1


def test_events_repeated_change_nothing(plane: Plane, user: User) -> None:
    node, job = PlainNode(), submit(user)
    plane.schedule()
    [[key]] = node.messages()
    run(node, plane, key)
    node.send(*node.events)
    plane.hear()
    assert len(path_of(job)) == 3
    assert free(node).cpus == 2


def test_gap_in_events_waits_for_the_missing_one(plane: Plane, user: User) -> None:
    node, job = PlainNode(), submit(user)
    plane.schedule()
    [[key]] = node.messages()
    node.mute = True
    assert node.claim(key)
    node.start(key)
    node.end(key)
    node.send(node.events[0], node.events[2])
    plane.hear()
    assert path_of(job) == [JobStatus.PENDING]
    assert [word.ack for word in node.words()][-1] == 1
    node.send(*node.events)
    plane.hear()
    assert path_of(job)[-1] == JobStatus.COMPLETED


def test_end_without_a_start_of_its_own_still_has_a_legal_path(plane: Plane, user: User) -> None:
    node, job = PlainNode(), submit(user)
    plane.schedule()
    [[key]] = node.messages()
    node.end(key)
    plane.hear()
    assert is_legal_path(path_of(job))
    assert path_of(job)[-1] == JobStatus.COMPLETED


def test_node_speaking_of_others_attempts_is_not_heard(plane: Plane, user: User) -> None:
    node, job = PlainNode(), submit(user)
    plane.schedule()
    liar = PlainNode(name="liar")
    [[key]] = node.messages()
    liar.end(key)
    plane.hear()
    job.refresh_from_db()
    assert job.status == JobStatus.PENDING


def test_failing_program_is_retried_and_counted(plane: Plane, user: User) -> None:
    node, job = PlainNode(), submit(user, retries=1)
    plane.schedule()
    run(node, plane, AttemptKey(job.pk, 1), exit_code=3)
    job.refresh_from_db()
    assert (job.status, job.queued, job.retries) == (JobStatus.PENDING, True, 1)
    plane.schedule()
    run(node, plane, AttemptKey(job.pk, 2), exit_code=3)
    job.refresh_from_db()
    assert (job.status, job.outcome, job.reason) == (
        JobStatus.COMPLETED,
        Outcome.BADLY,
        Reason.EXIT_CODE,
    )
    assert is_legal_path(path_of(job))


def test_node_fault_is_retried_and_not_counted(plane: Plane, user: User) -> None:
    node, job = PlainNode(), submit(user)
    plane.schedule()
    run(node, plane, AttemptKey(job.pk, 1), reason=EndReason.SHIM_LOST, exit_code=None)
    job.refresh_from_db()
    assert (job.status, job.retries, job.node_faults) == (JobStatus.PENDING, 0, 1)
    plane.schedule()
    run(node, plane, AttemptKey(job.pk, 2))
    job.refresh_from_db()
    assert job.status == JobStatus.COMPLETED


def test_deleted_pending_job_never_starts(plane: Plane, user: User) -> None:
    job = submit(user)
    delete_jobs([job.pk], actor="ada")
    node = PlainNode()
    plane.schedule()
    assert node.messages() == []
    assert path_of(job) == [JobStatus.PENDING, JobStatus.DELETED]


def test_running_job_is_deleted_only_by_the_nodes_word(plane: Plane, user: User) -> None:
    node, job = PlainNode(), submit(user)
    plane.schedule()
    key = AttemptKey(job.pk, 1)
    assert node.claim(key)
    node.start(key)
    plane.hear()
    delete_jobs([job.pk], actor="ada")
    plane.outbox.step()
    assert any(key in word.stop for word in node.words())
    job.refresh_from_db()
    assert job.status == JobStatus.RUNNING
    node.end(key, reason=EndReason.STOPPED, exit_code=None)
    plane.hear()
    job.refresh_from_db()
    assert (job.status, job.reason) == (JobStatus.DELETED, Reason.DELETED_BY_USER)
    assert not Outbox.objects.exists()


def test_lost_stop_is_said_again_with_the_next_heartbeat(plane: Plane, user: User) -> None:
    node, job = PlainNode(), submit(user)
    plane.schedule()
    key = AttemptKey(job.pk, 1)
    assert node.claim(key)
    node.start(key)
    plane.hear()
    delete_jobs([job.pk], actor="ada")
    number = node.beat(Held(key, "running"))
    plane.hear()
    [word] = [w for w in node.words() if w.answers == number]
    assert word.stop == (key,)


def test_attempt_missing_from_the_snapshot_is_voided_not_offered_again(
    plane: Plane, user: User
) -> None:
    node, job = PlainNode(), submit(user)
    plane.schedule()
    key = AttemptKey(job.pk, 1)
    assert node.claim(key)
    plane.hear()
    node.beat()
    plane.hear()
    assert node.words()[-1].stop == (key,)
    job.refresh_from_db()
    assert (job.attempt, job.queued) == (1, False)


def test_silent_node_is_fenced_then_buried_and_its_jobs_run_elsewhere(
    plane: Plane, user: User
) -> None:
    node, job = PlainNode(), submit(user)
    plane.schedule()
    assert node.claim(AttemptKey(job.pk, 1))
    node.start(AttemptKey(job.pk, 1))
    plane.hear()
    rows = Incarnation.objects.filter(pk=node.enrolment.incarnation)
    rows.update(heard_at=Now() - timedelta(hours=1))
    assert lifecycle.fence_silent() == [node.enrolment.incarnation]
    job.refresh_from_db()
    assert job.status == JobStatus.RUNNING
    with pytest.raises(redis.RedisError):
        node.redis.get(node.keys.up)
    assert lifecycle.bury_fenced() == []
    rows.update(fenced_at=Now() - timedelta(hours=1))
    assert lifecycle.bury_fenced() == [node.enrolment.incarnation]
    other = PlainNode(name="other")
    plane.schedule()
    run(other, plane, AttemptKey(job.pk, 2))
    job.refresh_from_db()
    assert (job.status, job.attempt) == (JobStatus.COMPLETED, 2)
    assert is_legal_path(path_of(job))
    assert Attempt.objects.get(job=job, number=1).reason == Reason.NODE_LOST


def test_fenced_node_is_not_answered(plane: Plane) -> None:
    node = PlainNode()
    node.beat()
    Incarnation.objects.update(status=IncarnationStatus.FENCED, fenced_at=Now())
    plane.hear()
    assert node.words() == []


def test_re_enrolled_node_loses_what_it_had(plane: Plane, user: User) -> None:
    node, job = PlainNode(), submit(user)
    plane.schedule()
    assert node.claim(AttemptKey(job.pk, 1))
    plane.hear()
    old = node.enrolment.incarnation
    node.enrol(key=node.enrolment.key)
    assert node.enrolment.incarnation != old
    plane.schedule()
    [[key]] = node.messages()
    assert key == AttemptKey(job.pk, 2)
    lifecycle.clear_dead()
    assert not list(server_redis().scan_iter(match=f"n.{old}:*"))


def test_what_a_lost_node_had_streamed_is_kept_and_marked_cut(plane: Plane, user: User) -> None:
    node, job = PlainNode(), submit(user)
    plane.schedule()
    key = AttemptKey(job.pk, 1)
    assert node.claim(key)
    node.start(key)
    node.redis.xadd(node.keys.out(key, "stdout"), {"d": b"half a li"}, id="9-0")
    plane.hear()
    node.enrol(key=node.enrolment.key)
    placement = Placement.objects.get(attempt__job=job, attempt__number=1)
    assert (placement.stdout_size, placement.stdout_complete) == (9, False)


def test_redis_users_come_back_after_a_loss(plane: Plane) -> None:
    node = PlainNode()
    server_redis().execute_command("ACL", "DELUSER", f"node.{node.enrolment.incarnation}")
    plane.reconciler._users_checked = -1000.0
    plane.reconciler.step()
    node.beat()


def test_short_jobs_travel_together_and_wait_ahead(plane: Plane, user: User) -> None:
    node = PlainNode(cpus=2)
    jobs = [submit(user) for _ in range(60)]
    Kind.objects.create(pk=jobs[0].kind, recent_s=[0.1], short=True)
    plane.schedule()
    batches = node.messages()
    assert max(len(batch) for batch in batches) == 10
    assert sum(len(batch) for batch in batches) == 40
    assert free(node).cpus == 0
    for batch in batches:
        for key in batch:
            run(node, plane, key)
    assert free(node).cpus == 2
    assert Job.objects.filter(status=JobStatus.COMPLETED).count() == 40
    plane.schedule()
    assert sum(len(batch) for batch in node.messages()) == 20


def test_batch_given_back_is_queued_again_without_a_fault(plane: Plane, user: User) -> None:
    node, job = PlainNode(), submit(user)
    plane.schedule()
    key = AttemptKey(job.pk, 1)
    assert node.claim(key)
    node.end(key, reason=EndReason.NEVER_STARTED, exit_code=None, detail="given back")
    plane.hear()
    job.refresh_from_db()
    assert (job.queued, job.node_faults, job.retries) == (True, 0, 0)
    assert Attempt.objects.get(job=job).status == AttemptStatus.ENDED
    assert free(node).cpus == 2
    assert recount([node.enrolment.incarnation]) == {node.enrolment.incarnation: NOTHING}


def test_node_user_is_denied_everything_outside_its_keys(plane: Plane) -> None:
    node, other = PlainNode(), PlainNode(name="other")
    forbidden = [
        ("GET", f"{other.keys.prefix}up"),
        ("XADD", other.keys.up, "*", "d", "x"),
        ("LPUSH", f"{other.keys.prefix}jobs", "x"),
        ("SET", "s:epoch", "x"),
        ("XREAD", "STREAMS", "s:wake", "0"),
        ("KEYS", "*"),
        ("SCAN", "0"),
        ("FLUSHALL",),
        ("CONFIG", "GET", "*"),
        ("ACL", "LIST"),
        ("CLIENT", "LIST"),
        ("PUBLISH", "x", "y"),
        ("EVAL", "return redis.call('GET', KEYS[1])", "1", other.keys.up),
        ("EVAL", f"return redis.call('GET', '{other.keys.up}')", "0"),
    ]
    for command in forbidden:
        with pytest.raises(redis.ResponseError):
            node.redis.execute_command(*command)


def test_kind_that_holds_up_a_message_travels_alone_until_it_has_proved_short(
    plane: Plane, user: User
) -> None:
    node, jobs = PlainNode(cpus=1), [submit(user) for _ in range(30)]
    Kind.objects.create(pk=jobs[0].kind, recent_s=[0.1], short=True)
    plane.schedule()
    first, *rest = node.next_message()
    assert node.claim(first)
    node.start(first)
    for key in rest:
        assert node.claim(key)
        node.end(key, reason=EndReason.NEVER_STARTED, exit_code=None, detail="given back")
    plane.hear()
    assert not Kind.objects.get().short
    for _ in range(Kind.RECENT - 1):
        note_short_run(jobs[-1])
    assert Kind.objects.get().short


def note_short_run(job: Job) -> None:
    end = EndReport(job_id=job.pk, attempt=1, reason=Reason.FINISHED, tasks=[{"wall_s": 0.1}])
    note_runs([end])


def test_output_of_an_ended_attempt_leaves_redis_and_stays_readable(
    plane: Plane, user: User
) -> None:
    node, job = PlainNode(), submit(user)
    plane.schedule()
    [[key]] = node.messages()
    assert node.claim(key)
    node.start(key)
    node.redis.xadd(node.keys.out(key, "stdout"), {"d": b"all of it"}, id="9-0")
    plane.hear()
    node.end(key, stdout=b"all of it")
    plane.hear()
    job.refresh_from_db()
    assert b"".join(read_output(job=job, stream="stdout")) == b"all of it"
    assert not server_redis().keys(f"{node.keys.prefix}out:*")


def test_output_of_an_end_behind_a_gap_stays_in_redis(plane: Plane, user: User) -> None:
    node, job = PlainNode(), submit(user)
    plane.schedule()
    [[key]] = node.messages()
    node.redis.xadd(node.keys.out(key, "stdout"), {"d": b"all of it"}, id="9-0")
    node.mute = True
    assert node.claim(key)
    node.start(key)
    node.mute = False
    node.end(key, stdout=b"all of it")
    plane.hear()
    job.refresh_from_db()
    assert job.status == JobStatus.PENDING
    assert server_redis().exists(node.keys.out(key, "stdout"))
