"""The admin: what operators see, what they can do, and that nothing else can be changed there."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from clouds.models import EnrolToken, Incarnation, Node, Site
from clouds.services import drain_nodes, resume_nodes
from clouds.states import IncarnationStatus
from jobs.models import Event, Job, Stream
from jobs.output import store_piece
from jobs.reports import Assignment, ClaimReport, EndReport, LogFacts, PlacementPlan, StartReport
from jobs.services import submit_job
from jobs.spec import parse_job
from jobs.states import JobStatus, Reason
from jobs.transition import apply_reports, open_attempts

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]

JOBS = "/admin/jobs/job/"
NODES = "/admin/clouds/node/"
OUTPUT = b"<b>result</b> caf\xc3\xa9 \xff\n"
PAGES = [
    "/admin/",
    JOBS,
    f"{JOBS}?status=running",
    f"{JOBS}?outcome=badly&reason=exitCode&fault=user&site=test&node=n0&q=x",
    f"{JOBS}?image=busybox&label=campaign%3Dm1",
    f"{JOBS}?created_at_from_0=2026-01-01&created_at_from_1=00:00:00",
    "/admin/jobs/attempt/",
    "/admin/jobs/attempt/?fault=node&q=1",
    "/admin/jobs/placement/",
    "/admin/jobs/placement/?site=test&live__exact=1",
    "/admin/jobs/outbox/",
    NODES,
    f"{NODES}?status=ready&site=test&q=n",
    "/admin/workflows/workflow/",
    "/admin/workflows/workflow/?q=1",
    f"{JOBS}?workflow=1&stage=2",
    "/admin/clouds/site/",
    "/admin/clouds/enroltoken/",
    "/admin/clouds/enroltoken/?refused=yes",
    "/admin/auth/user/",
    "/admin/auth/user/add/",
    "/admin/auth/group/",
    "/admin/password_change/",
]


@pytest.fixture(autouse=True)
def _static_root() -> None:
    """WhiteNoise warns when its directory is not there; the API server makes it."""
    Path(settings.STATIC_ROOT).mkdir(parents=True, exist_ok=True)


@pytest.fixture
def alice() -> User:
    return User.objects.create(username="alice")


@pytest.fixture
def node() -> Node:
    return make_node("n0")


def make_node(name: str, status: IncarnationStatus = IncarnationStatus.READY) -> Node:
    site, _ = Site.objects.get_or_create(name="test")
    node = Node.objects.create(name=name, site=site, key_hash=f"key-hash-{name}")
    amount = {"cpus": 8, "memory_mb": 8192, "disk_mb": 81920}
    Incarnation.objects.create(
        node=node,
        status=status,
        boot="boot",
        hostname="machine",
        token_hash=f"token-hash-{name}",
        redis_password_hash="password-hash",
        lease_s=600.0,
        runtimes={"singularity": "1.3"},
        **amount,
        **{f"{key}_free": value for key, value in amount.items()},
    )
    return node


def make_job(owner: User, **extra: object) -> Job:
    env = {"THREADS": "4", "DB_PASSWORD": "hunter2"}
    task = {"image": "busybox", "cmd": "echo hello", "runtime": "singularity", "env": env}
    document = {"name": "example", "tasks": [task], "labels": {"campaign": "m1"}, **extra}
    return submit_job(owner=owner, document=parse_job(document))


def run(job: Job, node: Node, reason: Reason | None = None) -> Job:
    """Let the job's next attempt run on the node; with a reason, to its end."""
    incarnation = Incarnation.objects.get(node=node)
    plan = PlacementPlan(
        incarnation=incarnation.pk, node_name=node.name, site="test", cpus=1, memory_mb=1, disk_mb=1
    )
    with transaction.atomic():
        (opened,) = open_attempts([Assignment(job_id=job.pk, plan=plan)], offer_due_in_s=5)
    key = {"job_id": job.pk, "attempt": opened.attempt}
    reports: list[object] = [ClaimReport(**key), StartReport(**key)]
    if reason:
        store_piece(**key, rank=0, stream=Stream.STDOUT, start=0, data=OUTPUT)
        tasks = [{"exit_code": 3, "wall_s": 61.0, "cpu_s": 1.5, "max_rss_kb": 2048}]
        facts = LogFacts(size=len(OUTPUT), complete=True)
        reports.append(EndReport(**key, reason=reason, tasks=tasks, stdout=facts))
    with transaction.atomic():
        apply_reports(reports, actor=node.name)  # type: ignore[arg-type]
    job.refresh_from_db()
    return job


def text(client: Client, address: str) -> str:
    answer = client.get(address)
    assert answer.status_code == 200, address
    return answer.content.decode()


def act(client: Client, address: str, action: str, ids: Iterable[int], **more: str) -> str:
    data = {"action": action, "_selected_action": list(ids), "index": 0, **more}
    answer = client.post(address, data, follow=True)
    assert answer.status_code == 200
    return answer.content.decode()


@pytest.mark.parametrize("address", PAGES)
def test_every_page_answers(address: str, admin_client: Client, alice: User, node: Node) -> None:
    run(make_job(alice), node, Reason.EXIT_CODE)
    run(make_job(alice), node)
    make_job(alice)

    assert text(admin_client, address)


def test_the_front_page_of_an_empty_system_answers(admin_client: Client) -> None:
    page = text(admin_client, "/admin/")

    assert "Not working: scheduler" in page
    assert "ingest" in page


def test_the_front_page_counts_jobs_and_nodes(
    admin_client: Client, alice: User, node: Node
) -> None:
    run(make_job(alice), node, Reason.WALLTIME)
    waiting = make_job(alice)

    page = text(admin_client, "/admin/")

    assert f"job {waiting.pk}</a>" in page
    assert "Walltime limit exceeded" in page
    assert ">ready</span>" in page


@pytest.mark.parametrize("address", ["/admin/", JOBS, NODES, "/admin/jobs/attempt/"])
def test_more_rows_take_no_more_queries(
    address: str, admin_client: Client, alice: User, node: Node
) -> None:
    def queries() -> int:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            text(admin_client, address)
        return len(captured)

    run(make_job(alice), node, Reason.NOT_STARTED)
    run(make_job(alice), node)
    make_job(alice)
    queries()  # fills the cache of content types
    few = queries()
    for number in range(1, 6):
        other = make_node(f"n{number}")
        run(make_job(User.objects.create(username=f"user{number}")), other, Reason.NOT_STARTED)
        run(make_job(alice), other)
        make_job(alice)

    assert queries() == few


def test_a_jobs_page_tells_its_story(admin_client: Client, alice: User, node: Node) -> None:
    job = run(make_job(alice), node, Reason.EXIT_CODE)

    page = text(admin_client, f"{JOBS}{job.pk}/change/")

    assert "Executable exited with a non-zero exit code" in page
    assert 'title="ended badly">badly</span>' in page
    assert "n0, test" in page
    assert "1 min 1 s" in page
    assert "2.0 MB" in page
    assert '"THREADS": "4"' in page.replace("&quot;", '"')


def test_output_is_escaped_and_lossy(admin_client: Client, alice: User, node: Node) -> None:
    job = run(make_job(alice), node, Reason.FINISHED)

    page = text(admin_client, f"{JOBS}{job.pk}/change/")
    whole = admin_client.get(f"{JOBS}{job.pk}/stdout/")

    assert "&lt;b&gt;result&lt;/b&gt; café �" in page
    assert whole["Content-Type"] == "text/plain; charset=utf-8"
    assert whole["X-Content-Type-Options"] == "nosniff"
    assert b"".join(whole.streaming_content).decode() == "<b>result</b> café �\n"  # type: ignore[attr-defined]


def test_only_the_end_of_a_long_log_is_on_the_page(
    admin_client: Client, alice: User, node: Node
) -> None:
    job = run(make_job(alice), node, Reason.FINISHED)
    data = b"first " + b"x" * (70 << 10) + b" last"
    store_piece(
        job_id=job.pk, attempt=1, rank=0, stream=Stream.STDOUT, start=len(OUTPUT), data=data
    )

    page = text(admin_client, f"{JOBS}{job.pk}/change/")

    assert "x last</pre>" in page
    assert "first" not in page
    assert "last 64.0 KB of 70.0 KB" in page


def test_secrets_and_hashes_are_on_no_page(admin_client: Client, alice: User, node: Node) -> None:
    content = "c2VjcmV0IGNvbnRlbnQ="
    job = run(make_job(alice, inputs=[{"filename": "a", "content": content}]), node)
    EnrolToken.objects.create(token_hash="enrol-hash", node=node, expires_at=timezone.now())
    pages = [
        f"{JOBS}{job.pk}/change/", f"{NODES}{node.pk}/change/", NODES, "/admin/clouds/enroltoken/",
        f"/admin/clouds/enroltoken/{EnrolToken.objects.get().pk}/change/",
    ]  # fmt: skip

    shown = "".join(text(admin_client, page) for page in pages)

    for secret in ("hunter2", content, "secret content", "-hash"):
        assert secret not in shown


@pytest.mark.parametrize("search", ["{id}", "campaign=m2", "Special", "alpine:3", "bob"])
def test_search_finds_a_job(search: str, admin_client: Client, alice: User) -> None:
    make_job(alice)
    wanted = make_job(
        User.objects.create(username="bob"),
        name="special",
        labels={"campaign": "m2"},
        tasks=[{"image": "alpine:3.19", "runtime": "singularity"}],
    )

    answer = admin_client.get(JOBS, {"q": search.format(id=wanted.pk)})

    assert [job.pk for job in answer.context["cl"].result_list] == [wanted.pk]


@pytest.mark.parametrize(
    "query", ["fault=resources", "reason=walltime", "status=killed", "site=test", "node=n0"]
)
def test_filters_narrow_the_list(query: str, admin_client: Client, alice: User, node: Node) -> None:
    make_job(alice)
    wanted = run(make_job(alice), node, Reason.WALLTIME)

    answer = admin_client.get(f"{JOBS}?{query}")

    assert [job.pk for job in answer.context["cl"].result_list] == [wanted.pk]


def test_deleting_asks_first(admin_client: Client, alice: User) -> None:
    job = make_job(alice)

    page = act(admin_client, JOBS, "delete_selected_jobs", [job.pk])

    assert "Delete these jobs?" in page
    assert Job.objects.get().status == JobStatus.PENDING


def test_deleting_goes_through_transition(admin_client: Client, alice: User, node: Node) -> None:
    ended, running = run(make_job(alice), node, Reason.FINISHED), run(make_job(alice), node)
    pending = make_job(alice)
    ids = [ended.pk, running.pk, pending.pk]

    page = act(admin_client, JOBS, "delete_selected_jobs", ids, confirmed="yes")

    assert "by their nodes: 2" in page
    assert Event.objects.get(job=pending, after=JobStatus.DELETED).actor == "admin"
    for job in (ended, running):
        job.refresh_from_db()
    assert (ended.status, ended.delete_requested_at) == (JobStatus.COMPLETED, None)
    assert running.status == JobStatus.RUNNING
    assert running.delete_requested_at is not None
    assert "asked for its deletion" in text(admin_client, f"{JOBS}{running.pk}/change/")


def test_nobody_edits_rows(admin_client: Client, alice: User) -> None:
    job = make_job(alice)

    admin_client.post(f"{JOBS}{job.pk}/change/", {"status": JobStatus.COMPLETED, "name": "other"})

    assert admin_client.get(f"{JOBS}add/").status_code == 403
    assert admin_client.post(f"{JOBS}{job.pk}/delete/", {"post": "yes"}).status_code == 403
    act(admin_client, JOBS, "delete_selected", [job.pk], post="yes")
    job.refresh_from_db()
    assert (job.status, job.name) == (JobStatus.PENDING, "example")


def test_staff_sees_and_does_only_what_it_may(client: Client, alice: User, node: Node) -> None:
    job = make_job(alice)
    staff = User.objects.create(username="staff", is_staff=True)
    staff.user_permissions.add(Permission.objects.get(codename="view_job"))
    client.force_login(staff)

    act(client, JOBS, "delete_selected_jobs", [job.pk], confirmed="yes")

    assert Job.objects.get().status == JobStatus.PENDING
    assert client.get(NODES).status_code == 403
    assert client.get(f"{NODES}{node.pk}/change/").status_code == 403
    assert 'id="nodes"' not in text(client, "/admin/")


@pytest.mark.parametrize("address", ["/admin/", JOBS, f"{JOBS}1/stdout/"])
def test_others_are_sent_to_the_login(address: str, client: Client, alice: User) -> None:
    client.force_login(alice)

    answer = client.get(address)

    assert answer.status_code == 302
    assert answer["Location"].startswith("/admin/login/")


def test_draining_is_guarded_and_undone(admin_client: Client, node: Node) -> None:
    fenced = make_node("n1", IncarnationStatus.FENCED)
    ids = [node.pk, fenced.pk]

    assert "1 nodes drain now." in act(admin_client, NODES, "drain", ids)
    assert "drained" in text(admin_client, f"{NODES}{node.pk}/change/")
    assert drain_nodes(ids) == 0
    assert resume_nodes(ids) == 1

    statuses = dict(Incarnation.objects.values_list("node__name", "status"))
    assert statuses == {"n0": IncarnationStatus.READY, "n1": IncarnationStatus.FENCED}


def test_revoking_asks_first_and_is_undone(admin_client: Client, node: Node) -> None:
    assert "Refuse a new enrolment" in act(admin_client, NODES, "revoke", [node.pk])
    assert Node.objects.get().revoked_at is None

    assert "revoked</span>" in act(admin_client, NODES, "revoke", [node.pk], confirmed="yes")
    assert "may enrol again" in act(admin_client, NODES, "restore", [node.pk])
    assert Node.objects.get().revoked_at is None


def test_a_node_shows_its_lives_and_live_attempts(
    admin_client: Client, alice: User, node: Node
) -> None:
    job = run(make_job(alice), node)

    page = text(admin_client, f"{NODES}{node.pk}/change/")

    assert f'href="{JOBS}{job.pk}/change/"' in page
    assert 'id="incarnations"' in page


def test_refused_uses_of_a_token_stand_out(admin_client: Client, node: Node) -> None:
    EnrolToken.objects.create(
        token_hash="x", node=node, expires_at=timezone.now(), used_at=timezone.now(), refused_uses=2
    )

    assert 'p-red" title="">2</span>' in text(admin_client, "/admin/clouds/enroltoken/")


def test_a_sites_region_can_be_set_and_nothing_else(admin_client: Client, node: Node) -> None:
    admin_client.post(
        f"/admin/clouds/site/{node.site_id}/change/", {"region": "europe", "name": "other"}
    )

    assert Site.objects.values_list("name", "region").get() == ("test", "europe")


def test_the_admin_command_lets_somebody_in(
    client: Client, alice: User, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        call_command("admin", "alice")
        password = capsys.readouterr().out.strip().splitlines()[-1]

    assert client.login(username="alice", password=password)
    assert client.get(JOBS).status_code == 200


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("created_at_from_0=2020-01-01", 1),
        ("created_at_to_0=2020-01-01&created_at_to_1=10:00:00", 0),
        ("created_at_from_0=yesterday", 1),
    ],
)
def test_jobs_are_found_by_their_date(
    query: str, found: int, admin_client: Client, alice: User
) -> None:
    make_job(alice)

    assert len(admin_client.get(f"{JOBS}?{query}").context["cl"].result_list) == found


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("image=busybox", True),
        ("image=busy", False),
        ("label=campaign%3Dm1", True),
        ("label=campaign%3Dm2", False),
        ("label=campaign", False),
        ("image=busybox&label=campaign%3Dm1&reason=nodeLost&fault=node&site=test", True),
        ("reason=exitCode", False),
    ],
)
def test_jobs_are_found_by_reason_fault_site_image_and_label(
    admin_client: Client, alice: User, node: Node, query: str, found: bool
) -> None:
    job = run(make_job(alice, name="looked-for"), node, Reason.NODE_LOST)

    assert (f"/admin/jobs/job/{job.pk}/change/" in text(admin_client, f"{JOBS}?{query}")) is found


def test_page_of_a_job_shows_its_attempts_as_bars(
    admin_client: Client, alice: User, node: Node
) -> None:
    job = make_job(alice, policies={"maximumRetries": 1})
    run(job, node, Reason.NODE_LOST)
    run(job, node, Reason.EXIT_CODE)
    run(job, node)

    page = text(admin_client, f"{JOBS}{job.pk}/change/")

    colours = [part.split('"')[0] for part in page.split("p-lane-runs p-lane-")[1:]]
    assert colours == ["orange", "red", "blue"]
