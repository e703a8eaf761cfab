"""Which runtime runs an image when the user has not said (guide S24-S26, D10). Pure."""

from collections.abc import Iterable

from worker.runtimes.names import ImageKind, image_kind, is_archive

SINGULARITY = "singularity"
UDOCKER = "udocker"
PROCESS = "process"


def is_bare(runtimes: Iterable[str]) -> bool:
    """Whether these are processes without any container."""
    return all(runtime == PROCESS for runtime in runtimes)


def choose_runtime(image: str, asked: str | None) -> str:
    """The runtime's public name: what was asked for, else what the image needs.

    Only a tarball URL or path chooses udocker. Everything else runs with Singularity, and some of it
    (`shub://`, `.sif`, `.simg`) only with that.
    """
    if asked:
        return asked
    by_file = image_kind(image) in (ImageKind.URL, ImageKind.PATH)
    return UDOCKER if by_file and is_archive(image) else SINGULARITY
