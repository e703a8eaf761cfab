"""What the `image` of a task can be (guide S16-S23), as values. Pure."""

import re
from dataclasses import dataclass
from enum import Enum
from urllib.parse import urlsplit

HUB = "docker.io"
SINGULARITY_HUB = "singularity-hub.org"
"""Out of service since 2021: `shub://` needs a stand-in, given as the mirror of this host."""

HUB_URL = "https://registry-1.docker.io"
ARCHIVE_SUFFIXES = (".tar", ".tgz", ".tar.gz")
SINGULARITY_SUFFIXES = (".sif", ".simg")

_COMPONENT = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class ImageKind(Enum):
    """Where an image comes from."""

    REGISTRY = "registry"
    URL = "url"
    PATH = "path"
    SINGULARITY_HUB = "shub"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """An image in a registry; `tag` is a tag, or a digest ("sha256:…")."""

    host: str
    repository: str
    tag: str


def image_kind(image: str) -> ImageKind:
    """The kind of an image, from its name alone."""
    if image.startswith(("http://", "https://")):
        return ImageKind.URL
    if image.startswith("/"):
        return ImageKind.PATH
    if image.startswith("shub://"):
        return ImageKind.SINGULARITY_HUB
    return ImageKind.REGISTRY


def is_digest(text: str) -> bool:
    """Whether this is "sha256:…"."""
    return _DIGEST.fullmatch(text) is not None


def is_archive(image: str) -> bool:
    """Whether a URL or path names a `docker save` tarball."""
    return file_name(image).endswith(ARCHIVE_SUFFIXES)


def is_singularity_image(image: str) -> bool:
    """Whether a URL or path names a Singularity image."""
    return file_name(image).endswith(SINGULARITY_SUFFIXES)


def file_name(image: str) -> str:
    """The path of a URL or path, in lower case and without any query."""
    return urlsplit(image).path.lower() if "://" in image else image.lower()


def parse_reference(image: str) -> Reference:
    """Parse a Docker-style name, filling in what Docker would. Raises ValueError when malformed."""
    name = image.removeprefix("docker://")
    name, at, digest = name.partition("@")
    first, slash, rest = name.partition("/")
    if slash and (set(".:") & set(first) or first == "localhost"):
        host, path = first, rest
    else:
        host, path = HUB, name
    repository, colon, tag = path.partition(":")
    if host in (HUB, "index.docker.io", "registry-1.docker.io"):
        host = HUB
        repository = repository if "/" in repository else f"library/{repository}"
    tag = digest if at else tag if colon else "latest"
    patterns = ((_HOST, host), (_REPOSITORY, repository), (_DIGEST if at else _TAG, tag))
    if not all(pattern.fullmatch(part) for pattern, part in patterns):
        raise ValueError(f"not a valid image name: {image}")
    return Reference(host=host, repository=repository, tag=tag)


def registry_url(host: str) -> str:
    """The base URL of a registry; loopback ones speak plain http, as Docker assumes too."""
    if host == HUB:
        return HUB_URL
    name = host.partition(":")[0]
    loopback = name == "localhost" or re.fullmatch(r"127\.\d+\.\d+\.\d+", name)
    return f"{'http' if loopback else 'https'}://{host}"
