"""Where a node keeps things on disk.

DATA/                 0711 root: slot users may pass through, not list
  id                  random; with the kernel's boot id it makes the boot id
  enrolment           0600: the secrets of the present incarnation
  images/             the image cache, kept over incarnations
  life-N/             everything of incarnation N
    journal.db  lease
    jobs/JOB.ATTEMPT.RANK/
      run             made once, by the shim or by a worker that excludes it
      stop            why the worker wants the job to end
      status  result  what the shim has to say
      shim.log        what went wrong in the shim itself
      stdout  stderr  the whole logs; not there while nothing was printed
      stored-stdout …     how much of them the server has
      work/ tmp/ private/                   0700, the slot's: wiped at the end
"""

from dataclasses import dataclass
from pathlib import Path

from worker.protocol import AttemptKey


@dataclass(frozen=True, slots=True)
class JobDir:
    """The directory of one attempt."""

    path: Path

    @property
    def run(self) -> Path:
        return self.path / "run"

    @property
    def stop(self) -> Path:
        return self.path / "stop"

    @property
    def status(self) -> Path:
        return self.path / "status"

    @property
    def result(self) -> Path:
        return self.path / "result"

    def stored(self, stream: str) -> Path:
        return self.path / f"stored-{stream}"

    @property
    def work(self) -> Path:
        return self.path / "work"

    @property
    def tmp(self) -> Path:
        return self.path / "tmp"

    @property
    def private(self) -> Path:
        return self.path / "private"

    @property
    def inputs(self) -> Path:
        return self.path / "inputs"

    def slot_dirs(self, *, private: bool) -> tuple[Path, ...]:
        """What belongs to the slot's user; `private` is for container runtimes and staging."""
        return (self.work, self.tmp, self.private) if private else (self.work, self.tmp)

    def log(self, stream: str) -> Path:
        """`stream` is "stdout" or "stderr"."""
        return self.path / stream

    @property
    def complaints(self) -> Path:
        """What the shim itself logs; seldom anything."""
        return self.path / "shim.log"


@dataclass(frozen=True, slots=True)
class LifeDir:
    """The directory of one incarnation."""

    path: Path

    @property
    def journal(self) -> Path:
        return self.path / "journal.db"

    @property
    def lease(self) -> Path:
        return self.path / "lease"

    @property
    def jobs(self) -> Path:
        return self.path / "jobs"

    def job(self, key: AttemptKey) -> JobDir:
        return JobDir(self.jobs / str(key))

    def make(self) -> None:
        """Idempotent."""
        for path in (self.path, self.jobs):
            path.mkdir(exist_ok=True)
            path.chmod(0o711)


@dataclass(frozen=True, slots=True)
class DataDir:
    """The directory of one node."""

    path: Path

    @property
    def identity(self) -> Path:
        return self.path / "id"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def enrolment(self) -> Path:
        return self.path / "enrolment"

    @property
    def images(self) -> Path:
        return self.path / "images"

    def life(self, incarnation: int) -> LifeDir:
        return LifeDir(self.path / f"life-{incarnation}")

    def lives(self) -> list[Path]:
        return sorted(self.path.glob("life-*"))

    def make(self) -> None:
        """Idempotent. Parents that are missing are made so that slot users can pass through too."""
        for path in reversed(self.path.parents):
            if not path.exists():
                path.mkdir(exist_ok=True)
                path.chmod(0o711)
        self.path.mkdir(exist_ok=True)
        self.path.chmod(0o711)
