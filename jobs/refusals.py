"""Why a job document is refused: unknown and not yet available keys, and texts for what pydantic finds.

Owns the sentences (kept from upstream where it has one, U23 and the validation messages) and the pointers. Pure.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError

from prominence.errors import InvalidDocument, Problem

MAXIMUM_PROBLEMS = 100
SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Keys of one kind of object. `later`: known to the guide or to today's clients, but not built yet.
    `optional`: forgotten when they are empty or null, as clients send for "not asked for".
    """

    refusal: str
    known: frozenset[str]
    later: frozenset[str] = field(default_factory=frozenset)
    optional: frozenset[str] = field(default_factory=frozenset)


JOB = Section(
    refusal='invalid item "{}" in job description',
    known=frozenset(
        {
            *("name", "resources", "labels", "tasks", "inputs", "policies", "placement"),
            *("artifacts", "outputFiles", "outputDirs", "notifications"),
        }
    ),
    later=frozenset(
        {
            "storage",
            *("jobs", "factory", "factories", "dependencies"),
        }
    ),
    optional=frozenset({"artifacts", "outputFiles", "outputDirs"}),
)
RESOURCES = Section(
    refusal='invalid item "{}" in resources',
    known=frozenset({"nodes", "cpus", "memory", "disk", "walltime"}),
    later=frozenset({"cpusRange", "cpusOptions", "totalCpusRange", "memoryPerCpu"}),
)
TASK = Section(
    refusal='invalid item "{}" in task',
    known=frozenset(
        {
            *("image", "runtime", "cmd", "args", "env", "workdir", "type", "app"),
            "imagePullCredential",
        }
    ),
    later=frozenset({"stdout", "procsPerNode", "imageSha256"}),
    optional=frozenset({"app", "stdout"}),
)
INPUT = Section(
    refusal="invalid item {} in input", known=frozenset({"filename", "content", "executable"})
)
NOTIFICATION = Section(
    refusal='invalid item "{}" in notifications',
    known=frozenset({"event", "type", "url", "secret"}),
)
ARTIFACT = Section(
    refusal="invalid item {} in artifact", known=frozenset({"url", "mountpoint", "executable"})
)
POLICIES = Section(
    refusal='invalid item "{}" in policies',
    known=frozenset(
        {
            *("maximumRetries", "maximumTaskRetries", "maximumTimeInQueue", "leaveInQueue"),
            *("priority", "preemptible", "placement", "ignoreTaskFailures", "ignoreTaskTailures"),
            *("reportJobSuccessOnTaskFailure", "runSerialTasksOnAllNodes", "autoScalingType"),
            "maximumIdleTimePerResource",
        }
    ),
    later=frozenset({"maximumReruns", "retryMemoryFactor"}),
)
PLACEMENT = Section(
    refusal='invalid item "{}" in placement policy',
    known=frozenset({"requirements", "preferences"}),
)
PLACES = {
    part: Section(refusal=f'invalid item "{{}}" in {part}', known=frozenset({"sites", "regions"}))
    for part in ("requirements", "preferences")
}

_MISSING = {
    "tasks": "a job must contain tasks",
    "image": "each task must specify a container image",
    "filename": "each input must specify a filename",
    "content": "each input must specify its content",
    "event": "each notification must specify an event",
    "url": "each artifact must specify a url",
}
# What is allowed, for the errors that pydantic finds by itself: wrong types and numbers out of range.
_ALLOWED = {
    "name": "a text",
    "resources": "a JSON object",
    "nodes": "a whole number from 1",
    "cpus": "a whole number from 1 to 1024",
    "memory": "a number of GB from 0.001 to 32768",
    "disk": "a whole number of GB from 1 to 1000000",
    "walltime": "a number of minutes above 0 and at most 10080",
    "labels": "a JSON object of texts",
    "tasks": "a list of JSON objects",
    "image": "a text",
    "runtime": "a text",
    "cmd": "a text",
    "args": "a text or a list of texts",
    "env": "a JSON object of texts or numbers",
    "workdir": "a text",
    "type": "a text",
    "inputs": "a list of JSON objects",
    "filename": "a text",
    "content": "a text in base64",
    "executable": "true or false",
    "policies": "a JSON object",
    "maximumRetries": "a whole number from 0 to 100",
    "maximumTaskRetries": "a whole number from 0 to 100",
    "maximumTimeInQueue": "a whole number of minutes from -1 to 525600",
    "leaveInQueue": "true or false",
    "priority": "a whole number from -1000000 to 1000000",
    "ignoreTaskFailures": "true or false",
    "ignoreTaskTailures": "true or false",
    "reportJobSuccessOnTaskFailure": "true or false",
    "runSerialTasksOnAllNodes": "true or false",
    "autoScalingType": 'null, "none", "dedicated" or "shared"',
    "maximumIdleTimePerResource": "a whole number of minutes from 0 to 525600",
    "preemptible": "true or false",
    "placement": "a JSON object",
    "notifications": "a list of JSON objects",
    "event": '"jobFinished"',
    "requirements": "a JSON object",
    "preferences": "a JSON object",
    "sites": "a list of texts",
    "regions": "a list of texts",
    "retryMemoryFactor": "a number above 1 and at most 10",
    "artifacts": "a list of JSON objects",
    "url": "a text",
    "mountpoint": "a text",
    "outputFiles": "a list of texts",
    "outputDirs": "a list of texts",
    "app": "a name of letters, digits and . _ -, at most 128 characters",
    "stdout": "a text",
}
_ITEM_ALLOWED = {
    "labels": "a label value must be a text",
    "env": "the value of an environment variable must be a text or a number",
    "args": "each of args must be a text",
    "tasks": "each task must be a JSON object",
    "inputs": "each input must be a JSON object",
    "notifications": "each notification must be a JSON object",
    "sites": "the name of a site must be a text",
    "regions": "the name of a region must be a text",
    "artifacts": "each artifact must be a JSON object",
    "outputFiles": "the name of an output file must be a text",
    "outputDirs": "the name of an output directory must be a text",
}


def screen(document: object) -> tuple[dict[str, Any], list[Problem]]:
    """The parts of `document` that models know, and problems with all other keys.

    A key that is not available yet is dropped when its value means nothing (absent by another name).

    Raises:
        InvalidDocument: `document` is no object at all.
    """
    if not isinstance(document, dict):
        message = f"a job must be a JSON object, not {_shown(document)}"
        raise InvalidDocument([_problem((), "type", message)])
    problems: list[Problem] = []
    job = _screen_object(JOB, document, (), problems)
    for key, section in (("resources", RESOURCES), ("policies", POLICIES)):
        if key in job:
            job[key] = _screen_object(section, job[key], (key,), problems)
    _screen_placements(job, problems)
    for key, section in (
        *(("tasks", TASK), ("inputs", INPUT)),
        *(("artifacts", ARTIFACT), ("notifications", NOTIFICATION)),
    ):
        if isinstance(job.get(key), list):
            job[key] = [
                _screen_object(section, item, (key, index), problems)
                for index, item in enumerate(job[key])
            ]
    problems += _same_names(job)
    return job, problems[:MAXIMUM_PROBLEMS]


def problems_of(error: ValidationError) -> list[Problem]:
    """What pydantic found, in our words."""
    found = error.errors(include_url=False)[:MAXIMUM_PROBLEMS]
    return [_translated(dict(item)) for item in found]


def pointer(path: Iterable[str | int]) -> str:
    """RFC 6901."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def _problem(path: Iterable[str | int], code: str, message: str) -> Problem:
    return {"pointer": pointer(path), "code": code, "message": message}


def _screen_object(
    section: Section, value: Any, path: tuple[str | int, ...], problems: list[Problem]
) -> Any:
    if not isinstance(value, dict):
        return value
    for key in value:
        if key in section.known or len(problems) >= MAXIMUM_PROBLEMS:
            continue
        if key not in section.later:
            allowed = ", ".join(sorted(section.known))
            message = f"{section.refusal.format(str(key)[:SHOWN_CHARACTERS])} (allowed: {allowed})"
            problems.append(_problem((*path, key), "unknown", message))
        elif not _means_nothing(value[key]):
            message = f'"{key}" is not available yet'
            problems.append(_problem((*path, key), "notAvailable", message))
    return {
        key: item
        for key, item in value.items()
        if key in section.known and not (key in section.optional and item in (None, "", []))
    }


def _screen_placements(job: dict[str, Any], problems: list[Problem]) -> None:
    """The placement policy, where the guide has it or on top (C47); twice is too often."""
    policies = job.get("policies")
    owners: list[tuple[Any, tuple[str | int, ...]]] = [(job, ()), (policies, ("policies",))]
    given = [(owner, path) for owner, path in owners if _has_placement(owner)]
    for owner, path in given:
        place = (*path, "placement")
        placement = _screen_object(PLACEMENT, owner["placement"], place, problems)
        owner["placement"] = placement
        for part in PLACES.keys() & (placement if isinstance(placement, dict) else {}).keys():
            placement[part] = _screen_object(
                PLACES[part], placement[part], (*place, part), problems
            )
    if len(given) > 1:
        message = '"placement" is given twice, in policies as well'
        problems.append(_problem(("placement",), "duplicate", message))


def _has_placement(owner: object) -> bool:
    return isinstance(owner, dict) and "placement" in owner


def _means_nothing(value: object, depth: int = 0) -> bool:
    """Null, zero, false, empty, or an object of only those: what clients send for "not asked for"."""
    if depth > 4:
        return False
    if isinstance(value, dict):
        return all(_means_nothing(item, depth + 1) for item in value.values())
    return not value


def _same_names(job: Mapping[str, Any]) -> list[Problem]:
    """Input files and artifacts that would overwrite each other in the job's directory (C48)."""
    problems: list[Problem] = []
    seen: set[str] = set()
    for section, key, path in (("inputs", "filename", str), ("artifacts", "url", _path_of)):
        items = job.get(section)
        for index, item in enumerate(items if isinstance(items, list) else ()):
            text = item.get(key) if isinstance(item, Mapping) else None
            if not isinstance(text, str):
                continue
            name = path(text).rsplit("/", 1)[-1]
            if name in seen:
                what = "input file name" if section == "inputs" else "artifact name"
                message = f"{what} {_shown(name)} is used more than once"
                problems.append(_problem((section, index, key), "duplicate", message))
            seen.add(name)
    return problems


def _path_of(url: str) -> str:
    try:
        return unquote(urlsplit(url).path)
    except ValueError:
        return url


def _translated(item: dict[str, Any]) -> Problem:
    path = tuple(part for part in item["loc"] if part != "[key]")
    text = item.get("ctx", {}).get("text")
    if text is not None:
        return _problem(path, item["type"], text)
    kind = item["type"]
    if kind == "missing":
        key = str(path[-1])
        if path[0] == "notifications" and key == "type":
            return _problem(path, "missing", "each notification must specify a type")
        return _problem(path, "missing", _MISSING.get(key, f'"{key}" is required'))
    if kind == "extra_forbidden":
        return _problem(path, "unknown", f'invalid item "{str(path[-1])[:SHOWN_CHARACTERS]}"')
    code = "range" if kind.startswith(("greater_than", "less_than")) else "type"
    return _problem(path, code, f"{_rule(path)}, not {_shown(item['input'])}")


def _rule(path: tuple[str | int, ...]) -> str:
    """What is allowed at `path`, as the begin of a sentence."""
    for container in ("labels", "env", "args"):
        if container in path[:-1]:
            return _ITEM_ALLOWED[container]
    if isinstance(path[-1], int):
        return _ITEM_ALLOWED[str(path[-2])]
    if path[0] == "notifications" and path[-1] == "type":
        return '"type" must be "email" or "webhook"'
    return f'"{path[-1]}" must be {_ALLOWED[path[-1]]}'


def _shown(value: object) -> str:
    """A short form of what was given."""
    if isinstance(value, dict | list | tuple):
        return "a list" if isinstance(value, list | tuple) else "an object"
    text = json.dumps(value, default=str)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
