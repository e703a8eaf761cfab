"""The OpenAPI description of the REST API: what operations share, and which paths are in it.

Each room describes its own views and shapes (`jobs.openapi`); drf-spectacular puts them together, by the settings
`SPECTACULAR_SETTINGS`. One root is described; the other one is the same. Owns no answer.
"""

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter
from drf_spectacular.views import SpectacularJSONAPIView, SpectacularSwaggerView

ROOT = "/api/v1/"
Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
EMPTY: Schema = {"type": "object", "maxProperties": 0}
ERROR: Schema = {"$ref": "#/components/schemas/Error"}
DOCUMENT_ERROR: Schema = {"$ref": "#/components/schemas/DocumentError"}
# What any request with a token may meet; 503: the database is away.
REFUSALS: dict[int, Schema] = {400: ERROR, 401: ERROR, 403: ERROR, 503: ERROR}

SCHEMAS: dict[str, Schema] = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {**TEXT, "description": "One sentence, for the user."}},
        "additionalProperties": False,
    },
    "Problem": {
        "type": "object",
        "required": ["pointer", "code", "message"],
        "properties": {
            "pointer": {**TEXT, "description": "RFC 6901: where in the document."},
            "code": TEXT,
            "message": {**TEXT, "description": "What was wrong and what is allowed."},
        },
        "additionalProperties": False,
    },
    "DocumentError": {
        "type": "object",
        "required": ["error", "errors"],
        "properties": {
            "error": TEXT,
            "errors": {
                "type": "array",
                "minItems": 1,
                "items": {"$ref": "#/components/schemas/Problem"},
            },
        },
        "additionalProperties": False,
    },
}


def parameter(
    name: str, description: str, schema: Schema | None = None, **options: Any
) -> OpenApiParameter:
    """A parameter, of the query unless `location` says otherwise; a text unless `schema` says otherwise."""
    return OpenApiParameter(name, schema or OpenApiTypes.STR, description=description, **options)


def only_ours(endpoints: list[Any], **_: Any) -> list[Any]:
    """Preprocessing hook: the paths below one root."""
    return [endpoint for endpoint in endpoints if endpoint[0].startswith(ROOT)]


def add_schemas(result: Schema, **_: Any) -> Schema:
    """Postprocessing hook: the shapes that operations refer to."""
    result["components"].setdefault("schemas", {}).update(SCHEMAS)
    return result


class SchemaView(SpectacularJSONAPIView):
    """GET /schema: OpenAPI 3.1 as JSON; needs no token."""

    authentication_classes = []
    permission_classes = []


class SchemaPage(SpectacularSwaggerView):
    """GET /docs: the same to read and try, with assets served from here."""

    url = f"{ROOT}schema"
    authentication_classes = []
    permission_classes = []
