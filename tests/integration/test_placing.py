"""Where jobs go, what becomes of those that find no room, and what `why` says of them (S99-S106)."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db.models.functions import Now

from clouds import impossible
from clouds.explain import explain
from clouds.models import Incarnation, Node, Site
from clouds.states import IncarnationStatus
from jobs.models import Event, Job
from jobs.services import submit_job
from jobs.spec import parse_job
from jobs.states import JobStatus, Outcome, Reason
from tests.integration.plain_node import PlainNode
from tests.integration.test_control_plane import Plane, path_of, run

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_server")]


@pytest.fixture
def plane() -> Plane:
    return Plane()


@pytest.fixture
def user() -> User:
    return User.objects.create(username="ada")


def submit(user: User, policies: dict[str, Any] | None = None, **more: Any) -> Job:
    resources = {"cpus": 1, "memory": 1, "disk": 1} | more.pop("resources", {})
    task = {"image": "busybox", "cmd": "true"} | more
    document = {"resources": resources, "tasks": [task], "policies": policies or {}}
    return submit_job(owner=user, document=parse_job(document))


def requires(**places: list[str]) -> dict[str, Any]:
    return {"placement": {"requirements": places}}


def prefers(**places: list[str]) -> dict[str, Any]:
    return {"placement": {"preferences": places}}


def set_region(site: str, region: str) -> None:
    Site.objects.filter(name=site).update(region=region)


@pytest.fixture
def two_sites() -> tuple[PlainNode, PlainNode]:
    """One node at each of two sites; the first has less room, so that it would be taken first."""
    nodes = (
        PlainNode(name="a", site="Alpha", cpus=2),
        PlainNode(name="b", site="Beta", cpus=4, boot="boot-2"),
    )
    set_region("Alpha", "North")
    set_region("Beta", "South")
    return nodes


@pytest.mark.contract("S103", "S105")
@pytest.mark.parametrize("places", [{"sites": ["Beta"]}, {"regions": ["South"]}])
def test_requirements_are_met(
    plane: Plane, user: User, two_sites: tuple[PlainNode, PlainNode], places: dict[str, list[str]]
) -> None:
    for _ in range(4):
        submit(user, requires(**places))
    waiting = submit(user, requires(**places))

    plane.schedule()

    assert (len(two_sites[0].messages()), len(two_sites[1].messages())) == (0, 4)
    waiting.refresh_from_db()
    assert (waiting.status, waiting.queued) == (JobStatus.PENDING, True)


@pytest.mark.contract("S103", "S106")
@pytest.mark.parametrize(
    ("places", "first"),
    [
        ({"sites": ["Beta", "Alpha"]}, 1),
        ({"sites": ["Alpha", "Beta"]}, 0),
        ({"regions": ["South"]}, 1),
        ({"sites": ["Nowhere"], "regions": ["South", "North"]}, 1),
    ],
)
def test_preferences_rank_in_their_order_and_do_not_bind(
    plane: Plane,
    user: User,
    two_sites: tuple[PlainNode, PlainNode],
    places: dict[str, list[str]],
    first: int,
) -> None:
    for _ in range(6):
        submit(user, prefers(**places))

    plane.schedule()

    room = (2, 4)
    assert [len(node.messages()) for node in two_sites] == list(room)
    sites = [
        placement.site
        for placement in Job.objects.earliest("pk").attempts.get().placements.order_by("rank")
    ]
    assert sites == [("Alpha", "Beta")[first]]


IMPOSSIBLE = [
    {"resources": {"cpus": 3}},
    {"resources": {"memory": 100_000 / 1024 + 1}},
    {"resources": {"disk": 900_000}},
    {"runtime": "udocker"},
]


@pytest.mark.contract("S99", "S151")
@pytest.mark.parametrize("asked", IMPOSSIBLE)
def test_job_that_no_node_could_run_fails_at_once(
    plane: Plane, user: User, asked: dict[str, Any]
) -> None:
    node = PlainNode(cpus=2)
    Incarnation.objects.update(runtimes={"singularity": "1"}, memory_mb=4096, disk_mb=100_000)
    job = submit(user, **asked)

    plane.schedule()

    job.refresh_from_db()
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.NO_RESOURCES)
    assert (job.outcome, job.queued, job.started_at) == (Outcome.BADLY, False, None)
    assert path_of(job) == [JobStatus.PENDING, JobStatus.FAILED]
    assert job.detail
    assert not node.messages()


def test_job_for_an_unknown_site_fails_at_once_s99(plane: Plane, user: User) -> None:
    PlainNode()
    job = submit(user, requires(sites=["Nowhere"]))

    plane.schedule()

    job.refresh_from_db()
    assert (job.status, job.detail) == (
        JobStatus.FAILED,
        "no node is at a site or region that the job requires",
    )


@pytest.mark.contract("S100", "S101")
@pytest.mark.parametrize("minutes", [-1, 5])
def test_patient_job_waits_for_a_node_that_can_run_it(
    plane: Plane, user: User, minutes: int
) -> None:
    PlainNode(cpus=2)
    job = submit(user, {"maximumTimeInQueue": minutes}, resources={"cpus": 3})
    plane.schedule()
    plane.reconciler.step()
    job.refresh_from_db()
    assert job.status == JobStatus.PENDING

    larger = PlainNode(name="larger", cpus=4, boot="boot-2")
    plane.schedule()

    [[key]] = larger.messages()
    run(larger, plane, key)
    job.refresh_from_db()
    assert (job.status, job.queue_deadline) == (JobStatus.COMPLETED, None)


@pytest.mark.parametrize("is_possible", [True, False])
def test_job_that_waited_too_long_fails_s101(plane: Plane, user: User, is_possible: bool) -> None:
    PlainNode(cpus=2)
    cpus = 2 if is_possible else 3
    first = submit(user, resources={"cpus": 2})
    plane.schedule()
    job = submit(user, {"maximumTimeInQueue": 5}, resources={"cpus": cpus})
    plane.schedule()
    plane.reconciler.step()
    assert not Event.objects.filter(job=job, after=JobStatus.FAILED).exists()

    Job.objects.filter(pk=job.pk).update(queue_deadline=Now() - timedelta(seconds=1))
    plane.reconciler.step()
    plane.reconciler.step()

    job.refresh_from_db()
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.QUEUE_TIME)
    assert path_of(job) == [JobStatus.PENDING, JobStatus.FAILED]
    first.refresh_from_db()
    assert first.status == JobStatus.PENDING


def test_nothing_is_judged_before_a_node_is_known_s99(plane: Plane, user: User) -> None:
    job = submit(user, resources={"cpus": 1000})

    plane.schedule()

    job.refresh_from_db()
    assert job.status == JobStatus.PENDING


@pytest.mark.parametrize("status", [IncarnationStatus.READY, IncarnationStatus.FENCED])
def test_busy_or_silent_nodes_are_waited_for_s99(
    plane: Plane, user: User, status: IncarnationStatus
) -> None:
    PlainNode(cpus=2)
    Incarnation.objects.update(status=status, heard_at=Now() - timedelta(hours=1))
    job = submit(user, resources={"cpus": 2})

    plane.schedule()

    job.refresh_from_db()
    assert job.status == JobStatus.PENDING


def test_hopeless_jobs_fail_in_batches_without_holding_up_others(
    plane: Plane, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(impossible, "BATCH", 3)
    node = PlainNode(cpus=2)
    for _ in range(7):
        submit(user, resources={"cpus": 3})
    good = submit(user)

    plane.schedule()

    assert [key.job for [key] in node.messages()] == [good.pk]
    assert Job.objects.filter(status=JobStatus.FAILED).count() == 3
    for _ in range(2):
        plane.schedule()
    assert Job.objects.filter(status=JobStatus.FAILED).count() == 7
    assert Job.objects.filter(queued=True).count() == 0


def test_revoked_node_is_not_counted_on(plane: Plane, user: User) -> None:
    PlainNode(cpus=2)
    PlainNode(name="large", cpus=8, boot="boot-2")
    Node.objects.filter(name="large").update(revoked_at=Now())
    Incarnation.objects.filter(node__name="large").update(status=IncarnationStatus.DEAD)
    job = submit(user, resources={"cpus": 8})

    plane.schedule()

    job.refresh_from_db()
    assert job.status == JobStatus.FAILED


def why(job: Job) -> dict[str, Any]:
    job.refresh_from_db()
    return explain(job)


# what is asked, the code, the reasons of the one node of 2 CPUs, 4 GB and 100 GB, and what would help
WAYS: list[tuple[dict[str, Any], str, list[dict[str, Any]], list[dict[str, Any]]]] = [
    ({}, "turn", [], []),
    (
        {"resources": {"cpus": 3}},
        "noResources",
        [{"code": "cpus", "asked": 3, "has": 2}],
        [{"change": "cpus", "from": 3, "to": 2, "nodes": 1}],
    ),
    (
        {"resources": {"memory": 64}},
        "noResources",
        [{"code": "memory", "asked": 64, "has": 4}],
        [{"change": "memory", "from": 64, "to": 4, "nodes": 1}],
    ),
    (
        {"resources": {"disk": 101}},
        "noResources",
        [{"code": "disk", "asked": 101, "has": 97.656}],
        [{"change": "disk", "from": 101, "to": 97, "nodes": 1}],
    ),
    (
        {"resources": {"cpus": 4, "memory": 8}},
        "noResources",
        [{"code": "cpus", "asked": 4, "has": 2}, {"code": "memory", "asked": 8, "has": 4}],
        [{"change": "resources", "to": {"cpus": 2, "memory": 4}, "nodes": 1}],
    ),
    (
        {"runtime": "udocker"},
        "noResources",
        [{"code": "runtime", "asked": "udocker", "has": ["singularity"]}],
        [{"change": "runtime", "from": "udocker", "to": "singularity", "nodes": 1}],
    ),
    (
        {"image": "https://example.org/image.tar"},
        "noResources",
        [{"code": "runtime", "asked": "udocker", "has": ["singularity"]}],
        [],
    ),
    (
        requires(sites=["Beta"]),
        "noResources",
        [{"code": "site", "required": ["Beta"]}],
        [{"change": "placement", "sites": ["here"], "nodes": 1}],
    ),
    (
        requires(regions=["South"]) | {"resources": {"cpus": 5}},
        "noResources",
        [{"code": "region", "required": ["South"]}, {"code": "cpus", "asked": 5, "has": 2}],
        [],
    ),
]


@pytest.mark.parametrize(("asked", "code", "reasons", "helps"), WAYS)
def test_why_names_what_is_missing_and_what_would_help(
    user: User,
    asked: dict[str, Any],
    code: str,
    reasons: list[dict[str, Any]],
    helps: list[dict[str, Any]],
) -> None:
    PlainNode(cpus=2)
    small = {"memory_mb": 4096, "disk_mb": 100_000}
    Incarnation.objects.update(
        runtimes={"singularity": "1"}, memory_mb_free=4096, disk_mb_free=100_000, **small
    )
    policies = {key: asked[key] for key in asked if key == "placement"}
    more = {key: asked[key] for key in asked if key != "placement"}

    answer = why(submit(user, policies | {"maximumTimeInQueue": -1}, **more))

    assert answer["code"] == code
    assert answer["nodes"] == [{"site": "here", "node": "plain", "reasons": reasons}]
    assert answer["changes"] == helps
    (site,) = answer["sites"]
    assert (site["nodes"], site["fits"]) == (1, int(code == "turn"))
    assert set(site["reasons"]) == {reason["code"] for reason in reasons}


def test_why_tells_busy_nodes_and_the_queue_ahead(plane: Plane, user: User) -> None:
    PlainNode(cpus=2)
    submit(user)
    plane.schedule()
    submit(user, resources={"cpus": 2})
    job = submit(user, {"maximumTimeInQueue": 0}, resources={"cpus": 2})

    answer = why(job)

    assert (answer["code"], answer["ahead"]) == ("busy", 1)
    assert answer["nodes"][0]["reasons"] == [{"code": "busy", "cpus": {"asked": 2, "free": 1}}]
    assert answer["changes"] == [{"change": "cpus", "from": 2, "to": 1, "nodes": 1}]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"status": IncarnationStatus.DRAINING}, "draining"),
        ({"status": IncarnationStatus.FENCED}, "gone"),
        ({"heard_at": Now() - timedelta(hours=1)}, "silent"),
        ({"shunned_until": Now() + timedelta(hours=1)}, "shunned"),
    ],
)
def test_why_tells_nodes_that_take_nothing_now(
    user: User, change: dict[str, Any], code: str
) -> None:
    PlainNode(cpus=2)
    Incarnation.objects.update(**change)

    answer = why(submit(user))

    assert (answer["code"], answer["changes"]) == ("busy", [])
    assert answer["nodes"][0]["reasons"] == [{"code": code}]


def test_each_change_applied_makes_the_job_start(plane: Plane, user: User) -> None:
    """Of several nodes of different sizes, partly taken."""
    nodes = [
        PlainNode(name=f"n{cpus}", cpus=cpus, boot=f"boot-{cpus}", site=f"s{cpus}")
        for cpus in (1, 2, 4)
    ]
    submit(user, requires(sites=["s4"]))
    plane.schedule()
    asked = {"cpus": 4, "memory": 1, "disk": 1}
    changes = why(submit(user, requires(sites=["s4", "s2"]), resources=asked))["changes"]
    assert [(change["change"], change["nodes"]) for change in changes] == [("cpus", 1)]

    submit(user, requires(sites=["s4", "s2"]), resources=asked | {"cpus": changes[0]["to"]})
    plane.schedule()

    assert sum(len(node.messages()) for node in nodes) == 2


def test_why_of_a_job_that_does_not_wait(plane: Plane, user: User) -> None:
    node, job = PlainNode(cpus=2), submit(user)
    assert Node.objects.count() == 1
    plane.schedule()
    assert (why(job)["code"], why(job)["node"]) == ("starting", "plain")

    [[key]] = node.messages()
    run(node, plane, key)

    assert why(job) == {
        "id": job.pk,
        "status": "completed",
        "code": "notPending",
        "message": "the job is completed",
    }


def test_why_before_any_node_is_known(user: User) -> None:
    answer = why(submit(user))

    assert (answer["code"], answer["sites"], answer["changes"]) == ("noNodes", [], [])


def test_why_costs_a_constant_number_of_queries(
    user: User, django_assert_max_num_queries: Any
) -> None:
    for number in range(20):
        PlainNode(name=f"n{number}", boot=f"boot-{number}")
    job = submit(user, resources={"cpus": 9})

    with django_assert_max_num_queries(4):
        explain(job)
