"""Paths inside a job's scratch directory, which the job may have filled with links to anywhere.

Everything here stays below the directory. Nothing of the job may run meanwhile.
"""

import errno
import fnmatch
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from worker.runtimes.base import HOME

MAXIMUM_LINKS = 40
MAXIMUM_DEPTH = 100
_MAGIC = frozenset("*?[")


def split(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part not in {"", "."})


def resolve(root: Path, path: str) -> str | None:
    """Where `path` leads below `root`, as the job saw it: links followed, absolute ones from /home/user.

    None when it leads out, in circles, or nowhere.
    """
    try:
        return _resolve(root, path)
    except OSError:
        return None


def _resolve(root: Path, path: str) -> str | None:
    waiting = list(reversed(split(path)))
    found: list[str] = []
    links = 0
    while waiting:
        part = waiting.pop()
        if part == "..":
            if not found:
                return None
            found.pop()
            continue
        target = _link_target(root.joinpath(*found, part))
        if target is None:
            found.append(part)
            continue
        links += 1
        if links > MAXIMUM_LINKS or not _stays_home(target):
            return None
        if target.startswith("/"):
            found, target = [], target.removeprefix(HOME)
        waiting += reversed(split(target))
    return "/".join(found)


def _link_target(place: Path) -> str | None:
    """None when it is no link. Raises OSError when it is not there."""
    return str(place.readlink()) if stat.S_ISLNK(place.lstat().st_mode) else None


def _stays_home(target: str) -> bool:
    return not target.startswith("/") or target == HOME or target.startswith(f"{HOME}/")


def matches(root: Path, pattern: str) -> Iterator[str]:
    """Paths below `root` that match a glob pattern, in order; `**` is any number of directories.

    A name that exists as it is written is no pattern. Links are followed only where they are named, never by a
    wildcard, so a link to elsewhere makes nobody search there.
    """
    if resolve(root, pattern):
        yield pattern
    elif _MAGIC & set(pattern):
        yield from _expand(root, "", split(pattern))


def _expand(root: Path, base: str, parts: tuple[str, ...]) -> Iterator[str]:
    if not parts:
        yield base
        return
    part, rest = parts[0], parts[1:]
    if part == "**":
        yield from _expand_any(root, base, rest)
    elif _MAGIC & set(part):
        for name, is_directory in _entries(root, base):
            hidden = name.startswith(".") and not part.startswith(".")
            if not hidden and fnmatch.fnmatchcase(name, part) and (is_directory or not rest):
                yield from _expand(root, _join(base, name), rest)
    elif resolve(root, _join(base, part)) is not None:
        yield from _expand(root, _join(base, part), rest)


def _expand_any(root: Path, base: str, rest: tuple[str, ...]) -> Iterator[str]:
    """`**`: no directory, or any number of them."""
    if rest:
        yield from _expand(root, base, rest)
    for name, is_directory in _entries(root, base):
        if is_directory and base.count("/") < MAXIMUM_DEPTH:
            yield from _expand_any(root, _join(base, name), rest)
        elif not is_directory and not rest:
            yield _join(base, name)


def _entries(root: Path, base: str) -> list[tuple[str, bool]]:
    """Names in a directory, and whether each is a directory itself, not by a link."""
    inside = resolve(root, base)
    if inside is None:
        return []
    with suppress(OSError), os.scandir(root / inside) as entries:
        return sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    return []


def _join(base: str, name: str) -> str:
    return f"{base}/{name}" if base else name


def open_regular(root: Path, path: bytes, *, owner: int) -> int:
    """A descriptor of a regular file below `root` that belongs to `owner`, without following any link.

    Raises OSError.
    """
    *folders, name = split(os.fsdecode(path))
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            inner = os.open(
                folder,
                os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC,
                dir_fd=directory,
            )
            os.close(directory)
            directory = inner
        descriptor = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory
        )
    finally:
        os.close(directory)
    facts = os.fstat(descriptor)
    if stat.S_ISREG(facts.st_mode) and facts.st_uid == owner:
        return descriptor
    os.close(descriptor)
    raise PermissionError(errno.EPERM, "not a file of the job")
