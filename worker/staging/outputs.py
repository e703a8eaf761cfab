"""Finding what a job is to leave: files by pattern, directories as archives.

Runs in a child of the shim, as the slot's user, when no process of the job is left; so it reads and writes nothing
that the job could not. What it found is uploaded by the worker (`worker.staging.upload`).
"""

import os
import resource
import signal
import stat
import subprocess
from pathlib import Path

import msgspec

from worker.protocol import MAXIMUM_OUTPUT_FILES, EndReason
from worker.runtimes.identity import die_with_parent
from worker.staging.scratch import matches, resolve

TAR = "/usr/bin/tar"


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """A file to be uploaded. `path` is relative to the scratch, or to the private directory for an archive."""

    name: str
    path: bytes
    size: int
    directory: bool = False


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """All that was found; `reason` and `detail` say what is wrong with the rest."""

    outputs: tuple[Output, ...] = ()
    reason: EndReason | None = None
    detail: str = ""


class _Failed(Exception):
    def __init__(self, reason: EndReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Collector:
    """Of one job. `limit_bytes` is for each file."""

    def __init__(self, *, work: Path, private: Path, limit_bytes: int) -> None:
        self._work = work
        self._private = private
        self._limit_bytes = limit_bytes
        self._found: dict[tuple[str, bool], Output] = {}
        self._problem: _Failed | None = None

    def collect(self, files: tuple[str, ...], directories: tuple[str, ...]) -> Collected:
        """Every match of each pattern; what cannot be had does not keep the rest from being found."""
        for pattern in files:
            self._try(pattern, directory=False)
        for pattern in directories:
            self._try(pattern, directory=True)
        outputs = tuple(self._found.values())
        if self._problem is None:
            return Collected(outputs=outputs)
        return Collected(outputs=outputs, reason=self._problem.reason, detail=str(self._problem))

    def _try(self, pattern: str, *, directory: bool) -> None:
        any_found = False
        try:
            for path in matches(self._work, pattern):
                any_found |= self._take(path, directory=directory)
            if not any_found:
                raise _Failed(EndReason.OUTPUT_MISSING, f"{pattern}: not found")
        except _Failed as problem:
            self._problem = self._problem or problem

    def _take(self, path: str, *, directory: bool) -> bool:
        """False when it is of the other kind, or none."""
        if (path, directory) in self._found:
            return True
        real = resolve(self._work, path)
        if real is None:
            return False
        facts = (self._work / real).lstat()
        if directory and stat.S_ISDIR(facts.st_mode):
            self._require_room()
            self._found[path, True] = self._archive(path, real)
            return True
        if not directory and stat.S_ISREG(facts.st_mode):
            self._require_room()
            self._require_small(path, facts.st_size)
            self._found[path, False] = Output(
                name=_shown(path), path=os.fsencode(real), size=facts.st_size
            )
            return True
        return False

    def _require_room(self) -> None:
        if len(self._found) >= MAXIMUM_OUTPUT_FILES:
            detail = f"more than {MAXIMUM_OUTPUT_FILES} output files"
            raise _Failed(EndReason.OUTPUT_TOO_LARGE, detail)

    def _require_small(self, path: str, size: int) -> None:
        if size > self._limit_bytes:
            detail = f"{path}: {size} bytes; at most {self._limit_bytes} are allowed"
            raise _Failed(EndReason.OUTPUT_TOO_LARGE, detail)

    def _archive(self, path: str, real: str) -> Output:
        """A .tgz in the private directory that holds the directory by its own name (U15)."""
        name = f"output-{len(self._found)}.tgz"
        target = self._private / name
        parent, _, base = real.rpartition("/")
        ended = subprocess.run(
            [
                *(TAR, "--create", "--gzip", "--file", str(target)),
                *("--directory", str(self._work / parent), "--", base),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={"PATH": "/usr/bin:/bin"},
            preexec_fn=self._limit,
            check=False,
        )
        if ended.returncode == -signal.SIGXFSZ or b"File too large" in ended.stderr:
            self._require_small(path, self._limit_bytes + 1)
        if ended.returncode != 0:
            text = ended.stderr.decode(errors="replace").strip()[-300:]
            raise _Failed(EndReason.OUTPUT_ARCHIVE, f"{path}: {text}")
        size = target.stat().st_size
        return Output(name=_shown(path), path=name.encode(), size=size, directory=True)

    def _limit(self) -> None:
        die_with_parent(signal.SIGKILL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self._limit_bytes, self._limit_bytes))


def _shown(path: str) -> str:
    """File names are bytes; what is no UTF-8 is shown as such."""
    return os.fsencode(path).decode(errors="replace")


def root_of(output: Output, *, work: Path, private: Path) -> Path:
    """The directory that `output.path` is relative to."""
    return private if output.directory else work
