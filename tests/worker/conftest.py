"""Fixtures of the node's tests: the other side and a machine, both real processes and sockets."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.machine import Machine
from tests.worker.other_side import OtherSide


@pytest.fixture
def side(tmp_path: Path) -> Iterator[OtherSide]:
    """The other side, started."""
    server = OtherSide(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def machine(side: OtherSide) -> Iterator[Machine]:
    """A node, not started."""
    node = Machine(side)
    yield node
    node.stop()
