"""Why a workflow document is refused: the sentences, upstream's where it has one, and their pointers. Pure."""

import json
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from jobs.refusals import MAXIMUM_PROBLEMS, SHOWN_CHARACTERS, pointer
from prominence.errors import Problem

Path = tuple[str | int, ...]

_WHERE = {
    0: "workflow description",
    "policies": "policies",
    "factories": "factory",
    "parameters": "parameter",
}
_MISSING = {
    "jobs": "a workflow must contain jobs",
    "parameters": "a factory of this type must contain parameters",
    "values": "each parameter of a zip must contain values",
    "number": "a repeat must contain a number",
    "rows": "a table must contain rows, or the name of a CSV file",
}
_ALLOWED = {
    "name": "a text",
    "jobs": "a list of JSON objects",
    "labels": "a JSON object of texts",
    "dependencies": "a JSON object of lists of job names",
    "factory": "a JSON object",
    "factories": "a list of JSON objects",
    "policies": "a JSON object",
    "type": "a text",
    "parameters": "a list of JSON objects",
    "start": "a number",
    "end": "a number",
    "step": "a number",
    "values": "a list of numbers and texts",
    "number": "a whole number from 1",
    "rows": "a list of JSON objects",
    "file": "a text",
    "maximumRetries": "a whole number from 0 to 100",
    "maximumReruns": "a whole number from 0 to 100",
    "leaveInQueue": "true or false",
}


def problem(path: Iterable[str | int], code: str, message: str) -> Problem:
    return {"pointer": pointer(path), "code": code, "message": message}


def problems_of(error: ValidationError, at: Path = ()) -> list[Problem]:
    """What pydantic found below `at`, in our words."""
    found = error.errors(include_url=False)[:MAXIMUM_PROBLEMS]
    return [_translated(dict(item), at) for item in found]


def below(path: Path, problems: Iterable[Problem]) -> list[Problem]:
    """Problems of a part, as problems of the whole."""
    prefix = pointer(path)
    return [{**found, "pointer": prefix + found["pointer"]} for found in problems]


def shown(value: object) -> str:
    """A short form of what was given."""
    if isinstance(value, dict | list | tuple):
        return "a list" if isinstance(value, list | tuple) else "an object"
    text = json.dumps(value, default=str)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"


def _translated(item: dict[str, Any], at: Path) -> Problem:
    path: Path = (*at, *(part for part in item["loc"] if part != "[key]"))
    text = item.get("ctx", {}).get("text")
    if text is not None:
        return problem(path, item["type"], text)
    kind, last = item["type"], path[-1] if path else ""
    if kind == "extra_forbidden":
        name = str(last)[:SHOWN_CHARACTERS]
        return problem(path, "unknown", f'invalid item "{name}" in {_container(path)}')
    if kind == "missing":
        message = _MISSING.get(str(last), f'"{last}" is required')
        return problem(path, "missing", message)
    code = "range" if kind.startswith(("greater_than", "less_than")) else "type"
    return problem(path, code, f"{_rule(path)}, not {shown(item['input'])}")


def _container(path: Path) -> str:
    names = [part for part in path[:-1] if isinstance(part, str)]
    return _WHERE.get(names[-1], names[-1]) if names else _WHERE[0]


def _rule(path: Path) -> str:
    """What is allowed at `path`, as the begin of a sentence."""
    if not path:
        return "a workflow must be a JSON object"
    names = [part for part in path if isinstance(part, str)]
    if names[0] == "labels" and len(path) > 1:
        return "a label value must be a text"
    if names[0] == "dependencies" and len(path) > 1:
        return "the children of a job must be a list of job names"
    if isinstance(path[-1], int):
        return f"each of {names[-1]} must be {'a text' if names[-1] == 'jobs' else 'a JSON object'}"
    return f'"{path[-1]}" must be {_ALLOWED.get(path[-1], "something else")}'
