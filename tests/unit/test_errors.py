"""How errors look to clients (C6-C9, S154)."""

import json

import pytest
from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import OperationalError
from django.http import Http404
from rest_framework import exceptions

from prominence.documents import parse_json
from prominence.errors import (
    ApiError,
    InvalidDocument,
    Problem,
    Unavailable,
    UnknownJob,
    exception_handler,
)


def all_errors(kind: type[ApiError] = ApiError) -> list[type[ApiError]]:
    return [kind, *(error for child in kind.__subclasses__() for error in all_errors(child))]


def test_codes_are_unique() -> None:
    codes = [error.code for error in all_errors()]

    assert len(codes) == len(set(codes))


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (UnknownJob(), 400, "Job does not exist"),
        (Unavailable(), 503, "The service is busy or starting; try again soon"),
        (OperationalError("secret host"), 503, "The service is busy or starting; try again soon"),
        (RequestDataTooBig("x"), 413, "The request is larger than this server accepts (64 MB)"),
        (SuspiciousOperation("x"), 400, "Bad request"),
        (PermissionDenied("x"), 403, "Not authorized"),
        (Http404("x"), 404, "No such path"),
        (exceptions.NotAuthenticated(), 401, "Authentication failure"),
        (exceptions.AuthenticationFailed("why"), 401, "Authentication failure"),
        (exceptions.ParseError("bad"), 400, "bad"),
        (exceptions.UnsupportedMediaType("a/b"), 415, 'Unsupported media type "a/b" in request.'),
        (exceptions.MethodNotAllowed("PUT"), 405, 'Method "PUT" not allowed.'),
        (exceptions.ValidationError({"field": ["wrong"]}), 400, "wrong"),
        (exceptions.ValidationError([]), 400, "Bad request"),
    ],
)
def test_every_error_is_a_json_object_with_a_text_c8(
    error: Exception, status: int, text: str
) -> None:
    response = exception_handler(error, {})

    assert response is not None
    assert (response.status_code, json.loads(response.content)) == (status, {"error": text})


def test_throttling_says_when_to_come_back() -> None:
    response = exception_handler(exceptions.Throttled(wait=7), {})

    assert response is not None
    assert (response.status_code, response["Retry-After"]) == (429, "7")


def test_unforeseen_error_is_left_to_django() -> None:
    assert exception_handler(ZeroDivisionError(), {}) is None


def test_document_error_says_the_first_problems_in_a_sentence() -> None:
    problems: list[Problem] = [
        {"pointer": f"/{n}", "code": "x", "message": f"wrong {n}"} for n in range(5)
    ]

    error = InvalidDocument(problems)

    assert str(error) == "wrong 0; wrong 1; wrong 2; and 2 more"
    assert error.body() == {"error": str(error), "errors": problems}


def test_duplicate_key_is_named() -> None:
    with pytest.raises(InvalidDocument, match='"cmd" is used twice'):
        parse_json(b'{"cmd": 1, "cmd": 2}')


def test_emoji_escaped_as_a_surrogate_pair_is_text() -> None:
    assert parse_json(b'"\\ud83d\\ude00"') == "\U0001f600"
