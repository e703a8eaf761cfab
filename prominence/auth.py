"""Who is calling: the Authorization header as a user and a principal.

Owns the header's forms, user rows made on first sight, and the end of job tokens with their job. Stores no token (S46).
"""

import re
import threading
import time
from collections.abc import Callable
from typing import Protocol, cast

from django.contrib.auth.models import User
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from prominence.errors import Forbidden, NotAuthenticated
from prominence.tokens import InvalidToken, Principal, verify_token

# The forms that today's clients send, in any case (C1).
_HEADER = re.compile(r"(?:bearer|token)[ ]+([A-Za-z0-9._~+/=-]+)[ ]*", re.IGNORECASE)
USERNAME = re.compile(r"[A-Za-z0-9@.+_-]{1,150}")
# How long a user that was disabled in the admin may still be let in by this process.
USER_CACHE_S = 10.0
USER_CACHE_SIZE = 10_000


class TokenAuthentication(BaseAuthentication):
    """`Authorization: Bearer <token>` or `token <token>`; anything else is a 401 in JSON (C3, C7)."""

    def authenticate(self, request: Request) -> tuple[User, Principal] | None:
        value = request.META.get("HTTP_AUTHORIZATION", "")
        if not value:
            return None
        try:
            return authenticate_header_value(value)
        except NotAuthenticated as error:
            raise AuthenticationFailed(str(error)) from error

    def authenticate_header(self, request: Request) -> str:
        """Without this, DRF would answer 403 where clients look for 401 (C7)."""
        return 'Bearer realm="prominence"'


def authenticate_header_value(value: str) -> tuple[User, Principal]:
    """The user and principal of an Authorization header. Blocking: asynchronous callers use a thread.

    Raises:
        NotAuthenticated: not a valid token, a disabled user, or the token of a job that has ended.
    """
    match = _HEADER.fullmatch(value)
    if match is None:
        raise NotAuthenticated
    try:
        principal = verify_token(match[1])
    except InvalidToken as error:
        raise NotAuthenticated from error
    user = _users.get(principal.username)
    if not user.is_active:
        raise NotAuthenticated
    if principal.job_id is not None and not _is_alive(user.pk, principal.job_id):
        raise NotAuthenticated
    return user, principal


def on_job_token(check: Callable[[int, int], bool]) -> None:
    """Register who knows whether a job (owner's id, job's id) has not ended; until then no job token is accepted."""
    _liveness.append(check)


def _is_alive(owner_id: int, job_id: int) -> bool:
    return bool(_liveness) and _liveness[-1](owner_id, job_id)


_liveness: list[Callable[[int, int], bool]] = []


def forget_users() -> None:
    """Drop the cache of user rows (tests roll the database back under it)."""
    _users.clear()


class _Scoped(Protocol):
    job_token_methods: frozenset[str]
    kwargs: dict[str, object]


class JobTokenScope(BasePermission):
    """A job's token opens only what concerns that job: views name the methods, everything else is closed to it."""

    def has_permission(self, request: Request, view: object) -> bool:
        principal = request.auth
        if not isinstance(principal, Principal) or principal.job_id is None:
            return True
        scoped = cast(_Scoped, view)
        if request.method not in scoped.job_token_methods or scoped.kwargs.get("job_id") != str(
            principal.job_id
        ):
            raise Forbidden("Not authorized: this token is good for one job only")
        return True


class _Users:
    """User rows by name, made on first sight, cached for a few seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[str, tuple[float, User]] = {}

    def get(self, username: str) -> User:
        now = time.monotonic()
        entry = self._rows.get(username)
        if entry is not None and now < entry[0]:
            return entry[1]
        if not USERNAME.fullmatch(username):
            raise NotAuthenticated
        user, _made = User.objects.get_or_create(username=username)
        with self._lock:
            if len(self._rows) >= USER_CACHE_SIZE:
                self._rows.clear()
            self._rows[username] = (now + USER_CACHE_S, user)
        return user

    def clear(self) -> None:
        with self._lock:
            self._rows.clear()


_users = _Users()
