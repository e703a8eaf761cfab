"""The shape of the house: which way imports point, where code may be, how long a file may get."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent.parent
ROOMS = ("prominence", "jobs", "workflows", "clouds", "worker")
FILE_LINES = 400
# What each room may import of the others; `prominence` wires the rooms together in its edges only (below).
ALLOWED = {
    "jobs": {"prominence", "worker.protocol"},
    "workflows": {"prominence", "jobs", "worker.protocol"},
    "clouds": {"prominence", "jobs", "worker.protocol"},
    "worker": set(),
    "prominence": {"worker.protocol"},
    "prominence.client": set(),
}
EDGES = {"prominence.urls", "prominence.admin", "prominence.management", "prominence.asgi"}
EDGE_ROOMS = {"jobs", "workflows", "clouds"}
# Within an app, a module may import only what is further left (edges -> services -> models -> states).
ORDER = ("states", "models", "services", "serializers", "views", "urls")
FORBIDDEN_NAMES = {"utils", "helpers", "common", "misc"}


@dataclass(frozen=True)
class Import:
    """One import statement: `importer` and `target` are dotted names."""

    importer: str
    target: str


def modules() -> Iterator[Path]:
    for room in ROOMS:
        for path in sorted((PROJECT / room).rglob("*.py")):
            if "migrations" not in path.parts:
                yield path


def dotted(path: Path) -> str:
    parts = path.relative_to(PROJECT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports() -> Iterator[Import]:
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (Import(dotted(path), alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                # `from jobs import states` imports jobs.states.
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    is_module = (PROJECT / full.replace(".", "/")).with_suffix(".py").exists()
                    yield Import(dotted(path), full if is_module else node.module)


def is_within(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def may_import(importer: str, target: str) -> bool:
    if any(is_within(importer, edge) for edge in EDGES) and target.split(".")[0] in EDGE_ROOMS:
        return True
    room = (
        "prominence.client" if is_within(importer, "prominence.client") else importer.split(".")[0]
    )
    return is_within(target, room) or any(is_within(target, other) for other in ALLOWED[room])


def test_imports_between_rooms_point_one_way() -> None:
    wrong = [
        f"{found.importer} imports {found.target}"
        for found in imports()
        if found.target.split(".")[0] in ROOMS and not may_import(found.importer, found.target)
    ]
    assert not wrong


def test_imports_within_an_app_point_from_edges_to_states() -> None:
    wrong = []
    for found in imports():
        room, _, module = found.importer.partition(".")
        target_room, _, target = found.target.partition(".")
        known = room == target_room and module in ORDER and target in ORDER
        if known and ORDER.index(target) > ORDER.index(module):
            wrong.append(f"{found.importer} imports {found.target}")
    assert not wrong


def test_the_worker_imports_no_django() -> None:
    wrong = [
        f"{found.importer} imports {found.target}"
        for found in imports()
        if is_within(found.importer, "worker") or is_within(found.importer, "prominence.client")
        if is_within(found.target, "django") or is_within(found.target, "rest_framework")
    ]
    assert not wrong


@pytest.mark.parametrize("library", ["openstack"])
def test_a_vendor_library_has_one_importer(library: str) -> None:
    importers = {found.importer for found in imports() if is_within(found.target, library)}
    assert len(importers) <= 1


def test_packages_hold_no_code_in_their_init() -> None:
    """A docstring is none; the lazy re-export of the public client is the one exception."""
    wrong = []
    for path in modules():
        if path.name == "__init__.py" and path.parent != PROJECT / "prominence":
            body = ast.parse(path.read_text()).body
            if [node for node in body if not isinstance(node, ast.Expr)]:
                wrong.append(dotted(path))
    assert not wrong


def test_files_are_short() -> None:
    long = {dotted(path): n for path in modules() if (n := _lines(path)) > FILE_LINES}
    assert not long


def test_no_module_is_named_after_nothing() -> None:
    assert not [path for path in modules() if path.stem in FORBIDDEN_NAMES]


def test_every_module_says_what_it_owns() -> None:
    silent = [
        dotted(path)
        for path in modules()
        if path.name not in {"__init__.py", "apps.py"}
        and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent


def test_the_rules_themselves_refuse_a_wrong_arrow() -> None:
    assert not may_import("jobs.services", "clouds.models")
    assert not may_import("jobs.services", "worker.runtimes.base")
    assert not may_import("worker.images", "jobs.states")
    assert may_import("clouds.scheduler", "jobs.states")
    assert may_import("jobs.spec", "worker.protocol")


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines())
