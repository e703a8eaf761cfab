"""docs/contract.md says which test proves which row; it is made by `make contract`."""

from tests.contract_rows import ROWS, WAITING
from tests.contract_table import TABLE, proofs, render


def test_the_table_is_what_the_tests_say() -> None:
    assert TABLE.read_text() == render(proofs()), "stale: run `make contract`"


def test_rows_that_wait_are_rows() -> None:
    assert set(WAITING) <= set(ROWS)
