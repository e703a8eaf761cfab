"""Jobs in the OpenAPI description: the document from its models, answers as written here and held true by tests.

Owns no answer: `jobs.serializers` does.
"""

from typing import Any

from drf_spectacular.utils import extend_schema

from jobs.spec import JobDocument
from jobs.states import JobStatus
from prominence.openapi import (
    DOCUMENT_ERROR,
    EMPTY,
    ERROR,
    REFUSALS,
    TEXT,
    Schema,
    parameter,
)

_REFERENCE = "#/components/schemas/{model}"
_DOCUMENT = {"$ref": _REFERENCE.format(model="JobDocument")}
_INTEGER: Schema = {"type": "integer"}
_NUMBER: Schema = {"type": "number"}
_WHOLE: Schema = {"type": "integer", "minimum": 0}
_FLAG: Schema = {"type": "boolean"}
_OBJECTS: Schema = {"type": "array", "items": {"type": "object"}}


def _object(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **(optional or {})},
        "additionalProperties": False,
    }


_STATUS: Schema = {"type": "string", "enum": [str(status) for status in JobStatus]}
_EVENTS = _object({"createTime": _WHOLE}, {"startTime": _WHOLE, "endTime": _WHOLE})
_EVENTS["description"] = "Seconds since the epoch."
_TASK_RESULT = _object(
    {"retries": _WHOLE},
    {
        "exitCode": _INTEGER,
        "imagePullStatus": TEXT,
        "imagePullTime": {**_NUMBER, "description": "Seconds; -1 if the image was there."},
        "imageSha256": TEXT,
        "wallTimeUsage": _NUMBER,
        "cpuTimeUsage": _NUMBER,
        "maxResidentSetSizeKB": _WHOLE,
    },
)
_EXECUTION = _object(
    {"site": TEXT, "retries": _WHOLE, "tasks": {"type": "array", "items": _TASK_RESULT}},
    {
        "maxMemoryUsageKB": _WHOLE,
        "cpu": {"type": "object"},
        "provisionedResources": {"type": "object"},
        "runtimeVersion": {"type": "object"},
        "stageInTime": _NUMBER,
        "stageOutTime": _NUMBER,
        "attempts": _OBJECTS,
    },
)
_OUTPUTS: Schema = {
    "type": "array",
    "items": {"type": "object", "required": ["name", "url"]},
}
_COMMON: dict[str, Schema] = {
    "id": _INTEGER,
    "name": TEXT,
    "status": _STATUS,
    "events": _EVENTS,
    "tasks": {
        "type": "array",
        "minItems": 1,
        "items": {"type": "object", "required": ["image", "runtime"]},
    },
}
_RESOURCES = _object(
    {"nodes": _WHOLE, "cpus": _WHOLE, "memory": _NUMBER, "disk": _WHOLE}, {"walltime": _NUMBER}
)
_CHANGE: Schema = {"type": "object", "required": ["change", "nodes"]}

SCHEMAS: dict[str, Schema] = {
    "JobEntry": _object(_COMMON, {"statusReason": TEXT}),
    "Job": _object(
        {**_COMMON, "resources": _RESOURCES},
        {
            "statusReason": TEXT,
            "statusDetail": TEXT,
            "labels": {"type": "object", "additionalProperties": TEXT},
            "policies": {"type": "object"},
            "inputs": _OBJECTS,
            "artifacts": _OBJECTS,
            "outputFiles": _OUTPUTS,
            "outputDirs": _OUTPUTS,
            "notifications": _OBJECTS,
            "parameters": {"type": "object"},
            "storage": {"type": "object"},
            "workflow": _INTEGER,
            "execution": _EXECUTION,
        },
    ),
    "Created": _object({"id": _INTEGER}),
    "Why": _object(
        {"id": _INTEGER, "status": _STATUS, "code": TEXT, "message": TEXT},
        {
            "ahead": _WHOLE,
            "sites": _OBJECTS,
            "nodes": _OBJECTS,
            "changes": {"type": "array", "items": _CHANGE},
            "lastAttempt": _object({"number": _WHOLE, "reason": TEXT}),
            "failsAt": _WHOLE,
            "site": TEXT,
            "node": TEXT,
            "attempt": _object({"number": _WHOLE, "status": TEXT}),
        },
    ),
}


def _reference(name: str) -> Schema:
    return {"$ref": _REFERENCE.format(model=name)}


def _array_of(*names: str) -> Schema:
    items = [_reference(name) for name in names]
    return {"type": "array", "items": items[0] if len(items) == 1 else {"anyOf": items}}


LIST_PARAMETERS = [
    parameter("completed", "true: ended jobs, the newest first"),
    parameter("num", "with `completed`: how many; -1 for all", {"type": "integer", "minimum": -1}),
    parameter("all", "true: active and ended jobs"),
    parameter(
        "status", "active jobs in this state", {"type": "string", "enum": ["running", "idle"]}
    ),
    parameter("id", "these jobs, in any state: `1,2`; with `workflow`, the workflow's number"),
    parameter("workflow", "true: the jobs of the workflow `id`"),
    parameter("name", "the exact name"),
    parameter("constraint", "a label, `key=value`; repeated, all must hold", many=True),
    parameter("detail", "true: entries as describe gives them"),
]
OUTPUT_PARAMETERS = [
    parameter("offset", "the first byte", _WHOLE),
    parameter("node", "the rank of a node of the job", _WHOLE),
]

IDEMPOTENCY_KEY = parameter(
    "Idempotency-Key",
    "the same request with the same key has its effect once, and gets the first answer, for 7 days",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
    location="header",
)

submit = extend_schema(
    operation_id="submit_job",
    summary="Submit a job",
    parameters=[IDEMPOTENCY_KEY],
    request={"application/json": _DOCUMENT},
    responses={
        201: _reference("Created"),
        **REFUSALS,
        400: {"anyOf": [DOCUMENT_ERROR, ERROR]},
        409: ERROR,
        413: ERROR,
    },
)
list_jobs = extend_schema(
    operation_id="list_jobs",
    summary="List jobs",
    parameters=LIST_PARAMETERS,
    responses={200: _array_of("JobEntry", "Job"), **REFUSALS},
)
delete_many = extend_schema(
    operation_id="delete_jobs",
    summary="Delete several jobs",
    parameters=[parameter("id", "`1,2,3`", required=True)],
    responses={200: EMPTY, **REFUSALS},
)
describe = extend_schema(
    operation_id="describe_job",
    summary="Describe a job: an array of one, or of none if there is no such job",
    responses={200: {**_array_of("Job"), "maxItems": 1}, **REFUSALS},
)
delete = extend_schema(
    operation_id="delete_job", summary="Delete a job", responses={200: EMPTY, **REFUSALS}
)
clone = extend_schema(
    operation_id="clone_job",
    summary="Submit a job's document once more",
    parameters=[IDEMPOTENCY_KEY],
    request=None,
    responses={201: _reference("Created"), **REFUSALS, 409: ERROR},
)
remove = extend_schema(
    operation_id="remove_job",
    summary="Let go what `leaveInQueue` keeps in the list",
    request=None,
    responses={200: EMPTY, **REFUSALS},
)
output = extend_schema(
    summary="A job's output, while it runs and after",
    parameters=OUTPUT_PARAMETERS,
    responses={
        (200, "text/plain"): TEXT,
        **{(code, "application/json"): schema for code, schema in REFUSALS.items()},
    },
)
why = extend_schema(
    operation_id="explain_job",
    summary="Why a job is not running, and what would help",
    responses={200: _reference("Why"), **REFUSALS},
)


def add_schemas(result: Schema, **_: Any) -> Schema:
    """Postprocessing hook: the job's document and answers, and the path that Django does not serve."""
    document = JobDocument.model_json_schema(ref_template=_REFERENCE)
    parts = document.pop("$defs", {})
    _overlay(parts)
    result["components"]["schemas"].update(parts, JobDocument=document, **SCHEMAS)
    result["paths"]["/api/v1/jobs/{job_id}/events"] = {"get": _EVENTS_OPERATION}
    return result


def _overlay(parts: dict[str, Schema]) -> None:
    """What validators allow beyond the type that they end with."""
    task, file = parts["Task"]["properties"], parts["Input"]["properties"]
    task["args"] = {"anyOf": [TEXT, {"type": "array", "items": TEXT, "maxItems": 1000}]}
    values: list[Schema] = [TEXT, _NUMBER]
    secret = _object({"secret": TEXT})
    task["env"] = {
        "type": "object",
        "additionalProperties": {"anyOf": [*values, secret]},
        "maxProperties": 1000,
    }
    file["content"] = {**TEXT, "contentEncoding": "base64"}


_EVENTS_OPERATION: Schema = {
    "operationId": "follow_job",
    "summary": "Follow a job: server-sent events of states and output",
    "tags": ["jobs"],
    "security": [{"token": []}],
    "parameters": [
        {"in": "path", "name": "job_id", "required": True, "schema": TEXT},
        {"in": "query", "name": "lastEventId", "schema": TEXT},
        {"in": "query", "name": "output", "schema": _FLAG},
        {"in": "header", "name": "Last-Event-ID", "schema": TEXT},
    ],
    "responses": {
        "200": {"description": "", "content": {"text/event-stream": {"schema": TEXT}}},
        "204": {"description": "It was told to its end."},
        **{
            str(code): {"description": "", "content": {"application/json": {"schema": ERROR}}}
            for code in REFUSALS
        },
    },
}
