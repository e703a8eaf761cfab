"""Files behind one protocol: logs, inputs and outputs that are too large for a row.

Owns `ObjectStore` and its local implementation, a directory. Knows nothing of jobs; what a key means is the caller's
affair. A database row that names a key is written after the object, so that a row never points at nothing.
"""

import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from hashlib import sha256
from io import FileIO
from pathlib import Path
from typing import Protocol

from django.conf import settings

BLOCK_BYTES = 1 << 16
# Segments of a key: no separators, no leading dot (neither `..` nor our drafts), nothing a file system may fold.
_SEGMENT = re.compile(r"[A-Za-z0-9_=+-][A-Za-z0-9._=+-]{0,127}")
_MAXIMUM_KEY = 256


class ObjectMissing(LookupError):
    """No object has this key."""


class ObjectStoreError(OSError):
    """The store could not do it now (full, unreachable, no permission); trying again may help."""


class ObjectStore(Protocol):
    """Immutable byte strings by key. Keys are relative paths of safe segments, at most 256 characters.

    Every method blocks, and raises ValueError for an unsafe key and ObjectStoreError for a store that does not work.
    """

    def put(self, key: str, data: bytes | Iterable[bytes]) -> int:
        """Store an object, whole or not at all; returns its size in bytes.

        Idempotent: a present object is replaced, readers that opened the old one keep it. If `data` raises, that
        error comes through and nothing is stored.
        """
        ...

    def open_range(self, key: str, start: int = 0) -> Iterator[bytes]:
        """The object's bytes from `start` (from 0) in blocks of at most 64 KiB; none from its end on.

        Raises:
            ObjectMissing: at once, not at the first block.
        """
        ...

    def size(self, key: str) -> int:
        """Bytes of the object.

        Raises:
            ObjectMissing: there is none.
        """
        ...

    def delete(self, key: str) -> None:
        """Remove the object. Idempotent: an absent one is fine."""
        ...


def check_key(key: str) -> str:
    """Return `key` if it is safe.

    Raises:
        ValueError: it is empty, too long, absolute, or has a segment with anything but letters, digits and `._=+-`.
    """
    segments = key.split("/")
    if len(key) > _MAXIMUM_KEY or not all(_SEGMENT.fullmatch(segment) for segment in segments):
        raise ValueError(f"not a safe object key: {key!r}")
    return key


class LocalStore:
    """Objects as files: `<directory>/<two hex digits>/<key with / as ,>`, readable by this user only."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, key: str, data: bytes | Iterable[bytes]) -> int:
        path = self._path(key)
        try:
            self._make_room(path.parent)
            draft = path.parent / f".draft-{secrets.token_hex(8)}"
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise _as_store_error(error) from error
        try:
            size = _write(descriptor, [data] if isinstance(data, bytes) else data)
            _rename(draft, path)
        except BaseException:
            with suppress(OSError):
                draft.unlink()
            raise
        return size

    def open_range(self, key: str, start: int = 0) -> Iterator[bytes]:
        path = self._path(key)
        try:
            file = path.open("rb", buffering=0)
        except FileNotFoundError as error:
            raise ObjectMissing(key) from error
        except OSError as error:
            raise _as_store_error(error) from error
        return _blocks(file, start)

    def size(self, key: str) -> int:
        try:
            return self._path(key).stat().st_size
        except FileNotFoundError as error:
            raise ObjectMissing(key) from error
        except OSError as error:
            raise _as_store_error(error) from error

    def delete(self, key: str) -> None:
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as error:
            raise _as_store_error(error) from error

    def _make_room(self, shard: Path) -> None:
        if not shard.is_dir():
            # One by one: `parents=True` would make the outer ones readable by others.
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            shard.mkdir(exist_ok=True, mode=0o700)
            _force_names(self._directory)

    def _path(self, key: str) -> Path:
        """Sharded by the key's digest. A key may be a prefix of another, so it cannot be a path of directories."""
        name = check_key(key).replace("/", ",")
        shard = sha256(key.encode()).hexdigest()[:2]
        if len(name) > 240:
            name = sha256(key.encode()).hexdigest()
        return self._directory / shard / name


def object_store() -> ObjectStore:
    """The store that the settings name."""
    return LocalStore(settings.CONFIG.objects_dir)


def _write(descriptor: int, blocks: Iterable[bytes]) -> int:
    """Write blocks to a new file and force them to disk; closes the descriptor. Errors of `blocks` pass through."""
    size = 0
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        for block in blocks:
            size += len(block)
            try:
                view = memoryview(block)
                while view:
                    view = view[file.write(view) :]
            except OSError as error:
                raise _as_store_error(error) from error
        try:
            os.fsync(file.fileno())
        except OSError as error:
            raise _as_store_error(error) from error
    return size


def _rename(draft: Path, path: Path) -> None:
    """Give the file its name, and force the name to disk as well."""
    try:
        draft.replace(path)
        _force_names(path.parent)
    except OSError as error:
        raise _as_store_error(error) from error


def _force_names(directory: Path) -> None:
    """Force to disk what was created in a directory."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _blocks(file: FileIO, start: int) -> Iterator[bytes]:
    with file:
        position = start
        while block := os.pread(file.fileno(), BLOCK_BYTES, position):
            yield block
            position += len(block)


def _as_store_error(error: OSError) -> ObjectStoreError:
    return ObjectStoreError(error.errno, error.strerror)
