"""A node's image cache: each image is fetched once, by one process, and shared by all jobs.

    ROOT/names/KEY        what a name stood for when it was last asked about: digest, time, validator
    ROOT/entries/KEY/     a published image: `image/` (the runtime's), `entry.json`, `lock`
    ROOT/locks/KEY        held while a name is looked up or an image is pulled: N processes pull once
    ROOT/locks/pull.N     one for each pull that may go on at once; `queue` orders those that wait
    ROOT/work/RANDOM/     an entry in the making; its `lock` is held by its maker
    ROOT/salt             keeps names of files from telling anything about credentials

Entries are named after runtime and digest, so names that stand for the same image share it; a name's file
counts for one credential only, so who may not read an image does not get it from here either.

A job runs what its tag stands for at some moment after the job was submitted. So a name is asked about
once, with one small request, for all jobs that were submitted before (`asked_at`), and again for later
ones. When the registry cannot answer, what the name last stood for will do.

Publishing is one rename. Locks are flock(2), so a dead process holds nothing: an unlocked directory in
`work` is litter and is swept at the next pull. An entry's `lock` is held shared by each job that uses
it, and an entry so held is never removed.
"""

import fcntl
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from worker.image_names import ImageNames, read_json
from worker.locks import lock_file, locked
from worker.runtimes.base import Identity, ImageRequest, PreparedImage, Run, Runtime
from worker.runtimes.errors import NoSpace, RuntimeMissing
from worker.runtimes.sources import Resolved

FROM_CACHE_S = -1.0
"""`pull_s` of an image that was there already (S122)."""

QUEUE_POLL_S = 0.05


@dataclass(slots=True, kw_only=True)
class ImageLease:
    """An image in use. It stays on disk until `release`, or until every process that holds a copy of
    this lease's descriptor (by fork) has ended."""

    image: PreparedImage
    descriptor: int

    def release(self) -> None:
        """Let the image be evicted. Idempotent."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePolicy:
    """How much to keep (apparent sizes in bytes), and how many pulls may go on at once."""

    max_bytes: int = 50 * 1024**3
    pulls: int = 3


class ImageCache:
    """The cache in one directory, which any number of processes may use at once.

    `puller` is the user that unpacks what others made: a dedicated one on a node run by root, else
    the node's own. `run` runs the runtimes' programs.
    """

    def __init__(
        self,
        root: Path,
        *,
        runtimes: Mapping[str, Runtime],
        puller: Identity,
        run: Run,
        policy: CachePolicy | None = None,
    ) -> None:
        self._root = root
        self._names = ImageNames(root)
        self._runtimes = runtimes
        self._puller = puller
        self._run = run
        self._policy = policy or CachePolicy()

    def find(self, runtime: str, request: ImageRequest, asked_at: float) -> ImageLease | None:
        """The image if it is here and nobody needs to be asked; never waits (0.2 ms)."""
        try:
            digest = request.digest or self._names.fresh(request, asked_at)
            return self._hold(runtime, digest) if digest else None
        except OSError:
            return None

    def acquire(
        self, runtime: str, request: ImageRequest, asked_at: float | None = None
    ) -> ImageLease:
        """The image, pulled if need be, protected from eviction until the lease is released.

        `asked_at`: when the job was submitted; now, if not given. Blocks while another process pulls
        the same image. Raises the runtime's errors; RuntimeMissing for a runtime this node does not
        have. After an error nothing is left behind.
        """
        if runtime not in self._runtimes:
            raise RuntimeMissing(f"this node has no {runtime}")
        self._make_directories()
        asked_at = time.time() if asked_at is None else asked_at
        if lease := self.find(runtime, request, asked_at):
            return lease
        with self._locked(self._names.key_of(request)):
            digest = request.digest or self._names.fresh(request, asked_at)
            resolved = Resolved(digest=digest) if digest else self._names.ask(request)
            if not resolved.digest:  # only a download can tell: the name stays locked meanwhile
                return self._pull(runtime, request, resolved)
        digest = resolved.digest
        request = replace(request, digest=digest)
        with self._locked(self._names.key([runtime, digest])):
            lease = self._hold(runtime, digest, wait=True)
            return lease or self._pull(runtime, request, resolved)

    def evict(self, max_bytes: int | None = None) -> None:
        """Remove the longest unused entries until the rest fits, never one in use; and forgotten names."""
        limit = self._policy.max_bytes if max_bytes is None else max_bytes
        entries = sorted((self._root / "entries").iterdir(), key=_last_use)
        sizes = {
            entry: int(read_json(entry / "entry.json").get("size_bytes", 0)) for entry in entries
        }
        total = sum(sizes.values())
        for entry in entries:
            if total > limit and self._remove(entry):
                total -= sizes[entry]
        self._names.forget()

    # ---- entries

    def _hold(self, runtime: str, digest: str, *, wait: bool = False) -> ImageLease | None:
        """Lock an entry as in use; None when there is none, or it is just being removed."""
        entry = self._root / "entries" / self._names.key([runtime, digest])
        try:
            descriptor = lock_file(entry / "lock", fcntl.LOCK_SH | (0 if wait else fcntl.LOCK_NB))
            if descriptor < 0:
                return None
            # An entry of this name may have gone, and another come, since the file was opened.
            if os.fstat(descriptor).st_ino != (entry / "lock").stat().st_ino:
                raise FileNotFoundError
        except FileNotFoundError:
            return None
        os.utime(entry / "lock")
        image = PreparedImage(
            runtime=runtime, path=entry / "image", digest=digest, cached=True, pull_s=FROM_CACHE_S
        )
        return ImageLease(image=image, descriptor=descriptor)

    def _pull(self, runtime: str, request: ImageRequest, resolved: Resolved) -> ImageLease:
        """Pull in turn; once more when making room may help."""
        begin = time.monotonic()
        with self._turn():
            try:
                lease = self._make(runtime, request, resolved)
            except NoSpace:
                self.evict(0)
                lease = self._make(runtime, request, resolved)
        self.evict()
        if not lease.image.cached:
            lease.image = replace(lease.image, pull_s=time.monotonic() - begin)
        return lease

    def _make(self, runtime: str, request: ImageRequest, resolved: Resolved) -> ImageLease:
        with self._locked("work"):
            self._sweep()
            work = Path(tempfile.mkdtemp(dir=self._root / "work"))
            descriptor = lock_file(work / "lock", fcntl.LOCK_SH | fcntl.LOCK_NB, make=True)
        try:
            at = time.time()
            digest = self._fill(work, runtime, request)
            lease = self._publish(work, descriptor, runtime, digest)
        except BaseException:
            os.close(descriptor)
            shutil.rmtree(work, ignore_errors=True)
            raise
        if not resolved.digest:
            self._names.remember(request, replace(resolved, digest=digest), at)
        return lease

    def _publish(self, work: Path, descriptor: int, runtime: str, digest: str) -> ImageLease:
        """Rename into place; an entry that another name brought meanwhile serves as well."""
        place = self._root / "entries" / self._names.key([runtime, digest])
        while True:
            try:
                work.rename(place)
            except OSError:
                lease = self._hold(runtime, digest, wait=True)
                if lease is None and place.exists():
                    raise
                if lease is None:
                    continue
                os.close(descriptor)
                shutil.rmtree(work, ignore_errors=True)
                return lease
            image = PreparedImage(
                runtime=runtime, path=place / "image", digest=digest, cached=False, pull_s=0.0
            )
            return ImageLease(image=image, descriptor=descriptor)

    def _fill(self, work: Path, runtime: str, request: ImageRequest) -> str:
        work.chmod(0o755)
        into = work / "image"
        into.mkdir()
        into.chmod(0o755)
        os.chown(into, self._puller.uid, self._puller.gid)
        digest = self._runtimes[runtime].pull(
            request, into=into, identity=self._puller, run=self._run
        )
        os.chown(into, os.getuid(), os.getgid())
        entry = {
            "runtime": runtime,
            "image": request.image,
            "digest": digest,
            "pulled_at": time.time(),
            "size_bytes": _tree_bytes(into),
        }
        (work / "entry.json").write_text(json.dumps(entry))
        return digest

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait, in order, until fewer than the allowed number of pulls go on."""
        places = [self._root / "locks" / f"pull.{n}" for n in range(self._policy.pulls)]
        with self._locked("queue"):
            while (descriptor := _first_free(places)) < 0:
                time.sleep(QUEUE_POLL_S)
        try:
            yield
        finally:
            os.close(descriptor)

    def _sweep(self) -> None:
        """Remove what dead pullers left in `work`; under its lock, for a live one may not yet have
        locked the directory it made."""
        for work in (self._root / "work").iterdir():
            with suppress(FileNotFoundError):
                descriptor = lock_file(work / "lock", fcntl.LOCK_EX | fcntl.LOCK_NB, make=True)
                if descriptor >= 0:
                    shutil.rmtree(work, ignore_errors=True)
                    os.close(descriptor)

    def _remove(self, entry: Path) -> bool:
        """Remove an entry unless it is in use. Out of sight by one rename before it goes."""
        with suppress(FileNotFoundError):
            descriptor = lock_file(entry / "lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
            if descriptor >= 0:
                gone = self._root / "work" / f"evicted-{entry.name}-{secrets.token_hex(4)}"
                entry.rename(gone)
                shutil.rmtree(gone, ignore_errors=True)
                os.close(descriptor)
                return True
        return False

    def _locked(self, name: str) -> AbstractContextManager[None]:
        return locked(self._root / "locks" / name)

    def _make_directories(self) -> None:
        for name in ("", "names", "entries", "locks", "work"):
            path = self._root / name
            if not path.is_dir():
                path.mkdir(exist_ok=True, parents=True)
                path.chmod(0o711)


def _first_free(places: list[Path]) -> int:
    """The descriptor of the first lock that can be had; -1 when all are held."""
    for place in places:
        descriptor = lock_file(place, fcntl.LOCK_EX | fcntl.LOCK_NB, make=True)
        if descriptor >= 0:
            return descriptor
    return -1


def _last_use(entry: Path) -> float:
    try:
        return (entry / "lock").stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _tree_bytes(path: Path) -> int:
    return sum(
        (Path(directory) / name).lstat().st_size
        for directory, _, files in os.walk(path)
        for name in files
    )
