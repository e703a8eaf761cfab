"""`Idempotency-Key`: a request that is sent again with the same key has its effect once and gets the first answer.

Owns `IdempotencyKey` rows: written in the transaction of the effect, so that there is a row exactly when the effect was
committed, whatever became of the answer. What a request does is the caller's affair. `jobs.retention` removes old rows.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.utils.crypto import salted_hmac

from jobs.models import IdempotencyKey
from prominence.errors import BadRequest, KeyReused

HEADER = "Idempotency-Key"
MAXIMUM_LENGTH = 255
# The row of a race's winner is there when its loser looks, unless it was removed as too old in between.
LOOKS = 3
_KEY = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedRequest:
    """A request that may be sent again. `key` is None when its sender gave none: then it is done each time."""

    owner: User
    key: str | None
    digest: str

    @classmethod
    def of(cls, owner: User, *, key: str | None, action: str, document: object) -> "KeyedRequest":
        """`action` and `document` (JSON, whatever its spacing and order) say what is asked for: both must be the same.

        Raises:
            BadRequest: the key is empty, too long, or has other characters than printable ASCII.
        """
        if key is None:
            return cls(owner=owner, key=None, digest="")
        if len(key) > MAXIMUM_LENGTH or not _KEY.fullmatch(key):
            raise BadRequest(f"{HEADER} must have 1 to {MAXIMUM_LENGTH} printable ASCII characters")
        text = json.dumps([action, document], sort_keys=True)
        # Keyed by what is not in the database: documents may hold secrets that could be guessed.
        digest = salted_hmac("prominence.idempotency", text, algorithm="sha256").hexdigest()
        return cls(owner=owner, key=key, digest=digest)


def once(request: KeyedRequest, effect: Callable[[], int]) -> int:
    """The id of what `effect` made: now, or when the same request came first.

    `effect` runs in a transaction together with the row that remembers it. Of two that run at once one is undone, and
    answers as the other.

    Raises:
        KeyReused: the key was used for another request.
    """
    if request.key is None:
        return effect()
    for _ in range(LOOKS):
        if (made := _remembered(request)) is not None:
            return made
        try:
            with transaction.atomic():
                made = effect()
                _remember(request, made)
        except _OvertakenError:
            continue
        return made
    raise KeyReused


class _OvertakenError(Exception):
    """Another request with this key was committed first."""


def _remembered(request: KeyedRequest) -> int | None:
    rows = IdempotencyKey.objects.filter(owner=request.owner, key=request.key)
    row = rows.values_list("digest", "made").first()
    if row is None:
        return None
    if row[0] != request.digest:
        raise KeyReused
    return int(row[1])


def _remember(request: KeyedRequest, made: int) -> None:
    """The unique index makes a second one wait for the first one's commit, and fail then."""
    try:
        IdempotencyKey.objects.create(
            owner=request.owner, key=request.key or "", digest=request.digest, made=made
        )
    except IntegrityError as error:
        raise _OvertakenError from error
