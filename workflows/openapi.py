"""Workflows in the OpenAPI description. Owns no answer: `workflows.serializers` does."""

from typing import Any

from drf_spectacular.utils import extend_schema

from jobs.openapi import LIST_PARAMETERS
from prominence.openapi import DOCUMENT_ERROR, EMPTY, ERROR, REFUSALS, TEXT, Schema, parameter
from workflows.states import WorkflowStatus

_INTEGER: Schema = {"type": "integer"}
_WHOLE: Schema = {"type": "integer", "minimum": 0}
_OBJECTS: Schema = {"type": "array", "items": {"type": "object"}}
_LABELS: Schema = {"type": "object", "additionalProperties": TEXT}
_DEPENDENCIES: Schema = {
    "type": "object",
    "additionalProperties": {"type": "array", "items": TEXT},
}
_CREATED: Schema = {"$ref": "#/components/schemas/Created"}
_PLAN = parameter("plan", "true: answer what would run, and do nothing")


def _object(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **(optional or {})},
        "additionalProperties": False,
    }


_EVENTS = _object({"createTime": _WHOLE}, {"startTime": _WHOLE, "endTime": _WHOLE})
_PROGRESS = _object(dict.fromkeys(("total", "done", "failed", "queued", "waiting"), _WHOLE))
_COMMON: dict[str, Schema] = {
    "id": _INTEGER,
    "name": TEXT,
    "status": {"type": "string", "enum": [str(status) for status in WorkflowStatus]},
    "events": _EVENTS,
    "progress": _PROGRESS,
}
_STEP = _object({"name": TEXT, "total": _WHOLE, "run": _WHOLE, "keep": _WHOLE, "reason": TEXT})
SCHEMAS: dict[str, Schema] = {
    "WorkflowEntry": _object(_COMMON, {"statusReason": TEXT, "labels": _LABELS}),
    "Workflow": _object(
        {**_COMMON, "jobs": _OBJECTS},
        {
            "statusReason": TEXT,
            "labels": _LABELS,
            "dependencies": _DEPENDENCIES,
            "factory": {"type": "object"},
            "factories": _OBJECTS,
            "policies": {"type": "object"},
            "origin": {**_INTEGER, "description": "The workflow that this is a rerun of."},
        },
    ),
    "Plan": _object({"plan": {"type": "array", "items": _STEP}}),
    "WorkflowDocument": _object(
        {"jobs": {"type": "array", "items": {"$ref": "#/components/schemas/JobDocument"}}},
        {
            "name": TEXT,
            "labels": _LABELS,
            "dependencies": _DEPENDENCIES,
            "factory": {"type": "object"},
            "factories": _OBJECTS,
            "policies": {"type": "object"},
        },
    ),
}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


submit = extend_schema(
    operation_id="submit_workflow",
    summary="Submit a workflow",
    parameters=[_PLAN],
    request={"application/json": _reference("WorkflowDocument")},
    responses={
        200: _reference("Plan"),
        201: _CREATED,
        **REFUSALS,
        400: DOCUMENT_ERROR,
        413: ERROR,
    },
)
list_workflows = extend_schema(
    operation_id="list_workflows",
    summary="List workflows",
    parameters=[p for p in LIST_PARAMETERS if p.name != "workflow"],
    responses={
        200: {
            "type": "array",
            "items": {"anyOf": [_reference("WorkflowEntry"), _reference("Workflow")]},
        },
        **REFUSALS,
    },
)
delete_many = extend_schema(
    operation_id="delete_workflows",
    summary="Delete several workflows with all their jobs",
    parameters=[parameter("id", "`1,2,3`", required=True)],
    responses={200: EMPTY, **REFUSALS},
)
describe = extend_schema(
    operation_id="describe_workflow",
    summary="Describe a workflow: an array of one, or of none if there is no such workflow",
    responses={
        200: {"type": "array", "items": _reference("Workflow"), "maxItems": 1},
        **REFUSALS,
    },
)
rerun = extend_schema(
    operation_id="rerun_workflow",
    summary="Run again what failed or was never attempted, as a new workflow",
    parameters=[_PLAN],
    request=None,
    responses={200: {"anyOf": [_CREATED, _reference("Plan")]}, **REFUSALS},
)
delete = extend_schema(
    operation_id="delete_workflow",
    summary="Delete a workflow with all its jobs",
    responses={200: EMPTY, **REFUSALS},
)
clone = extend_schema(
    operation_id="clone_workflow",
    summary="Submit a workflow's document once more",
    request=None,
    responses={201: _CREATED, **REFUSALS},
)
remove = extend_schema(
    operation_id="remove_workflow",
    summary="Let go what `leaveInQueue` keeps in the list",
    request=None,
    responses={200: EMPTY, **REFUSALS},
)
output = extend_schema(
    summary="Output of a job of a workflow, or of an instance of it: `job` or `job/3`",
    parameters=[
        parameter("offset", "the first byte", _WHOLE),
        parameter("node", "the rank of a node of the job; a name is taken for the job's"),
    ],
    responses={
        (200, "text/plain"): TEXT,
        **{(code, "application/json"): schema for code, schema in REFUSALS.items()},
    },
)


def add_schemas(result: Schema, **_: Any) -> Schema:
    """Postprocessing hook: the shapes that these operations refer to."""
    result["components"]["schemas"].update(SCHEMAS)
    return result
