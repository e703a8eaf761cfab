"""Admission and blocks of uids: first come first served, nothing overcommitted, nothing shared."""

import os
import threading
from pathlib import Path

import pytest

from tests.wait import wait_until
from worker import blocks, tree
from worker.protocol import Capacity
from worker.slots import Admission, Need, Slot, TooLarge


def need(cpus: int) -> Need:
    return Need(cpus=cpus, memory_mb=1, disk_mb=1)


@pytest.fixture
def admission() -> Admission:
    return Admission(Capacity(cpus=4, memory_mb=100, disk_mb=100), slots=4)


def wanted() -> bool:
    return True


def in_thread(admission: Admission, cpus: int, entered: list[Slot]) -> threading.Thread:
    def enter() -> None:
        slot = admission.enter(need(cpus), wanted=wanted)
        assert slot is not None
        entered.append(slot)

    thread = threading.Thread(target=enter, daemon=True)
    thread.start()
    return thread


def test_what_never_fits_is_refused(admission: Admission) -> None:
    with pytest.raises(TooLarge, match="it needs 5 CPUs"):
        admission.enter(need(5), wanted=wanted)


def test_small_one_does_not_overtake_a_large_one(admission: Admission) -> None:
    first = admission.enter(need(3), wanted=wanted)
    assert first is not None
    entered: list[Slot] = []
    large = in_thread(admission, 4, entered)
    wait_until(lambda: len(admission._line) == 1)
    small = in_thread(admission, 1, entered)
    wait_until(lambda: len(admission._line) == 2)
    assert entered == []
    admission.leave(first)
    large.join(10)
    assert [slot.need.cpus for slot in entered] == [4]
    admission.leave(entered[0])
    small.join(10)
    assert len(entered) == 2


def test_unwanted_one_leaves_the_line(admission: Admission) -> None:
    first = admission.enter(need(4), wanted=wanted)
    assert first is not None
    assert admission.enter(need(1), wanted=lambda: False) is None
    admission.leave(first)
    assert admission.enter(need(4), wanted=wanted) is not None


def test_slots_in_use_have_different_numbers(admission: Admission) -> None:
    adopted = admission.adopt(2, need(1))
    others = [admission.enter(need(1), wanted=wanted) for _ in range(3)]
    assert {adopted.number, *(slot.number for slot in others if slot)} == {0, 1, 2, 3}


def test_two_nodes_get_different_blocks(tmp_path: Path) -> None:
    one = blocks.reserve(Path("/one"), slots=4, place=tmp_path)
    two = blocks.reserve(Path("/two"), slots=200, place=tmp_path)
    assert len(two) == 2
    assert {b.number for b in one}.isdisjoint({b.number for b in two})
    assert set(one[0].uids).isdisjoint({uid for block in two for uid in block.uids})


def test_node_finds_its_block_again_while_a_shim_holds_it(tmp_path: Path) -> None:
    before = blocks.reserve(Path("/one"), slots=4, place=tmp_path)
    kept = os.dup(before[0].descriptor)
    os.close(before[0].descriptor)
    assert blocks.reserve(Path("/two"), slots=4, place=tmp_path)[0].number != before[0].number
    assert blocks.reserve(Path("/one"), slots=4, place=tmp_path)[0].number == before[0].number
    os.close(kept)


def test_block_nobody_holds_goes_to_the_next(tmp_path: Path) -> None:
    one = blocks.reserve(Path("/one"), slots=4, place=tmp_path)
    os.close(one[0].descriptor)
    two = blocks.reserve(Path("/two"), slots=4, place=tmp_path)
    assert two[0].number == one[0].number
    assert blocks.reserve(Path("/one"), slots=4, place=tmp_path)[0].number != one[0].number


@pytest.mark.parametrize("uid", [0, 1000, os.getuid(), blocks.FIRST_UID - 1, blocks.LAST_UID + 1])
def test_no_uid_but_a_slots_is_ever_swept(uid: int) -> None:
    for sweep in (tree.fork_sweeper, tree.sweep_in_place):
        with pytest.raises(ValueError, match="is not a slot's"):
            sweep(uid)
