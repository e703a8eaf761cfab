"""Blocks of user ids, one id for each slot, that no two nodes of one machine share.

A block is a file in /run/prominence/slots that says whose it is, and is locked (flock, shared) by the
worker, its spawner and, by inheritance, every shim. Who holds none of these locks has nothing running,
so a block is free when the exclusive lock can be had. A node that lost its data directory finds its old
block by the path of that directory, and with it everything of earlier incarnations.
"""

import fcntl
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

FIRST_UID = 61184
"""Start of the range that systemd uses for dynamic users: ordinary accounts stay below it."""

LAST_UID = 65519
BLOCK_UIDS = 128
BLOCKS = (LAST_UID + 1 - FIRST_UID) // BLOCK_UIDS


class NoFreeBlock(Exception):
    """Other nodes of this machine hold all blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block held by this process: `descriptor` carries the lock."""

    number: int
    descriptor: int

    @property
    def puller(self) -> int:
        """The uid that unpacks images."""
        return FIRST_UID + self.number * BLOCK_UIDS

    @property
    def uids(self) -> range:
        """All of them."""
        return range(self.puller, self.puller + BLOCK_UIDS)


def is_slot_uid(uid: int) -> bool:
    """Whether a uid can belong to a job: only such processes may ever be swept."""
    return FIRST_UID <= uid <= LAST_UID


def directory() -> Path:
    """Where the locks are: one place per machine for root, one per user otherwise."""
    if os.getuid() == 0:
        return Path("/run/prominence/slots")
    return Path(tempfile.gettempdir()) / f"prominence-{os.getuid()}" / "slots"


def reserve(owner: Path, *, slots: int, place: Path | None = None) -> list[Block]:
    """Take the owner's own blocks, then free ones, until they suffice. Raises NoFreeBlock.

    All of the owner's earlier blocks are taken, even if fewer would do: something may run in them.
    """
    place = place or directory()
    place.mkdir(mode=0o711, parents=True, exist_ok=True)
    wanted = -(-(slots) // (BLOCK_UIDS - 1))
    with (place / "lock").open("w") as mutex:
        fcntl.flock(mutex, fcntl.LOCK_EX)
        held = [_hold(place, n) for n in range(BLOCKS) if _owner(place, n) == str(owner)]
        for number in range(BLOCKS):
            if len(held) >= wanted:
                break
            if number not in {block.number for block in held} and _is_free(place, number):
                held.append(_hold(place, number, owner))
    if len(held) < wanted:
        raise NoFreeBlock(f"{place}: all {BLOCKS} blocks of user ids are taken")
    return held


def _owner(place: Path, number: int) -> str:
    try:
        return (place / str(number)).read_text()
    except FileNotFoundError:
        return ""


def _is_free(place: Path, number: int) -> bool:
    """Only under the mutex: what is free stays free until it is released."""
    descriptor = os.open(place / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _hold(place: Path, number: int, owner: Path | None = None) -> Block:
    descriptor = os.open(place / str(number), os.O_RDONLY | os.O_CLOEXEC)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    if owner is not None:
        (place / str(number)).write_text(str(owner))
    return Block(number=number, descriptor=descriptor)
