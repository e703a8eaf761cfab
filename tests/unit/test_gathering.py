"""How long busy loops gather, and when a shim looks at its node's lease."""

from pathlib import Path

import pytest

from clouds.loops import GATHER_MAXIMUM_S, GATHER_S, gathering_s
from worker.files import boottime
from worker.lease import Lease, LeaseFile, make_lease


@pytest.fixture
def path(tmp_path: Path) -> Path:
    make_lease(tmp_path / "lease")
    return tmp_path / "lease"


def renew(path: Path, *, left_s: float) -> None:
    Lease(path, lease_s=0.0).renew(sent_at=boottime() + left_s)


def test_a_round_gathers_longer_the_more_the_last_one_had_up_to_a_bound() -> None:
    pauses = [gathering_s(count) for count in (0, 1, 10, 1000, 10_000)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (GATHER_S, GATHER_MAXIMUM_S)


def test_lease_is_not_read_again_while_it_lasts(path: Path) -> None:
    lease = LeaseFile()
    renew(path, left_s=600)
    deadline = lease.deadline(path)
    assert deadline > boottime()
    renew(path, left_s=1200)
    assert lease.deadline(path) == deadline


def test_lease_that_seems_over_is_read_again(path: Path) -> None:
    lease = LeaseFile()
    renew(path, left_s=-1)
    assert lease.deadline(path) < boottime()
    renew(path, left_s=600)
    assert lease.deadline(path) > boottime()


def test_lease_that_is_not_there_is_over(tmp_path: Path) -> None:
    assert LeaseFile().deadline(tmp_path / "none") == 0.0
