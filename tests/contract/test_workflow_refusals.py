"""Workflow documents that are refused: each a 400 with its pointer, and nothing stored (X2, X18-X26, D12)."""

import base64
from typing import Any

import pytest

from jobs.models import InputFile, Job
from tests.contract.conftest import Api
from workflows.models import Stage, ValueList, ValuePage, Workflow

TASK = {"image": "busybox"}
A, B, C = ({"name": name, "tasks": [TASK]} for name in "abc")
P = {"name": "x", "start": 0, "end": 3, "step": 1}
SWEEP = {"type": "parameterSweep", "jobs": ["a"], "parameters": [P]}
ZIP = {"type": "zip", "jobs": ["a"], "parameters": [{"name": "x", "values": [1, 2]}]}
REPEAT = {"type": "repeat", "jobs": ["a"], "number": 3}
TABLE = {"type": "table", "jobs": ["a"], "rows": [{"x": 1}]}
HUGE = 10**9


def csv_job(text: bytes) -> dict[str, Any]:
    return A | {"inputs": [{"filename": "t.csv", "content": base64.b64encode(text).decode()}]}


def flow(*jobs: Any, **changes: Any) -> dict[str, Any]:
    return {"name": "w", "jobs": list(jobs) or [A, B, C]} | changes


def factory(base: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return flow(factories=[base | changes])


def sweep(**changes: Any) -> dict[str, Any]:
    return factory(SWEEP, parameters=[P | changes])


def without(document: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in document.items() if k != key}


F0 = "/factories/0"
# document, pointer, code, a part of the message
BAD: list[tuple[object, str, str, str]] = [
    (None, "", "type", "a workflow must be a JSON object"),
    ([], "", "type", "not a list"),
    ("w", "", "type", 'not "w"'),
    ({}, "/jobs", "missing", "a workflow must contain jobs"),
    ({"jobs": []}, "/jobs", "missing", "a workflow must contain jobs"),
    ({"jobs": {}}, "/jobs", "type", "must be a list of JSON objects"),
    ({"jobs": None}, "/jobs", "type", "not null"),
    ({"jobs": [None]}, "/jobs/0", "type", "a job must be a JSON object"),
    (flow(A, "x"), "/jobs/1", "type", "a job must be a JSON object"),
    (flow(A, {"name": "b"}), "/jobs/1/tasks", "missing", "a job must contain tasks"),
    (flow(A, B | {"colour": 1}), "/jobs/1/colour", "unknown", 'invalid item "colour"'),
    (flow(A, B | {"tasks": [{}]}), "/jobs/1/tasks/0/image", "missing", "container image"),
    (flow(A, B | {"resources": {"cpus": 0}}), "/jobs/1/resources/cpus", "range", "from 1"),
    (flow(A | {"name": "../x"}), "/jobs/0/name", "name", "invalid job name"),
    (flow(A | {"name": "../../../tmp/x"}), "/jobs/0/name", "name", "invalid job name"),
    (flow(A | {"name": "a/.."}), "/jobs/0/name", "name", "invalid job name"),
    (flow(A | {"name": 5}), "/jobs/0/name", "type", "must be a text"),
    (flow(A | {"name": "x" * 510}), "/jobs/0/name", "name", "longer than 512"),
    (flow(A, A), "/jobs/0/name", "duplicate", '"a" is used more than once'),
    (flow({"tasks": [TASK]}, A | {"name": "job-0"}), "/jobs/0/name", "duplicate", "job-0"),
    (flow(name="../w"), "/name", "name", "invalid job name"),
    (flow(name=5), "/name", "type", "must be a text"),
    (flow(name=None), "/name", "type", "not null"),
    (flow(colour="red"), "/colour", "unknown", 'invalid item "colour" in workflow description'),
    (flow(tasks=[TASK]), "/tasks", "unknown", 'invalid item "tasks" in workflow'),
    (flow(labels={"a b": "c"}), "/labels/a b", "label", "is invalid"),
    (flow(labels={"a": 5}), "/labels/a", "type", "a label value must be a text"),
    (flow(policies=[]), "/policies", "type", "must be a JSON object"),
    (flow(policies={"maximumRetries": -1}), "/policies/maximumRetries", "range", "0 to 100"),
    (flow(policies={"maximumRetries": "2"}), "/policies/maximumRetries", "type", "0 to 100"),
    (flow(policies={"colour": 1}), "/policies/colour", "unknown", "in policies"),
    (
        flow(policies={"failureTolerance": "10"}),
        "/policies/failureTolerance",
        "tolerance",
        'percentage as "10%"',
    ),
    (
        flow(A | {"policies": {"failureTolerance": "101%"}}),
        "/jobs/0/policies/failureTolerance",
        "tolerance",
        "percentage",
    ),
    (
        flow(A | {"policies": {"failureTolerance": -1}}),
        "/jobs/0/policies/failureTolerance",
        "tolerance",
        "whole number",
    ),
    (flow(dependencies=[]), "/dependencies", "type", "lists of job names"),
    (flow(dependencies={"a": "b"}), "/dependencies/a", "type", "a list of job names"),
    (flow(dependencies={"a": [1]}), "/dependencies/a/0", "type", "a list of job names"),
    (flow(dependencies={"z": ["a"]}), "/dependencies/z", "unknown", 'parent job "z"'),
    (flow(dependencies={"a": ["z"]}), "/dependencies/a/0", "unknown", 'child job "z" is not'),
    (flow(dependencies={"a": ["B"]}), "/dependencies/a/0", "unknown", 'child job "B" is not'),
    (flow(dependencies={"a": ["b", "b"]}), "/dependencies/a/1", "duplicate", "named twice"),
    (flow(dependencies={"a": ["a"]}), "/dependencies/a", "cycle", "a -> a"),
    (flow(dependencies={"a": ["b"], "b": ["a"]}), "/dependencies/a", "cycle", "a -> b -> a"),
    (
        flow(dependencies={"c": ["a"], "a": ["b"], "b": ["c"]}),
        "/dependencies/c",
        "cycle",
        "c -> a -> b -> c",
    ),
    (flow(factory=[]), "/factory", "type", "must be a JSON object"),
    (flow(factories={}), "/factories", "type", "must be a list of JSON objects"),
    (flow(factories=["x"]), F0, "type", "a factory must be a JSON object"),
    (flow(factories=[{}]), f"{F0}/type", "missing", "invalid factory type"),
    (flow(factories=[{"type": "x"}]), f"{F0}/type", "value", "parameterSweep, zip, repeat"),
    (flow(factories=[{"type": ["zip"]}]), f"{F0}/type", "value", "invalid factory type"),
    (factory(SWEEP, colour=1), f"{F0}/colour", "unknown", "in factory"),
    (factory(SWEEP, jobs=["z"]), f"{F0}/jobs/0", "unknown", 'job "z" of a factory'),
    (factory(SWEEP, jobs=[]), f"{F0}/jobs", "empty", "must not be an empty list"),
    (factory(SWEEP, jobs="a"), f"{F0}/jobs", "type", "list"),
    (factory(SWEEP, jobs=[1]), f"{F0}/jobs/0", "type", "a text"),
    (flow(factories=[SWEEP, REPEAT]), "/factories/1/jobs", "duplicate", "more than one factory"),
    (flow(factory=REPEAT, factories=[SWEEP]), f"{F0}/jobs", "duplicate", "more than one"),
    (factory(REPEAT, jobs=["a", "a"]), f"{F0}/jobs", "duplicate", "more than one factory"),
    (flow(factories=[without(SWEEP, "parameters")]), f"{F0}/parameters", "missing", "parameters"),
    (factory(SWEEP, parameters=[]), f"{F0}/parameters", "count", "1 to 100 parameters"),
    (factory(SWEEP, parameters=[P] * 101), f"{F0}/parameters", "count", "1 to 100 parameters"),
    (factory(SWEEP, parameters=[P, P]), f"{F0}/parameters/1/name", "duplicate", "unique name"),
    (sweep(step=0), f"{F0}/parameters/0/step", "range", "must not be 0"),
    (sweep(step=0.0), f"{F0}/parameters/0/step", "range", "must not be 0"),
    (sweep(step=-1), f"{F0}/parameters/0/step", "range", "does not lead from 0 to 3"),
    (sweep(start=3, end=0), f"{F0}/parameters/0/step", "range", "does not lead from 3 to 0"),
    (sweep(step="1"), f"{F0}/parameters/0/step", "type", "must be numbers"),
    (sweep(start=None), f"{F0}/parameters/0/start", "type", "must be numbers"),
    (sweep(end=True), f"{F0}/parameters/0/end", "type", "must be numbers"),
    (sweep(name="a b"), f"{F0}/parameters/0/name", "parameter", "is invalid"),
    (sweep(name=""), f"{F0}/parameters/0/name", "parameter", "is invalid"),
    (sweep(name="1x"), f"{F0}/parameters/0/name", "parameter", "is invalid"),
    (sweep(values=[1]), f"{F0}/parameters/0/values", "unknown", "in parameter"),
    (sweep(end=HUGE), F0, "tooMany", "at most 10000000"),
    (sweep(end=1e300, step=1e-300), F0, "tooMany", "far too many"),
    (factory(REPEAT, number=0), f"{F0}/number", "range", "from 1"),
    (factory(REPEAT, number=-5), f"{F0}/number", "range", "from 1"),
    (factory(REPEAT, number=2.5), f"{F0}/number", "type", "whole number"),
    (factory(REPEAT, number="3"), f"{F0}/number", "type", "whole number"),
    (factory(REPEAT, number=HUGE), F0, "tooMany", "at most 10000000"),
    (flow(factories=[without(REPEAT, "number")]), f"{F0}/number", "missing", "a number"),
    (factory(ZIP, parameters=[{"name": "x"}]), f"{F0}/parameters/0/values", "missing", "values"),
    (
        factory(ZIP, parameters=[{"name": "x", "values": []}]),
        f"{F0}/parameters/0/values",
        "empty",
        "must not be empty",
    ),
    (
        factory(ZIP, parameters=[{"name": "x", "values": 5}]),
        f"{F0}/parameters/0/values",
        "type",
        "list of numbers and texts",
    ),
    (
        factory(ZIP, parameters=[{"name": "x", "values": [1, None]}]),
        f"{F0}/parameters/0/values",
        "value",
        "value 1 must be a number or a text, not null",
    ),
    (
        factory(ZIP, parameters=[{"name": "x", "values": ["a\nb"]}]),
        f"{F0}/parameters/0/values",
        "value",
        "control characters",
    ),
    (
        factory(
            ZIP, parameters=[{"name": "x", "values": [1, 2]}, {"name": "y", "values": [1, 2, 3]}]
        ),
        f"{F0}/parameters/1/values",
        "length",
        "same length: 3 here, 2 in the first",
    ),
    (flow(factories=[without(TABLE, "rows")]), f"{F0}/rows", "missing", "either rows or"),
    (factory(TABLE, file="t.csv"), f"{F0}/rows", "missing", "either rows or"),
    (factory(TABLE, rows=[]), f"{F0}/rows", "empty", "at least one row"),
    (factory(TABLE, rows=5), f"{F0}/rows", "type", "list of JSON objects"),
    (factory(TABLE, rows=[{"x": 1}, {"y": 1}]), f"{F0}/rows/1", "columns", "the same names"),
    (factory(TABLE, rows=[{"a b": 1}]), f"{F0}/rows", "parameter", "column name"),
    (factory(TABLE, rows=[{"x": [1]}]), f"{F0}/rows", "value", "row 0"),
    (
        flow(factories=[{"type": "table", "jobs": ["a"], "file": "t.csv"}]),
        f"{F0}/file",
        "unknown",
        "not among the inputs",
    ),
    (
        flow(csv_job(b"x,y\n1\n"), factories=[{"type": "table", "file": "t.csv"}]),
        f"{F0}/file",
        "length",
        "row 0 has 1 values, not 2",
    ),
    (
        flow(csv_job(b"x\xff\n1\n"), factories=[{"type": "table", "file": "t.csv"}]),
        f"{F0}/file",
        "csv",
        "not a CSV file in UTF-8",
    ),
    (
        flow(csv_job(b"x,x\n1,2\n"), factories=[{"type": "table", "file": "t.csv"}]),
        f"{F0}/file",
        "duplicate",
        "occurs twice",
    ),
    (
        flow(
            factories=[
                REPEAT | {"number": 6_000_000},
                REPEAT | {"jobs": ["b"], "number": 6_000_000},
            ]
        ),
        "",
        "tooMany",
        "not 12000001",
    ),
]


@pytest.mark.parametrize(("document", "pointer", "code", "message"), BAD)
def test_bad_document_is_400_with_its_pointer_and_nothing_stored(
    api: Api, document: object, pointer: str, code: str, message: str
) -> None:
    response = api.post("/workflows", document)

    assert response.status_code == 400
    problems = response.json()["errors"]
    found = [(p["pointer"], p["code"]) for p in problems]
    assert (pointer, code) in found, problems
    assert any(message in p["message"] for p in problems if p["pointer"] == pointer), problems
    for model in (Workflow, Stage, ValueList, ValuePage, Job, InputFile):
        assert not model.objects.exists()


def test_all_problems_are_said_at_once(api: Api) -> None:
    document = flow(
        A, B | {"tasks": []}, dependencies={"a": ["z"]}, factories=[SWEEP | {"jobs": ["y"]}]
    )

    problems = api.post("/workflows", document).json()["errors"]

    assert {p["pointer"] for p in problems} == {
        "/jobs/1/tasks",
        "/dependencies/a/0",
        "/factories/0/jobs/0",
    }
