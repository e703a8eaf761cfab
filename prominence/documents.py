"""Reading what clients post: bytes as strict JSON.

Owns JSON's traps: duplicate keys, NaN, huge numbers, deep nesting, text that no database stores. Knows no document.
"""

import json
from typing import Any, NoReturn

from django.http import HttpRequest

from prominence.errors import InvalidDocument

MAXIMUM_DIGITS = 30


def read_document(request: HttpRequest) -> object:
    """The body as JSON whatever its Content-Type says (C14). Raises InvalidDocument or RequestDataTooBig."""
    body = request.body
    if not body:
        raise _refusal("the request has no body, or no Content-Length")
    return parse_json(body)


def parse_json(body: bytes) -> object:
    """Strict JSON: UTF-8, no duplicate keys, no NaN, only storable text.

    Raises:
        InvalidDocument: with one problem, at the root.
    """
    try:
        text = body.decode("utf-8-sig")
        document = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_int=_integer,
            parse_float=_number,
        )
        if "\\u" in text:  # only an escape can name half a surrogate pair or NUL
            _check_text(document)
    except InvalidDocument:
        raise
    except UnicodeDecodeError as error:
        raise _refusal("the request body is not UTF-8 text") from error
    except RecursionError as error:
        raise _refusal("the JSON document is nested too deeply") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise _refusal(f"the request body is not valid JSON: {error.msg} ({where})") from error
    return document


def _refusal(message: str) -> InvalidDocument:
    return InvalidDocument([{"pointer": "", "code": "json", "message": message}])


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _refusal(f"{json.dumps(key[:100])} is used twice in one JSON object")
            seen.add(key)
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise _refusal(f"{name} is not valid JSON")


def _integer(digits: str) -> int:
    if len(digits) > MAXIMUM_DIGITS:
        raise _refusal("a number has too many digits")
    return int(digits)


def _number(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise _refusal("a number is too large")
    return value


def _check_text(value: object) -> None:
    """Refuse NUL and lone surrogates, which neither PostgreSQL nor UTF-8 can hold."""
    if isinstance(value, str):
        if "\0" in value or not _is_utf8(value):
            raise _refusal("a text holds a NUL character or half of a surrogate pair")
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_text(key)
            _check_text(item)
    elif isinstance(value, list):
        for item in value:
            _check_text(item)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
