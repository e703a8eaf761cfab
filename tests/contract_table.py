"""docs/contract.md: which test proves which row of the contract. `make contract` writes it, a unit test holds it true.

Reads the tests' source instead of running them, so that one room's tests can be run alone.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.contract_rows import COMMANDS, OPENID, ROWS, WAITING, WORKFLOWS

TESTS = Path(__file__).resolve().parent
TABLE = TESTS.parent / "docs" / "contract.md"
MARK = "contract"
SHOWN = 4
_SUFFIX = re.compile(r"(?:_[scuwxd]\d+[a-z]?)+$")
_NUMBER = re.compile(r"[SCUWXD]\d+[a-z]?")

HEAD = f"""# The contract, and the tests that prove it

Made by `make contract` from the tests; a test fails when this page is stale or a row has no test. The numbers are
those of the project's reading of the user guide; tests carry them as `pytest.mark.contract("S91")` or at the end of
their names (`…_s91`).

Not here: S40-S65 and S155-S160 (printed texts and Python calls: {COMMANDS}), S43-S46 ({OPENID}),
S125-S142 ({WORKFLOWS}).

| row | what | shown by |
|---|---|---|
"""


def proofs() -> dict[str, list[str]]:
    """Names of the tests, `module::function`, by the numbers they carry."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        tree = ast.parse(path.read_text())
        for function in _functions(tree):
            name = f"{path.relative_to(TESTS)}::{function.name}"
            for number in sorted(set(_numbers_of(function))):
                found.setdefault(number, []).append(name)
    return found


def missing(found: dict[str, list[str]]) -> list[str]:
    """Rows that neither a test proves nor later work is named for."""
    return [number for number in ROWS if number not in found and number not in WAITING]


def render(found: dict[str, list[str]]) -> str:
    """The page."""
    return HEAD + "".join(
        f"| {number} | {what} | {_cell(number, found)} |\n" for number, what in ROWS.items()
    )


def _cell(number: str, found: dict[str, list[str]]) -> str:
    names = found.get(number, [])
    shown = [f"`{name}`" for name in names[:SHOWN]]
    if len(names) > SHOWN:
        shown.append(f"{len(names) - SHOWN} more")
    if number in WAITING:
        shown.append(f"waits for: {WAITING[number]}")
    return "<br>".join(shown) or "**no test yet**"


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node


def _numbers_of(function: ast.FunctionDef) -> Iterator[str]:
    suffix = _SUFFIX.search(function.name)
    if suffix:
        for part in suffix[0].strip("_").split("_"):
            yield part[0].upper() + part[1:]
    for decorator in function.decorator_list:
        for node in ast.walk(decorator):
            if isinstance(node, ast.Call) and _is_mark(node.func):
                yield from (number for number in map(_text, node.args) if number)


def _is_mark(function: ast.expr) -> bool:
    return isinstance(function, ast.Attribute) and function.attr == MARK


def _text(argument: ast.expr) -> str:
    """The number given; anything else is a mistake in a test."""
    assert isinstance(argument, ast.Constant), ast.dump(argument)
    assert _NUMBER.fullmatch(str(argument.value)), argument.value
    return str(argument.value)


if __name__ == "__main__":
    TABLE.write_text(render(proofs()))
