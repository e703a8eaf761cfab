"""A node's image cache: each image is fetched once, by one process, and shared by all jobs.

    ROOT/entries/KEY.N/   a published image: `image/` (the runtime's), `entry.json`, `lock`
    ROOT/locks/KEY        held while KEY is looked up or pulled: N processes asking at once pull once
    ROOT/work/RANDOM/     an entry in the making; its `lock` is held by its maker
    ROOT/salt             keeps entry names from telling anything about credentials

Publishing is one rename. Locks are flock(2), so a dead process holds nothing: an unlocked directory in
`work` is litter and is swept at the next pull. An entry's `lock` is held shared by each job that uses
it, and an entry so held is never removed. A newer entry (greater N) of a key hides the older ones.

A tag is resolved when its image is pulled; after that the entry serves for `max_age_s`, None meaning
for as long as it is kept. Images on disk are told apart by inode, size and time of change as well.
"""

import fcntl
import hashlib
import hmac
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from worker.runtimes.base import Identity, ImageRequest, PreparedImage, Run, Runtime
from worker.runtimes.errors import RuntimeMissing
from worker.runtimes.names import HUB, ImageKind, image_kind, parse_reference

FROM_CACHE_S = -1.0
"""`pull_s` of an image that was there already (S122)."""


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
    """How long and how much to keep. Sizes are the images' apparent sizes in bytes."""

    max_bytes: int = 50 * 1024**3
    max_age_s: float | None = None


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
        self._runtimes = runtimes
        self._puller = puller
        self._run = run
        self._policy = policy or CachePolicy()
        for name in ("", "entries", "locks", "work"):
            _make_open_directory(root / name)

    def acquire(self, runtime: str, request: ImageRequest) -> ImageLease:
        """The image, pulled if need be, protected from eviction until the lease is released.

        Blocks while another process pulls the same image. Raises the runtime's errors; RuntimeMissing
        for a runtime this node does not have. After an error nothing is left behind.
        """
        if runtime not in self._runtimes:
            raise RuntimeMissing(f"this node has no {runtime}")
        key = self._key(runtime, request)
        with _locked(self._root / "locks" / key):
            lease = self._find(key, runtime)
            if lease is None:
                lease = self._pull(key, runtime, request)
        if not lease.image.cached:
            self.evict()
        return lease

    def evict(self) -> None:
        """Remove the longest unused entries until the rest fits, never one in use."""
        entries = sorted(self._entries(), key=_last_use)
        sizes = {entry: int(_read_entry(entry).get("size_bytes", 0)) for entry in entries}
        total = sum(sizes.values())
        for entry in entries:
            if total > self._policy.max_bytes and self._remove(entry):
                total -= sizes[entry]

    def _key(self, runtime: str, request: ImageRequest) -> str:
        parts = [runtime, request.image, _mirror(request)]
        if request.credential:
            parts += [request.credential.username, request.credential.token]
        if image_kind(request.image) is ImageKind.PATH:
            with suppress(OSError):
                status = Path(request.image).stat()
                parts += [f"{status.st_ino} {status.st_size} {status.st_mtime_ns}"]
        message = json.dumps(parts).encode()
        return hmac.new(self._salt(), message, hashlib.sha256).hexdigest()[:32]

    def _salt(self) -> bytes:
        path = self._root / "salt"
        with _locked(self._root / "locks" / "salt"):
            if not path.exists():
                path.touch(mode=0o600)
                path.write_bytes(secrets.token_bytes(32))
            return path.read_bytes()

    def _find(self, key: str, runtime: str) -> ImageLease | None:
        newest = sorted(self._entries(key), key=_generation)
        if not newest:
            return None
        descriptor = _hold(newest[-1])
        if descriptor is None:
            return None
        entry = _read_entry(newest[-1])
        age_s = time.time() - float(entry.get("pulled_at", 0))
        if self._policy.max_age_s is not None and age_s > self._policy.max_age_s:
            os.close(descriptor)
            return None
        os.utime(newest[-1] / "lock")
        image = PreparedImage(
            runtime=runtime,
            path=newest[-1] / "image",
            digest=str(entry.get("digest", "")),
            cached=True,
            pull_s=FROM_CACHE_S,
        )
        return ImageLease(image=image, descriptor=descriptor)

    def _pull(self, key: str, runtime: str, request: ImageRequest) -> ImageLease:
        begin = time.monotonic()
        with _locked(self._root / "locks" / "work"):
            self._sweep()
            work = Path(tempfile.mkdtemp(dir=self._root / "work"))
            descriptor = _lock_file(work / "lock", fcntl.LOCK_SH | fcntl.LOCK_NB)
        try:
            digest = self._fill(work, runtime, request)
            older = self._entries(key)
            generation = max(map(_generation, older), default=0) + 1
            place = self._root / "entries" / f"{key}.{generation}"
            work.rename(place)
        except BaseException:
            os.close(descriptor)
            shutil.rmtree(work, ignore_errors=True)
            raise
        for entry in older:
            self._remove(entry)
        image = PreparedImage(
            runtime=runtime,
            path=place / "image",
            digest=digest,
            cached=False,
            pull_s=time.monotonic() - begin,
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

    def _entries(self, key: str = "") -> list[Path]:
        return list((self._root / "entries").glob(f"{key}*.*"))

    def _sweep(self) -> None:
        """Remove what dead pullers left in `work`; under its lock, for a live one may not yet have
        locked the directory it made."""
        for work in (self._root / "work").iterdir():
            with suppress(FileNotFoundError):
                descriptor = _lock_file(work / "lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
                if descriptor >= 0:
                    shutil.rmtree(work, ignore_errors=True)
                    os.close(descriptor)

    def _remove(self, entry: Path) -> bool:
        """Remove an entry unless it is in use. Out of sight by one rename before it goes."""
        with suppress(FileNotFoundError):
            descriptor = _lock_file(entry / "lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
            if descriptor >= 0:
                gone = self._root / "work" / f"evicted-{entry.name}"
                entry.rename(gone)
                shutil.rmtree(gone, ignore_errors=True)
                os.close(descriptor)
                return True
        return False


def _mirror(request: ImageRequest) -> str:
    if image_kind(request.image) is not ImageKind.REGISTRY:
        return ""
    with suppress(ValueError):
        return request.mirrors.get(parse_reference(request.image).host, "")
    return request.mirrors.get(HUB, "")


def _generation(entry: Path) -> int:
    return int(entry.name.rpartition(".")[2])


def _last_use(entry: Path) -> float:
    try:
        return (entry / "lock").stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _read_entry(entry: Path) -> dict[str, Any]:
    try:
        found = json.loads((entry / "entry.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _hold(entry: Path) -> int | None:
    """Lock an entry as in use; None when an eviction was faster."""
    try:
        descriptor = _lock_file(entry / "lock", fcntl.LOCK_SH)
    except FileNotFoundError:
        return None
    if (entry / "lock").exists():
        return descriptor
    os.close(descriptor)
    return None


def _lock_file(path: Path, operation: int) -> int:
    """Open (or create) and flock a file; -1 when it is held and the operation does not wait."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, operation)
    except BlockingIOError:
        os.close(descriptor)
        return -1
    return descriptor


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make_open_directory(path: Path) -> None:
    path.mkdir(exist_ok=True, parents=True)
    path.chmod(0o711)


def _tree_bytes(path: Path) -> int:
    return sum(
        (Path(directory) / name).lstat().st_size
        for directory, _, files in os.walk(path)
        for name in files
    )
