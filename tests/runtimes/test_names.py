"""Image names, and the runtime they ask for (guide S16-S26, D10)."""

import pytest

from worker.runtimes.names import HUB, Reference, parse_reference, registry_url
from worker.runtimes.select import SINGULARITY, UDOCKER, choose_runtime

DIGEST = f"sha256:{'0123456789abcdef' * 4}"


@pytest.mark.parametrize(
    ("image", "host", "repository", "tag"),
    [
        ("busybox", HUB, "library/busybox", "latest"),
        ("centos:7", HUB, "library/centos", "7"),
        ("user/repo:tag", HUB, "user/repo", "tag"),
        ("docker.io/busybox", HUB, "library/busybox", "latest"),
        ("docker://user/repo", HUB, "user/repo", "latest"),
        ("eu.gcr.io/project-1/img:v1.2", "eu.gcr.io", "project-1/img", "v1.2"),
        ("localhost/img", "localhost", "img", "latest"),
        ("127.0.0.1:5000/img", "127.0.0.1:5000", "img", "latest"),
        ("host:5000/a/b/c:t", "host:5000", "a/b/c", "t"),
        (f"user/repo@{DIGEST}", HUB, "user/repo", DIGEST),
        (f"host:5000/repo:tag@{DIGEST}", "host:5000", "repo", DIGEST),
    ],
)
def test_name_is_parsed_as_docker_does(image: str, host: str, repository: str, tag: str) -> None:
    assert parse_reference(image) == Reference(host=host, repository=repository, tag=tag)


@pytest.mark.parametrize(
    "image",
    ["", "UPPER", "a//b", "img:", "img@sha256:12", "../x", "a b", "-v", "host:1/", "img:ta g"],
)
def test_malformed_name_is_refused(image: str) -> None:
    with pytest.raises(ValueError, match="not a valid image name"):
        parse_reference(image)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        (HUB, "https://registry-1.docker.io"),
        ("quay.io", "https://quay.io"),
        ("localhost:5000", "http://localhost:5000"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("127.0.0.1.evil.org", "https://127.0.0.1.evil.org"),
    ],
)
def test_only_loopback_registries_are_plain_http(host: str, url: str) -> None:
    assert registry_url(host) == url


@pytest.mark.parametrize(
    ("image", "runtime"),
    [
        ("busybox", SINGULARITY),
        ("user/repo.tar", SINGULARITY),
        ("shub://user/repo:tag", SINGULARITY),
        ("https://example.org/a.sif", SINGULARITY),
        ("https://example.org/a.simg?sig=1", SINGULARITY),
        ("https://example.org/a", SINGULARITY),
        ("/data/a.sif", SINGULARITY),
        ("https://example.org/a.tar", UDOCKER),
        ("http://example.org/a.tgz?x=1", UDOCKER),
        ("https://example.org/A.TAR", UDOCKER),
        ("/data/a.tar", UDOCKER),
    ],
)
def test_runtime_follows_image_when_none_is_asked(image: str, runtime: str) -> None:
    assert choose_runtime(image, None) == runtime


def test_asked_runtime_wins() -> None:
    assert choose_runtime("https://example.org/a.tar", SINGULARITY) == SINGULARITY
