"""The contract of object stores. A further implementation subclasses ObjectStoreContract with its own `store`."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.objects import BLOCK_BYTES, LocalStore, ObjectMissing, ObjectStore

UNSAFE = (
    "",
    "/etc/passwd",
    "../up",
    "a/../b",
    "a//b",
    "a/",
    ".hidden",
    "a\0b",
    "a b",
    "a\n",
    "x" * 257,
)


class ObjectStoreContract:
    """What every implementation does."""

    @pytest.fixture
    def store(self) -> ObjectStore:
        raise NotImplementedError

    def test_put_bytes_come_back(self, store: ObjectStore) -> None:
        assert store.put("logs/1/0", b"hello") == 5
        assert b"".join(store.open_range("logs/1/0")) == b"hello"
        assert store.size("logs/1/0") == 5

    def test_put_blocks_are_one_object(self, store: ObjectStore) -> None:
        assert store.put("key", iter([b"he", b"", b"llo"])) == 5
        assert b"".join(store.open_range("key")) == b"hello"

    def test_put_again_replaces(self, store: ObjectStore) -> None:
        store.put("key", b"first")
        store.put("key", b"second")
        assert b"".join(store.open_range("key")) == b"second"

    def test_open_reader_keeps_what_it_opened(self, store: ObjectStore) -> None:
        store.put("key", b"a" * (2 * BLOCK_BYTES))
        reader = store.open_range("key")
        first = next(iter(reader))
        store.put("key", b"b" * (2 * BLOCK_BYTES))
        assert first + b"".join(reader) == b"a" * (2 * BLOCK_BYTES)

    def test_failing_source_stores_nothing(self, store: ObjectStore) -> None:
        def blocks() -> Iterator[bytes]:
            yield b"half"
            raise RuntimeError("source broke")

        store.put("key", b"old")
        with pytest.raises(RuntimeError, match="source broke"):
            store.put("key", blocks())
        assert b"".join(store.open_range("key")) == b"old"

    @pytest.mark.parametrize(
        "start", [0, 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES, 1 << 40]
    )
    def test_open_range_begins_at_start(self, store: ObjectStore, start: int) -> None:
        data = bytes(range(256)) * (BLOCK_BYTES // 128)
        store.put("key", data)
        blocks = list(store.open_range("key", start))
        assert b"".join(blocks) == data[start:]
        assert all(0 < len(block) <= BLOCK_BYTES for block in blocks)

    def test_empty_object_is_an_object(self, store: ObjectStore) -> None:
        store.put("key", b"")
        assert list(store.open_range("key")) == []
        assert store.size("key") == 0

    def test_absent_object_is_missing_at_once(self, store: ObjectStore) -> None:
        with pytest.raises(ObjectMissing):
            store.open_range("absent")
        with pytest.raises(ObjectMissing):
            store.size("absent")

    def test_delete_twice_is_fine(self, store: ObjectStore) -> None:
        store.put("key", b"x")
        store.delete("key")
        store.delete("key")
        with pytest.raises(ObjectMissing):
            store.size("key")

    def test_key_may_be_prefix_of_another(self, store: ObjectStore) -> None:
        store.put("a", b"1")
        store.put("a/b", b"2")
        assert b"".join(store.open_range("a")) == b"1"
        assert b"".join(store.open_range("a/b")) == b"2"

    @pytest.mark.parametrize("key", UNSAFE)
    def test_unsafe_key_is_refused(self, store: ObjectStore, key: str) -> None:
        for use in (lambda: store.put(key, b""), lambda: store.open_range(key)):
            with pytest.raises(ValueError, match="not a safe object key"):
                use()


class TestLocalStore(ObjectStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ObjectStore:
        return LocalStore(tmp_path / "objects")

    def test_files_are_private_and_no_draft_is_left(self, tmp_path: Path) -> None:
        directory = tmp_path / "objects"
        LocalStore(directory).put("logs/1", b"x")
        (file,) = [path for path in directory.rglob("*") if path.is_file()]
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700

    def test_longest_key_fits(self, store: ObjectStore) -> None:
        key = "a" * 127 + "/" + "b" * 128
        store.put(key, b"x")
        assert store.size(key) == 1
