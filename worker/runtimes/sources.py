"""Bring an image, whatever its kind, onto the disk as one file that a runtime can unpack."""

from dataclasses import dataclass
from pathlib import Path

from worker.runtimes.base import Command, Identity, ImageRequest, Run
from worker.runtimes.docker_save import write_archive
from worker.runtimes.download import HashedFile, store, without_secrets
from worker.runtimes.errors import ImageNotFound, ImageNotSupported, ImagePullFailed
from worker.runtimes.names import ImageKind, image_kind, is_archive, parse_reference, registry_url
from worker.runtimes.registry import RegistryClient

PATH = "/usr/local/bin:/usr/bin:/bin"
"""Where the programs that runtimes need are looked up."""

READABLE = 0o644
"""The puller's user reads what this process stored, whatever its umask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """A file on disk; `archive` tells a `docker save` tarball from a Singularity image."""

    path: Path
    digest: str
    archive: bool


def fetch_image(request: ImageRequest, *, work: Path, identity: Identity, run: Run) -> ImageFile:
    """Download the image into the directory `work`, or find it on disk.

    Downloading parses no content but manifests; unpacking is for others, with fewer rights. Raises
    ImagePullFailed and kin; `shub://` is not fetched here and raises ImageNotSupported.
    """
    kind = image_kind(request.image)
    if kind is ImageKind.REGISTRY:
        return _from_registry(request, work)
    if kind is ImageKind.URL:
        return _from_url(request.image, work)
    if kind is ImageKind.PATH:
        return _from_path(request.image, identity, run)
    raise ImageNotSupported(f"{request.image}: this runtime cannot use it")


def _from_registry(request: ImageRequest, work: Path) -> ImageFile:
    try:
        reference = parse_reference(request.image)
    except ValueError as error:
        raise ImageNotFound(str(error)) from error
    base_url = request.mirrors.get(reference.host) or registry_url(reference.host)
    client = RegistryClient(base_url=base_url, reference=reference, credential=request.credential)
    image, path = client.pull(work), work / "image.tar"
    write_archive(path, image.config, image.layers)
    path.chmod(READABLE)
    for layer in image.layers:
        layer.unlink()
    return ImageFile(path=path, digest=image.digest, archive=True)


def _from_url(url: str, work: Path) -> ImageFile:
    archive = is_archive(url)
    # Apptainer tells image formats by content, but wants an ending it knows.
    file = HashedFile(path=work / ("image.tar" if archive else "image.sif"))
    store(url, file, {})
    file.path.chmod(READABLE)
    if not file.path.stat().st_size:
        raise ImagePullFailed(f"{without_secrets(url)}: empty")
    return ImageFile(path=file.path, digest=file.digest, archive=archive)


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
