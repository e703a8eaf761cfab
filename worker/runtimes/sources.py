"""Bring an image, whatever its kind, onto the disk as one file that a runtime can unpack."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from worker.runtimes.base import Command, Identity, ImageRequest, Run
from worker.runtimes.docker_save import write_archive
from worker.runtimes.download import (
    HashedFile,
    get,
    raise_for_status,
    store,
    without_secrets,
)
from worker.runtimes.errors import ImageNotFound, ImageUnusable, RegistryAway
from worker.runtimes.names import (
    SINGULARITY_HUB,
    ImageKind,
    image_kind,
    is_archive,
    parse_reference,
    registry_url,
)
from worker.runtimes.registry import RegistryClient

PATH = "/usr/local/bin:/usr/bin:/bin"
"""Where the programs that runtimes need are looked up."""

NOT_MODIFIED = 304
READABLE = 0o644
"""The puller's user reads what this process stored, whatever its umask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """A file on disk; `archive` tells a `docker save` tarball from a Singularity image."""

    path: Path
    digest: str
    archive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """What an image's name stands for now: a digest, "" as long as only a download could tell.

    `validator` says when a name without digests of its own (URL, path, `shub://`) stands for the same
    as before; "" for never.
    """

    digest: str
    validator: str = ""


def resolve_image(request: ImageRequest, known: Resolved | None) -> Resolved:
    """Ask the registry or server what the name stands for; `known` is an earlier answer.

    One request, two more for a registry that gives tokens. Raises ImagePullFailed and kin.
    """
    kind = image_kind(request.image)
    if kind is ImageKind.REGISTRY:
        return Resolved(digest=_registry(request).resolve())
    if kind is ImageKind.URL:
        return _resolve_url(request.image, known)
    if kind is ImageKind.PATH:
        return _since(known, _path_validator(request.image))
    return _since(known, _hub_container(request)[1])


def fetch_image(request: ImageRequest, *, work: Path, identity: Identity, run: Run) -> ImageFile:
    """Download the image into the directory `work`, or find it on disk.

    Downloading parses no content but manifests; unpacking is for others, with fewer rights. Raises
    ImagePullFailed and kin.
    """
    kind = image_kind(request.image)
    if kind is ImageKind.REGISTRY:
        return _from_registry(request, work)
    if kind is ImageKind.URL:
        return _from_url(request.image, work, archive=is_archive(request.image))
    if kind is ImageKind.PATH:
        return _from_path(request.image, identity, run)
    return _from_url(_hub_container(request)[0], work, archive=False)


def _registry(request: ImageRequest) -> RegistryClient:
    try:
        reference = parse_reference(request.image)
    except ValueError as error:
        raise ImageNotFound(str(error)) from error
    base_url = request.mirrors.get(reference.host) or registry_url(reference.host)
    reference = replace(reference, tag=request.digest or reference.tag)
    return RegistryClient(base_url=base_url, reference=reference, credential=request.credential)


def _from_registry(request: ImageRequest, work: Path) -> ImageFile:
    image, path = _registry(request).pull(work), work / "image.tar"
    try:
        write_archive(path, image.config, image.layers)
    except (ValueError, TypeError) as error:
        raise ImageUnusable(f"{request.image}: its configuration is not JSON") from error
    path.chmod(READABLE)
    for layer in image.layers:
        layer.unlink()
    return ImageFile(path=path, digest=image.digest, archive=True)


def _since(known: Resolved | None, validator: str) -> Resolved:
    same = known is not None and validator and known.validator == validator
    return known if known is not None and same else Resolved(digest="", validator=validator)


def _resolve_url(url: str, known: Resolved | None) -> Resolved:
    """A GET whose body is not read: signed URLs often allow nothing else."""
    answer = get(url, _conditions(known), body=False)
    if answer.status == NOT_MODIFIED and known is not None:
        return known
    raise_for_status(answer.status, without_secrets(url))
    marks = [answer.headers.get(name) or "" for name in ("ETag", "Last-Modified")]
    return _since(known, json.dumps(marks) if any(marks) else "")


def _conditions(known: Resolved | None) -> dict[str, str]:
    etag, modified = json.loads(known.validator) if known and known.validator else ("", "")
    headers = {"If-None-Match": etag, "If-Modified-Since": modified}
    return {name: value for name, value in headers.items() if value}


def _hub_container(request: ImageRequest) -> tuple[str, str]:
    """URL and version of a `shub://` image, as the registry of Singularity Hub answered them (S19)."""
    base_url = request.mirrors.get(SINGULARITY_HUB)
    if not base_url:
        raise ImageNotFound(
            f"{request.image}: Singularity Hub is out of service, and this site has no stand-in for it"
        )
    name = request.image.removeprefix("shub://")
    answer = get(f"{base_url.rstrip('/')}/api/container/{quote(name, safe='/:@')}", {})
    raise_for_status(answer.status, request.image)
    try:
        container = json.loads(answer.body)
        url, version = str(container["image"]), str(container.get("version") or "")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RegistryAway(f"{request.image}: the stand-in's answer has no image") from error
    if image_kind(url) is not ImageKind.URL:
        raise RegistryAway(f"{request.image}: the stand-in's answer has no URL")
    return url, version


def _from_url(url: str, work: Path, *, archive: bool) -> ImageFile:
    # Apptainer tells image formats by content, but wants an ending it knows.
    file = HashedFile(path=work / ("image.tar" if archive else "image.sif"))
    store(url, file, {})
    file.path.chmod(READABLE)
    if not file.path.stat().st_size:
        raise ImageUnusable(f"{without_secrets(url)}: empty")
    return ImageFile(path=file.path, digest=file.digest, archive=archive)


def _path_validator(path: str) -> str:
    try:
        status = Path(path).stat()
    except OSError as error:
        raise ImageNotFound(f"{path}: cannot be read on this node") from error
    return f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns}"


def _from_path(path: str, identity: Identity, run: Run) -> ImageFile:
    # A job chose the path: it is only ever opened with the puller's rights.
    command = Command(
        argv=("/usr/bin/sha256sum", "--", path),
        env={"PATH": PATH},
        cwd=Path("/"),
        identity=identity,
    )
    finished = run(command)
    if finished.code != 0:
        raise ImageNotFound(f"{path}: cannot be read on this node")
    digest = finished.out.lstrip("\\")[:64]
    return ImageFile(path=Path(path), digest=f"sha256:{digest}", archive=is_archive(path))
