"""Stored pieces and reading by offset: every byte once, whatever moves meanwhile."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.models import Output
from jobs.objects import object_store
from jobs.output import (
    INLINE_BYTES,
    LogReader,
    NoOutput,
    log_of,
    log_state,
    read_output,
    store_piece,
    stored_end,
)
from jobs.states import Reason
from prominence.bus import server_redis
from tests.follow.scene import Scene, Writer

LARGE = bytes(range(256)) * 64  # 16 KB: an object


def read(scene: Scene, offset: int = 0, stream: str = "stdout") -> bytes:
    return b"".join(read_output(job=scene.job, stream=stream, rank=0, offset=offset))


@dataclass(frozen=True)
class MovingRedis:
    """A client on which something happens just before a reader looks."""

    before: Callable[[], None]

    def xrange(self, *args: Any, **kwargs: Any) -> Any:
        self.before()
        return server_redis().xrange(*args, **kwargs)


def test_job_that_never_started_has_no_output(scene: Scene) -> None:
    with pytest.raises(NoOutput, match="stdout does not exist"):
        read_output(job=scene.job, stream="stdout", rank=0, offset=0)
    scene.open()
    with pytest.raises(NoOutput, match="stderr does not exist"):
        read_output(job=scene.job, stream="stderr", rank=0, offset=0)


def test_started_job_without_output_has_empty_output(scene: Scene) -> None:
    scene.run()
    assert read(scene) == b""


def test_unknown_rank_has_no_output(scene: Scene) -> None:
    scene.run()
    with pytest.raises(NoOutput):
        read_output(job=scene.job, stream="stdout", rank=1, offset=0)


def test_new_attempt_hides_the_output_of_the_last(scene: Scene) -> None:
    scene.run().stdout.write(b"first")
    scene.end(Reason.NODE_LOST)
    assert read(scene) == b"first"
    scene.open()
    assert read(scene) == b""


@pytest.mark.parametrize("offset", [0, 1, 4999, 5000, 20_000, 41_383, 41_384, 50_000, 1 << 70])
def test_read_begins_at_offset_across_inline_object_and_fresh(scene: Scene, offset: int) -> None:
    scene.run()
    writer = scene.stdout
    for data in (b"a" * 5000, LARGE, LARGE, b"tail"):
        writer.write(data)
        if data != b"tail":
            writer.store()
    writer.write(b"\n")
    assert read(scene, offset) == bytes(writer.written)[offset:]
    scene.end()
    assert read(scene, offset) == bytes(writer.written)[offset:]


def test_piece_that_moves_while_it_is_read_is_not_lost(scene: Scene) -> None:
    scene.run().stdout.write(b"moving")
    reader = LogReader(_log(scene), client=MovingRedis(scene.stdout.store))  # type: ignore[arg-type]
    assert reader.read(0, live=True) == b"moving"


def test_end_while_it_is_read_loses_nothing(scene: Scene) -> None:
    scene.run().stdout.write(b"one ")
    chunks = read_output(job=scene.job, stream="stdout", rank=0, offset=0)
    first = next(chunks)
    scene.stdout.write(LARGE)
    scene.stdout.store()
    scene.stdout.write(b"two")
    scene.end()
    assert first + b"".join(chunks) == b"one " + LARGE + b"two"


def test_store_piece_twice_changes_nothing_and_longer_replaces(scene: Scene) -> None:
    address = scene.run().stdout.address
    for data in (LARGE, LARGE[:100], LARGE, LARGE + LARGE, LARGE):
        store_piece(start=0, data=data, **address)
    (piece,) = Output.objects.all()
    assert piece.size == len(LARGE + LARGE)
    assert b"".join(object_store().open_range(piece.key)) == LARGE + LARGE
    assert len(list(object_store()._directory.rglob(f"*,{scene.job.pk},*"))) == 1


def test_store_piece_inside_a_transaction_is_undone_with_it(scene: Scene) -> None:
    address = scene.run().stdout.address
    with transaction.atomic():
        store_piece(start=0, data=b"x", **address)
        transaction.set_rollback(True)
    assert not Output.objects.exists()


@pytest.mark.parametrize(("size", "inline"), [(INLINE_BYTES, True), (INLINE_BYTES + 1, False)])
def test_small_pieces_are_inline(scene: Scene, size: int, inline: bool) -> None:
    store_piece(start=0, data=b"x" * size, **scene.run().stdout.address)
    piece = Output.objects.get()
    assert (piece.data is not None, piece.key == "") == (inline, inline)


def test_stored_end_stops_at_the_first_hole(scene: Scene) -> None:
    address = scene.run().stdout.address
    assert stored_end(**address) == 0
    for start, size in ((5, 5), (0, 4), (20, 1), (2, 6)):
        store_piece(start=start, data=b"x" * size, **address)
    assert stored_end(**address) == 10


def test_log_state_follows_the_attempt(scene: Scene) -> None:
    scene.run().stdout.write(b"12345")
    state = log_state(job=scene.job, stream="stdout", rank=0)
    assert (state.size, state.complete, state.live) == (5, True, True)
    scene.stdout.store(3)
    scene.end(Reason.WALLTIME, complete=False, tails=False)
    state = log_state(job=scene.job, stream="stdout", rank=0)
    assert (state.size, state.complete, state.live) == (3, False, False)


_steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.binary(max_size=40)),
        st.tuples(st.just("store"), st.integers(0, 100)),
        st.tuples(st.just("again"), st.integers(0, 100)),
        st.tuples(st.just("read"), st.integers(1, 64)),
    ),
    max_size=25,
)


@dataclass
class Moves:
    """What happens to a log, one step after the other, until somebody is to read."""

    writer: Writer
    steps: Iterator[tuple[str, Any]]

    def until_read(self) -> bool:
        """Everything before the next read; False when there is none."""
        return any(not self._move(*step) for step in self.steps)

    def next(self) -> None:
        """One step, between two looks of a reader."""
        for step in self.steps:
            self._move(*step)
            return

    def _move(self, kind: str, value: Any) -> bool:
        writer = self.writer
        if kind == "write":
            writer.write(value)
        elif kind == "store":
            writer.store(writer.stored + (len(writer.written) - writer.stored) * value // 100)
        elif kind == "again":  # a segment that is sent twice, with another border
            writer.store(start=writer.stored * value // 100)
        return kind != "read"


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=_steps)
def test_any_interleaving_is_read_exactly(owner: User, steps: list[tuple[str, Any]]) -> None:
    """A reader that comes back between any two moves, at where it was, has every byte once, in order."""
    scene = Scene(owner).run()
    written, got = scene.stdout.written, bytearray()
    moves = Moves(scene.stdout, iter(steps))
    reader = LogReader(_log(scene), client=MovingRedis(moves.next))  # type: ignore[arg-type]
    while moves.until_read():
        got += reader.read(len(got), live=True, limit=7)
        assert written.startswith(got)
    assert got + read(scene, len(got)) == written
    scene.end()
    assert got + read(scene, len(got)) == written


def _log(scene: Scene) -> Any:
    placement = scene.job.attempts.get(number=scene.job.attempt).placements.get()
    return log_of(placement, job_id=scene.job.pk, attempt=scene.job.attempt, stream="stdout")
