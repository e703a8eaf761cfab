"""What tests with a real database and Redis share."""

from collections.abc import Iterator

import pytest

from tests.integration import plain_node


@pytest.fixture(autouse=True)
def _close_nodes() -> Iterator[None]:
    """Nodes of a test do not keep their connections after it."""
    yield
    while plain_node.OPEN:
        plain_node.OPEN.pop().close()
