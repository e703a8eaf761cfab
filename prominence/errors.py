"""What can go wrong at the edges, as one tree, and how each error looks to a client.

    ApiError                  code, http_status, retryable
    ├── BadRequest            400  badRequest
    │   ├── InvalidDocument   400  invalidDocument   all problems at once, as JSON pointers
    │   ├── UnknownJob        400  unknownJob        never 404: today's clients misread it (C6, D2, D3)
    │   └── NotAvailable      400  notAvailable      known to the guide, not built yet
    ├── NotAuthenticated      401  notAuthenticated
    ├── Forbidden             403  forbidden
    ├── NoSuchPath            404  noSuchPath
    ├── KeyReused             409  keyReused         an Idempotency-Key came with another request before
    ├── TooLarge              413  tooLarge
    └── Unavailable           503  unavailable       retryable

Every answer is JSON `{"error": "<one sentence>"}`, plus `errors` for documents: clients crash on anything else
(C8, C9). Callers branch on class or code, never on text.
"""

import logging
from collections.abc import Sequence
from typing import Any, ClassVar, TypedDict

from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import OperationalError
from django.http import Http404, JsonResponse
from rest_framework import exceptions

logger = logging.getLogger(__name__)

SHOWN_IN_SENTENCE = 3


class Problem(TypedDict):
    """One thing that is wrong with a document, and where (RFC 6901)."""

    pointer: str
    code: str
    message: str


class ApiError(Exception):
    """An error that a client sees. `retryable`: the same request may succeed later."""

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def body(self) -> dict[str, Any]:
        """The JSON answer."""
        return {"error": str(self)}


class BadRequest(ApiError):
    code = "badRequest"
    http_status = 400


class InvalidDocument(BadRequest):
    """A document is refused; `problems` holds everything that is wrong with it, at least one entry."""

    code = "invalidDocument"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        super().__init__(_sentence(self.problems))

    def body(self) -> dict[str, Any]:
        return {"error": str(self), "errors": self.problems}


class UnknownJob(BadRequest):
    """No such job, or not the caller's: the two look alike (D2, D3)."""

    code = "unknownJob"

    def __init__(self, message: str = "Job does not exist") -> None:
        super().__init__(message)


class NotAvailable(BadRequest):
    code = "notAvailable"


class NotAuthenticated(ApiError):
    code = "notAuthenticated"
    http_status = 401

    def __init__(self, message: str = "Authentication failure") -> None:
        super().__init__(message)


class Forbidden(ApiError):
    code = "forbidden"
    http_status = 403


class NoSuchPath(ApiError):
    code = "noSuchPath"
    http_status = 404

    def __init__(self, message: str = "No such path") -> None:
        super().__init__(message)


class KeyReused(ApiError):
    code = "keyReused"
    http_status = 409

    def __init__(self) -> None:
        super().__init__(
            "This Idempotency-Key was used for another request: use a new key for each"
        )


class TooLarge(ApiError):
    code = "tooLarge"
    http_status = 413


class Unavailable(ApiError):
    code = "unavailable"
    http_status = 503
    retryable = True

    def __init__(self, message: str = "The service is busy or starting; try again soon") -> None:
        super().__init__(message)


def _sentence(problems: Sequence[Problem]) -> str:
    """The first problems in one sentence: it is all that a command-line user gets to see."""
    shown = "; ".join(problem["message"] for problem in problems[:SHOWN_IN_SENTENCE])
    hidden = len(problems) - SHOWN_IN_SENTENCE
    return f"{shown}; and {hidden} more" if hidden > 0 else shown


def exception_handler(error: Exception, context: dict[str, Any]) -> JsonResponse | None:
    """What a REST view that raised `error` answers; None: not ours, Django logs it and answers 500.

    A plain JsonResponse, because DRF's views import the authentication, which imports this module.
    """
    known = as_api_error(error)
    if known is not None:
        headers = {"Retry-After": "5"} if known.retryable else None
        return JsonResponse(known.body(), status=known.http_status, headers=headers)
    if not isinstance(error, exceptions.APIException):
        return None
    headers = {}
    if challenge := getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = challenge
    if wait := getattr(error, "wait", None):
        headers["Retry-After"] = str(int(wait))
    return JsonResponse({"error": _text_of(error)}, status=error.status_code, headers=headers)


def as_api_error(error: Exception) -> ApiError | None:
    """Django's own errors as members of the tree."""
    match error:
        case ApiError():
            return error
        case RequestDataTooBig():
            return TooLarge("The request is larger than this server accepts (64 MB)")
        case Http404():
            return NoSuchPath()
        case PermissionDenied():
            return Forbidden("Not authorized")
        case SuspiciousOperation():
            return BadRequest("Bad request")
        case OperationalError():
            logger.error("database not usable", exc_info=error)
            return Unavailable()
    return None


def _text_of(error: exceptions.APIException) -> str:
    """One sentence for an error of DRF; clients show this text (S154)."""
    if isinstance(error, exceptions.NotAuthenticated | exceptions.AuthenticationFailed):
        return "Authentication failure"
    detail: object = error.detail
    while isinstance(detail, list | dict):
        values = list(detail.values()) if isinstance(detail, dict) else detail
        detail = values[0] if values else ""
    return str(detail) or "Bad request"
