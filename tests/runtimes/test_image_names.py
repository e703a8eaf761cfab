"""What a name stands for, asked once for all jobs that were there before; and registries in bad moods."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtimes.machine import IMAGES, Machine, exit_code, in_child, kill
from tests.runtimes.stand_in import Mood, StandIn
from tests.wait import wait_until
from worker.image_maker import Extra, ImageConfig, build_busybox_image
from worker.images import CachePolicy
from worker.runtimes.base import Credential, ImageRequest
from worker.runtimes.errors import (
    ImageDenied,
    ImageNotFound,
    ImageRateLimited,
    ImageUnusable,
    RegistryAway,
)
from worker.runtimes.select import SINGULARITY, UDOCKER

BOTH = pytest.mark.parametrize("runtime", [SINGULARITY, UDOCKER])
OLD = IMAGES["test/plain:latest"]
NEW = build_busybox_image(ImageConfig(), [Extra(path="etc/new", data=b"new")])
JOBS = 20
ALICE = Credential(username="alice", token="token of alice")


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    with StandIn() as running:
        running.push(OLD, "a/b:1")
        yield running


@pytest.fixture
def name(stand_in: StandIn) -> str:
    """A name for each test's cache."""
    return f"names-{stand_in.host.rpartition(':')[2]}"


def request(stand_in: StandIn, credential: Credential | None = None) -> ImageRequest:
    return ImageRequest(image=f"{stand_in.host}/a/b:1", credential=credential)


def test_twenty_jobs_at_once_download_once(machine: Machine, stand_in: StandIn, name: str) -> None:
    stand_in.gate.clear()
    asked_at = time.time()

    def ask(number: int) -> None:
        lease = machine.cache(name).acquire(SINGULARITY, request(stand_in), asked_at)
        (machine.room / f"{name}-{number}").write_text(f"{lease.image.cached} {lease.image.digest}")

    children = [in_child(lambda number=number: ask(number)) for number in range(JOBS)]
    wait_until(lambda: any("manifests/sha256" in path for path in stand_in.asked))
    stand_in.gate.set()
    assert [exit_code(child) for child in children] == [0] * JOBS
    answers = [(machine.room / f"{name}-{number}").read_text() for number in range(JOBS)]
    assert sum(answer.startswith("False") for answer in answers) == 1
    assert len({answer.split()[1] for answer in answers}) == 1
    assert stand_in.pulls() == 1
    # All were there before the first answer, which therefore serves them all.
    assert stand_in.asked["HEAD /v2/a/b/manifests/1"] == 1


def test_tag_moved_between_two_jobs_gives_each_its_own(
    machine: Machine, stand_in: StandIn, name: str
) -> None:
    cache = machine.cache(name)
    first_asked = time.time()
    first = cache.acquire(SINGULARITY, request(stand_in), first_asked).image
    digest = stand_in.push(NEW, "a/b:1")
    again = cache.acquire(SINGULARITY, request(stand_in), first_asked).image
    second = cache.acquire(SINGULARITY, request(stand_in)).image
    assert (again.digest, again.cached) == (first.digest, True)
    assert (second.digest, second.cached) == (digest, False)
    assert (second.path / "root/etc/new").exists()
    assert first.path.exists()


def test_digest_that_a_job_holds_on_to_is_pulled_though_its_tag_moved(
    machine: Machine, stand_in: StandIn, name: str
) -> None:
    old = machine.cache(name).acquire(SINGULARITY, request(stand_in)).image.digest
    stand_in.push(NEW, "a/b:1")
    pinned = ImageRequest(image=f"{stand_in.host}/a/b:1", digest=old)
    with machine.cache(f"{name}-other").acquire(SINGULARITY, pinned) as lease:
        assert lease.image.digest == old


def test_two_names_of_one_image_share_it(machine: Machine, stand_in: StandIn, name: str) -> None:
    stand_in.push(OLD, "a/b:2")
    first = machine.cache(name).acquire(SINGULARITY, request(stand_in)).image
    other = ImageRequest(image=f"{stand_in.host}/a/b:2")
    second = machine.cache(name).acquire(SINGULARITY, other).image
    assert (second.cached, second.path) == (True, first.path)


def test_cached_image_serves_while_the_registry_is_away(machine: Machine, name: str) -> None:
    with StandIn() as passing:
        passing.push(OLD, "a/b:1")
        asked = request(passing)
        first = machine.cache(name).acquire(SINGULARITY, asked).image
    second = machine.cache(name).acquire(SINGULARITY, asked).image
    assert (second.cached, second.digest) == (True, first.digest)


@BOTH
def test_bearer_token_is_asked_for_with_the_credential(
    machine: Machine, stand_in: StandIn, name: str, runtime: str
) -> None:
    stand_in.credential = ALICE
    cache = machine.cache(name)
    assert not cache.acquire(runtime, request(stand_in, ALICE)).image.cached
    for credential in (Credential(username="alice", token="wrong one"), None):
        with pytest.raises(ImageDenied) as failure:
            cache.acquire(runtime, request(stand_in, credential))
        assert "wrong one" not in str(failure.value)
    assert cache.acquire(runtime, request(stand_in, ALICE)).image.cached


def test_credential_taken_back_is_noticed_by_the_next_job(
    machine: Machine, stand_in: StandIn, name: str
) -> None:
    stand_in.credential = ALICE
    machine.cache(name).acquire(SINGULARITY, request(stand_in, ALICE)).release()
    stand_in.credential = Credential(username="alice", token="another")
    stand_in.moods.append(Mood(401))
    with pytest.raises(ImageDenied):
        machine.cache(name).acquire(SINGULARITY, request(stand_in, ALICE))


def test_retry_after_is_respected(machine: Machine, stand_in: StandIn, name: str) -> None:
    stand_in.moods += [Mood(429, {"Retry-After": "1"}), Mood(429, {"Retry-After": "1"})]
    begin = time.monotonic()
    machine.cache(name).acquire(SINGULARITY, request(stand_in)).release()
    assert time.monotonic() - begin >= 2


@pytest.mark.parametrize("wait", ["100000", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_too_long_a_wait_is_told(machine: Machine, stand_in: StandIn, name: str, wait: str) -> None:
    stand_in.moods.append(Mood(429, {"Retry-After": wait}))
    with pytest.raises(ImageRateLimited, match="too many requests"):
        machine.cache(name).acquire(SINGULARITY, request(stand_in))


@pytest.mark.parametrize(
    ("moods", "error", "text"),
    [
        ([Mood(403)], ImageDenied, "access refused"),
        ([Mood(404)], ImageNotFound, "not found"),
        ([Mood(500)] * 3, RegistryAway, "HTTP 500"),
        ([Mood(200)] * 3, ImageUnusable, "not an image"),
    ],
)
def test_failure_says_whose_fault_it_is(
    machine: Machine,
    stand_in: StandIn,
    name: str,
    moods: list[Mood],
    error: type[Exception],
    text: str,
) -> None:
    stand_in.moods += moods
    with pytest.raises(error, match=text):
        machine.cache(name).acquire(SINGULARITY, request(stand_in))


def test_pulls_wait_for_their_turn(machine: Machine, stand_in: StandIn, name: str) -> None:
    stand_in.push(NEW, "a/b:2")
    stand_in.gate.clear()
    cache = machine.cache(name, CachePolicy(pulls=1))
    images = [ImageRequest(image=f"{stand_in.host}/a/b:{tag}") for tag in (1, 2)]
    children = [
        in_child(lambda image=image: cache.acquire(SINGULARITY, image).release())
        for image in images
    ]
    wait_until(lambda: stand_in.asked["HEAD /v2/a/b/manifests/2"] == 1)
    wait_until(lambda: sum("manifests/sha256" in path for path in stand_in.asked) == 1)
    work = machine.room / name / "work"
    assert len(list(work.iterdir())) == 1
    stand_in.gate.set()
    assert [exit_code(child) for child in children] == [0, 0]


def test_puller_killed_in_a_download_leaves_the_next_one_clean(
    machine: Machine, stand_in: StandIn, name: str
) -> None:
    stand_in.gate.clear()
    cache = machine.cache(name)
    child = in_child(lambda: cache.acquire(SINGULARITY, request(stand_in)).release())
    wait_until(lambda: any("manifests/sha256" in path for path in stand_in.asked))
    kill(child)
    stand_in.gate.set()
    assert not cache.acquire(SINGULARITY, request(stand_in)).image.cached
    assert not list((machine.room / name / "work").iterdir())
    assert len(list((machine.room / name / "entries").iterdir())) == 1


def test_found_without_asking_only_for_jobs_that_were_there_before(
    machine: Machine, stand_in: StandIn, name: str
) -> None:
    cache, asked_at = machine.cache(name), time.time()
    assert cache.find(SINGULARITY, request(stand_in), asked_at) is None
    cache.acquire(SINGULARITY, request(stand_in), asked_at).release()
    found = cache.find(SINGULARITY, request(stand_in), asked_at)
    assert found is not None
    found.release()
    assert cache.find(SINGULARITY, request(stand_in), time.time()) is None
    assert cache.find(SINGULARITY, request(stand_in, ALICE), asked_at) is None


@pytest.mark.contract("S19")
def test_singularity_hub_has_a_stand_in(
    machine: Machine, stand_in: StandIn, name: str, sif: Path
) -> None:
    url = stand_in.serve_file("box.simg", sif.read_bytes())
    stand_in.containers["user/repo:tag"] = {"image": url, "version": "1"}
    asked = ImageRequest(
        image="shub://user/repo:tag", mirrors={"singularity-hub.org": stand_in.url}
    )
    cache = machine.cache(name)
    assert not cache.acquire(SINGULARITY, asked).image.cached
    assert cache.acquire(SINGULARITY, asked).image.cached
    stand_in.containers["user/repo:tag"]["version"] = "2"
    assert cache.acquire(SINGULARITY, asked).image.digest
    assert stand_in.asked[f"GET {url.removeprefix(stand_in.url)}"] == 2


@pytest.mark.contract("S19")
def test_singularity_hub_without_a_stand_in_says_so(machine: Machine, name: str) -> None:
    with pytest.raises(ImageNotFound, match="out of service"):
        machine.cache(name).acquire(SINGULARITY, ImageRequest(image="shub://user/repo:tag"))


def test_urls_are_asked_whether_they_changed(
    machine: Machine, stand_in: StandIn, name: str, sif: Path
) -> None:
    url = stand_in.serve_file("box.sif", sif.read_bytes(), etag='"1"')
    cache, asked = machine.cache(name), ImageRequest(image=url)
    first = cache.acquire(SINGULARITY, asked).image
    assert cache.acquire(SINGULARITY, asked).image.cached
    stand_in.serve_file("box.sif", sif.read_bytes() + b"\0", etag='"2"')
    assert cache.acquire(SINGULARITY, asked).image.digest != first.digest


@pytest.fixture(scope="module")
def sif(machine: Machine) -> Path:
    return machine.build_sif()
