"""Unpacking archives of all forms that artifacts may have (W30), none of which is trusted.

Runs as the job's own user in a child of the shim. `worker.staging.tree` keeps everything below the scratch; here are
the formats. What an archive would need in memory is bounded by the child's own limit (`limit_memory`).
"""

import bz2
import errno
import gzip
import resource
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from worker.staging.tree import Refused, Tree, parts_of

BLOCK_BYTES = 1 << 18
MAXIMUM_LINK_BYTES = 4096
MEMORY_BYTES = 2 << 30
"""Address space of the child that unpacks: a header may claim any size."""

_DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, struct.error),
    *(gzip.BadGzipFile, NotImplementedError, RuntimeError, ValueError, MemoryError),
)


_CONFLICTS = frozenset({errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EPERM})


class UnpackFailed(Exception):
    """The archive is damaged, or has something that may not be made."""


def limit_memory() -> None:
    """Of this process, for good."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def form_of(name: str) -> str | None:
    """The suffix that says how a file of this name is unpacked; None if it is not."""
    lower = name.lower()
    return next((suffix for suffix in _UNPACKERS if lower.endswith(suffix)), None)


def unpack(archive: Path, name: str, *, into: Path, limit_bytes: int) -> None:
    """Unpack `archive`, called `name` by the user, below `into`.

    Raises UnpackFailed; TooLarge when it is more than `limit_bytes`; OSError.
    """
    suffix = form_of(name)
    if suffix is None:
        raise ValueError(f"{name!r} is no archive")
    tree = Tree(into, limit_bytes)
    try:
        _UNPACKERS[suffix](archive, name[: -len(suffix)], tree)
        tree.finish()
    except Refused as error:
        raise UnpackFailed(str(error)) from error
    except _DAMAGED as error:
        raise UnpackFailed(
            f"damaged or not of this form: {type(error).__name__}: {error}"
        ) from error
    except OSError as error:
        if error.errno is None:  # how gzip and bz2 say it
            raise UnpackFailed(f"damaged: {error}") from error
        if error.errno in _CONFLICTS:
            raise UnpackFailed(f"two entries of one name: {error.strerror}") from error
        raise


# ---- tar


def _tar(mode: str) -> Callable[[Path, str, Tree], None]:
    def unpack_tar(archive: Path, _name: str, tree: Tree) -> None:
        with tarfile.open(archive, mode) as tar:  # type: ignore[call-overload]
            while (member := tar.next()) is not None:
                _tar_member(tar, member, tree)
                tar.members = []  # else it remembers all of them

    return unpack_tar


def _tar_member(tar: tarfile.TarFile, member: tarfile.TarInfo, tree: Tree) -> None:
    parts = parts_of(member.name)
    if member.isdir():
        tree.directory(parts, member.mode)
    elif member.isreg():
        content = tar.extractfile(member)
        assert content is not None  # noqa: S101 a regular member has content
        tree.file(parts, member.mode, _sized(content, member.size), _time(member.mtime))
    elif member.issym():
        tree.link(parts, member.linkname)
    elif member.islnk():
        tree.hard_link(parts, parts_of(member.linkname))
    else:
        raise Refused(f"{member.name[:200]!r}: a device or another special file")


def _time(seconds: float) -> float | None:
    return seconds if 0 <= seconds < 1 << 33 else None


# ---- zip


def _zip(archive: Path, _name: str, tree: Tree) -> None:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            _zip_member(file, info, tree)


def _zip_member(file: zipfile.ZipFile, info: zipfile.ZipInfo, tree: Tree) -> None:
    mode = info.external_attr >> 16
    parts = parts_of(info.filename)
    kind = stat.S_IFMT(mode)
    if info.is_dir():
        tree.directory(parts, stat.S_IMODE(mode) or 0o755)
    elif kind == stat.S_IFLNK:
        with file.open(info) as content:
            target = content.read(MAXIMUM_LINK_BYTES + 1)
        tree.link(parts, target.decode(errors="surrogateescape"))
    elif kind in {0, stat.S_IFREG}:
        with file.open(info) as content:
            tree.file(parts, stat.S_IMODE(mode) or 0o644, _blocks(content))
    else:
        raise Refused(f"{info.filename[:200]!r}: a device or another special file")


# ---- single files


def _single(open_file: Callable[..., Any]) -> Callable[[Path, str, Tree], None]:
    def unpack_single(archive: Path, name: str, tree: Tree) -> None:
        with open_file(archive, "rb") as content:
            tree.file(parts_of(name), 0o644, _blocks(content))

    return unpack_single


def _blocks(content: IO[bytes]) -> Iterator[bytes]:
    while block := content.read(BLOCK_BYTES):
        yield block


def _sized(content: IO[bytes], size: int) -> Iterator[bytes]:
    """A truncated archive would give a shorter file without a word."""
    seen = 0
    for block in _blocks(content):
        seen += len(block)
        yield block
    if seen != size:
        raise UnpackFailed("damaged: it ends in the middle of a file")


_UNPACKERS: dict[str, Callable[[Path, str, Tree], None]] = {
    ".tar.gz": _tar("r:gz"),
    ".tgz": _tar("r:gz"),
    ".tar.bz2": _tar("r:bz2"),
    ".tar": _tar("r:"),
    ".zip": _zip,
    ".gz": _single(gzip.open),
    ".bz2": _single(bz2.open),
}
