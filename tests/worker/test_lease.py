"""The lease's file: made once with its room, written in place, never read torn; and a node on a full disk."""

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.wait import wait_until
from tests.worker.machine import Machine
from tests.worker.other_side import OtherSide, shell
from worker.ctl import Words
from worker.files import boottime
from worker.journal import Journal
from worker.lease import PLACES, SIZE, Lease, make_lease, read_deadline
from worker.protocol import AttemptKey, EndReason, Word
from worker.up import Uplink

KEY = AttemptKey(7, 1)


@pytest.fixture
def lease(tmp_path: Path) -> Lease:
    make_lease(tmp_path / "lease")
    return Lease(tmp_path / "lease", lease_s=60.0)


def test_no_file_and_an_empty_one_are_no_lease(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    assert read_deadline(path) == 0.0
    make_lease(path)
    assert read_deadline(path) == 0.0


def test_lease_only_moves_on(lease: Lease, tmp_path: Path) -> None:
    for sent_at in (100.0, 90.0, 110.5, 105.0):
        lease.renew(sent_at=sent_at)
    assert read_deadline(tmp_path / "lease") == 170.5
    assert Lease(tmp_path / "lease", lease_s=60.0).left_s == pytest.approx(
        170.5 - boottime(), abs=5
    )


def test_file_stays_the_same_one_and_keeps_its_size(lease: Lease, tmp_path: Path) -> None:
    before = (tmp_path / "lease").stat()
    for number in range(5):
        lease.renew(sent_at=float(number))
    after = (tmp_path / "lease").stat()
    assert (after.st_ino, after.st_size, after.st_blocks) == (
        before.st_ino, SIZE, before.st_blocks,
    )  # fmt: skip


@pytest.mark.parametrize("torn", range(14, 29))
def test_torn_record_leaves_the_one_before(lease: Lease, tmp_path: Path, torn: int) -> None:
    path = tmp_path / "lease"
    for sent_at in (100.0, 200.0):
        lease.renew(sent_at=sent_at)
    old = path.read_bytes()
    lease.renew(sent_at=300.0)
    new = path.read_bytes()
    place = PLACES[0]
    path.write_bytes(new[: place + torn] + old[place + torn :])
    assert read_deadline(path) == 260.0


def test_renewal_that_fails_changes_nothing(lease: Lease, tmp_path: Path) -> None:
    lease.renew(sent_at=100.0)
    (tmp_path / "lease").rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError):
        lease.renew(sent_at=200.0)
    (tmp_path / "away").rename(tmp_path / "lease")
    lease.renew(sent_at=200.0)
    assert read_deadline(tmp_path / "lease") == 260.0


def test_answer_renews_the_lease_though_the_journal_takes_nothing(
    lease: Lease, tmp_path: Path
) -> None:
    """As on a full disk: the word's acknowledgement cannot be recorded, its answer counts all the same."""
    journal = Journal(tmp_path / "journal.db")
    journal.void(KEY, "")
    uplink = Uplink(journal)
    number = uplink.new_beat()
    words = Words(uplink=uplink, journal=journal, lease=lease, stop=print, forget=list)
    journal.close()
    words.apply(Word(answers=number, ack=1))
    assert lease.left_s > 0


def fill(path: Path) -> None:
    """Take all the room that is left."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))


@pytest.fixture
def small_disk(machine: Machine) -> Iterator[Path]:
    """The node's data on a file system of its own. Needs root, as the set-up of the tests does."""
    room = machine.data.path
    room.mkdir(mode=0o711)
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m,mode=0711", "none", str(room)]
    subprocess.run(mount, check=True)
    yield room
    machine.stop()
    if room.is_mount():
        subprocess.run(["umount", "-l", str(room)], check=True)


def test_full_disk_for_longer_than_the_lease_ends_no_job(
    side: OtherSide, machine: Machine, small_disk: Path
) -> None:
    side.lease_s = 3.0
    machine.start()
    side.offer({KEY: shell("echo on; while [ ! -e go ]; do sleep 0.05; done; echo done")})
    wait_until(lambda: side.started(KEY) and side.live(KEY), 20, dump=machine.dump)
    full = small_disk / "full"
    fill(full)
    begin = boottime()
    wait_until(lambda: boottime() > begin + 2 * side.lease_s, 20)
    assert not side.ended(KEY), machine.dump()
    full.unlink()
    (machine.job_dir(KEY).work / "go").touch()
    ended = wait_until(lambda: side.ended(KEY), 20, dump=machine.dump)
    assert ended.reason is EndReason.FINISHED, machine.dump()
    assert side.log(KEY) == b"on\ndone\n"
