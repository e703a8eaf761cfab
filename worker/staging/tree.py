"""Writing a tree of files that somebody else's archive describes, strictly below one directory.

No name leads out of it: each directory on the way is opened without following links, links are made last of all, and
only when they point to something inside. Nothing else than files, directories and links is made; no setuid bits.
Bytes, entries and lengths of names are limited.
"""

import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

MAXIMUM_ENTRIES = 1_000_000
MAXIMUM_DEPTH = 100
MAXIMUM_PART = 255
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Parts = tuple[str, ...]


class Refused(Exception):
    """An archive's entry that may not be made; the text names it and the rule."""


class TooLarge(Exception):
    """The content is more than the job's disk may hold."""


def parts_of(name: str) -> Parts:
    """An entry's name as parts below the directory; empty for the directory itself. Raises Refused."""
    shown = repr(name[:200])
    if name.startswith("/") or "\0" in name:
        raise Refused(f"{shown}: an absolute path or a NUL")
    parts = tuple(part for part in name.split("/") if part not in {"", "."})
    if ".." in parts:
        raise Refused(f"{shown}: leads out with ..")
    if len(parts) > MAXIMUM_DEPTH or any(len(os.fsencode(p)) > MAXIMUM_PART for p in parts):
        raise Refused(f"{shown}: too deep or too long")
    return parts


@dataclass(slots=True)
class Tree:
    """`limit_bytes`: of all files together. Not safe for threads."""

    root: Path
    limit_bytes: int
    _entries: int = field(default=0, init=False)
    _bytes: int = field(default=0, init=False)
    _links: list[tuple[Parts, str]] = field(default_factory=list, init=False)
    _modes: dict[Parts, int] = field(default_factory=dict, init=False)

    def directory(self, parts: Parts, mode: int) -> None:
        """Modes are set at the end, so that a read-only directory can be filled."""
        self._count()
        os.close(self._open(parts))
        if parts:
            self._modes[parts] = (mode & 0o777) | stat.S_IRWXU

    def file(
        self, parts: Parts, mode: int, blocks: Iterable[bytes], mtime: float | None = None
    ) -> None:
        """Replaces a file or link of that name. Raises Refused, TooLarge, OSError."""
        self._count()
        folder, name = self._place(parts)
        try:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
            descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=folder)
            try:
                self._fill(descriptor, blocks)
                os.fchmod(descriptor, (mode & 0o777) | stat.S_IRUSR | stat.S_IWUSR)
                if mtime is not None:
                    os.utime(descriptor, (mtime, mtime))
            finally:
                os.close(descriptor)
        finally:
            os.close(folder)

    def link(self, parts: Parts, target: str) -> None:
        """A symbolic link, made by `finish`. It may climb, then name things. Raises Refused."""
        self._count()
        words = [part for part in target.split("/") if part not in {"", "."}]
        climbs = 0
        while words[climbs : climbs + 1] == [".."]:
            climbs += 1
        outside = target.startswith("/") or climbs > len(parts) - 1 or ".." in words[climbs:]
        if not parts or not target or outside or len(target) > os.pathconf("/", "PC_PATH_MAX"):
            raise Refused(f"{'/'.join(parts)[:200]!r}: a link that leads out, to {target[:200]!r}")
        self._links.append((parts, target))

    def hard_link(self, parts: Parts, target: Parts) -> None:
        """To a file that this archive brought before. Raises Refused, OSError."""
        self._count()
        shown = f"{'/'.join(parts)[:200]!r}: a hard link to {'/'.join(target)[:200]!r}"
        source, source_name = self._place(target)
        try:
            folder, name = self._place(parts)
            try:
                facts = os.stat(source_name, dir_fd=source, follow_symlinks=False)
                if not stat.S_ISREG(facts.st_mode):
                    raise Refused(f"{shown}, which is no file")
                if parts != target:
                    with suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=folder)
                    os.link(
                        source_name,
                        name,
                        src_dir_fd=source,
                        dst_dir_fd=folder,
                        follow_symlinks=False,
                    )
            except FileNotFoundError as error:
                raise Refused(f"{shown}, which is not there") from error
            finally:
                os.close(folder)
        finally:
            os.close(source)

    def finish(self) -> None:
        """Make the links and set the modes of directories. Raises Refused, OSError."""
        for parts, target in self._links:
            folder, name = self._place(parts)
            try:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
                os.symlink(target, name, dir_fd=folder)
            finally:
                os.close(folder)
        for parts, mode in sorted(self._modes.items(), reverse=True):
            descriptor = self._open(parts)
            try:
                os.fchmod(descriptor, mode)
            finally:
                os.close(descriptor)

    # ---- inside

    def _count(self) -> None:
        self._entries += 1
        if self._entries > MAXIMUM_ENTRIES:
            raise TooLarge(f"more than {MAXIMUM_ENTRIES} entries")

    def _fill(self, descriptor: int, blocks: Iterable[bytes]) -> None:
        for block in blocks:
            self._bytes += len(block)
            if self._bytes > self.limit_bytes:
                raise TooLarge(f"more than the job's disk of {self.limit_bytes >> 20} MB")
            while block:
                block = block[os.write(descriptor, block) :]

    def _place(self, parts: Parts) -> tuple[int, str]:
        if not parts:
            raise Refused("an entry without a name")
        return self._open(parts[:-1]), parts[-1]

    def _open(self, parts: Sequence[str]) -> int:
        """A descriptor of this directory; what is missing is made, and no link is followed."""
        descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for part in parts:
            try:
                with suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=descriptor)
                inner = os.open(part, _DIRECTORY, dir_fd=descriptor)
            except NotADirectoryError as error:
                raise Refused(
                    f"{'/'.join(parts)[:200]!r}: goes through a link or a file"
                ) from error
            finally:
                os.close(descriptor)
            descriptor = inner
        return descriptor
