"""Access tokens that this server issues: signed JWTs with an end (C2), for users and for single jobs (S116).

Owns claims, signature and lifetime. Knows no rows: whether a user may act or a job still lives is for
`prominence.auth` to say. Nothing here is stored, and no token may be logged.
"""

import secrets
import time
from dataclasses import dataclass
from typing import Any

import jwt
from django.conf import settings

ALGORITHM = "HS256"
ISSUER = "prominence"
USER_TOKEN_DAYS = 30
# Beyond the walltime: staging, image pulls, a claim long before the start, and clocks that differ.
JOB_TOKEN_MARGIN_S = 24 * 3600


# Tokens of a process's recent callers, some 500 bytes each.
REMEMBERED = 10_000


class InvalidToken(Exception):
    """Not a token of this server, expired, or changed. Says no more than that, to nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who a token speaks for. `job_id`: good for this one job only."""

    username: str
    groups: frozenset[str] = frozenset()
    job_id: int | None = None


def issue_token(username: str, *, groups: tuple[str, ...] = (), valid_s: float) -> str:
    """A token for everything that the user may do."""
    return _issue({"sub": username, "groups": list(groups)}, valid_s)


def issue_job_token(*, job_id: int, username: str, walltime_s: float) -> str:
    """A token for one job, unique at each call. It is refused once the job has ended, whatever its `exp`."""
    return _issue({"sub": username, "groups": [], "job": job_id}, walltime_s + JOB_TOKEN_MARGIN_S)


def verify_token(token: str) -> Principal:
    """Whom a token speaks for. What was found once is remembered until it expires: checking costs as much as a query.

    Raises:
        InvalidToken: wrong signature, issuer or shape, or expired.
    """
    known = _verified.get(token)
    if known and time.time() < known[0]:
        return known[1]
    try:
        claims = jwt.decode(
            token,
            settings.SECRET_KEY,
            algorithms=[ALGORITHM],
            issuer=ISSUER,
            options={"require": ["exp", "iat", "sub", "iss", "jti"]},
        )
    except (jwt.PyJWTError, ValueError) as error:
        raise InvalidToken from error
    principal = _principal(claims)
    if len(_verified) >= REMEMBERED:
        _verified.clear()
    _verified[token] = (float(claims["exp"]), principal)
    return principal


_verified: dict[str, tuple[float, Principal]] = {}


def _issue(claims: dict[str, Any], valid_s: float) -> str:
    now = int(time.time())
    return jwt.encode(
        claims
        | {
            "iss": ISSUER,
            "iat": now,
            "exp": int(now + valid_s),
            "jti": secrets.token_urlsafe(12),
        },
        settings.SECRET_KEY,
        algorithm=ALGORITHM,
    )


def _principal(claims: dict[str, Any]) -> Principal:
    username, groups, job_id = claims["sub"], claims.get("groups", []), claims.get("job")
    if not username or not isinstance(groups, list) or not isinstance(job_id, int | None):
        raise InvalidToken
    return Principal(username=username, groups=frozenset(map(str, groups)), job_id=job_id)
