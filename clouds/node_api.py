"""The node's own API, `/node/v1/…`: the other side of `worker/protocol.py` over HTTPS.

| call | in | out |
|---|---|---|
| POST enrol | EnrolRequest | 201 Enrolment; 403 when token or key is refused |
| POST heartbeat | Up | 200 Word: events stored, lease renewed (the second path) |
| POST attempts/fetch | FetchRequest | 200 FetchAnswer: spec and secrets of attempts placed on this incarnation |
| GET attempts/KEY/inputs/SHA256 | | 200 bytes |
| PUT attempts/KEY/outputs/N?name=…&directory=…&size=…&offset=… | bytes | 204; 409: `code` is where a piece is lost |
| PUT attempts/KEY/stdout or stderr?offset=N | bytes | 204: stored as [N, N + length) of that log |

Every call but enrol carries the node token of one incarnation, which opens nothing but its own attempts. 401 with code
"fenced": this life is over; the node kills everything and enrols anew. Errors are NodeError bodies.
"""

import logging
from collections.abc import Callable
from datetime import datetime
from functools import wraps
from typing import TypeVar

import msgspec
import redis
from django.conf import settings
from django.db import DatabaseError, DataError
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods

from clouds import ingest
from clouds.cleaning import is_key
from clouds.enrolment import EnrolmentRefused, enrol, incarnation_of_token
from clouds.models import Incarnation
from clouds.states import ALIVE
from jobs.models import InputFile, Placement, Stream
from jobs.output import store_piece
from jobs.output_files import (
    OutputPiece,
    OutputRefused,
    OutputTooLarge,
    PieceMissing,
    store_output,
)
from jobs.secret_fields import task_secrets
from jobs.spec import run_spec
from prominence.bus import announce_changes
from prominence.seals import SealBroken
from prominence.tokens import issue_job_token
from worker.protocol import (
    AttemptKey,
    EnrolRequest,
    FetchAnswer,
    Fetched,
    FetchRequest,
    NodeError,
    Up,
    encode,
)

logger = logging.getLogger(__name__)

Message = TypeVar("Message", bound=msgspec.Struct)
NodeView = Callable[..., HttpResponse]


class _Refused(Exception):
    """Ends a call with this status and code."""

    def __init__(self, status: int, text: str, code: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.code = code


def _answer(value: msgspec.Struct, status: int = 200) -> HttpResponse:
    return HttpResponse(encode(value), status=status, content_type="application/json")


def _view(view: NodeView) -> NodeView:
    """Turn refusals into NodeError bodies."""

    @csrf_exempt
    @wraps(view)
    def wrapped(request: HttpRequest, **kwargs: object) -> HttpResponse:
        try:
            return view(request, **kwargs)
        except _Refused as refused:
            return _answer(NodeError(error=str(refused), code=refused.code), refused.status)
        except (DataError, OverflowError) as error:
            return _answer(NodeError(error=f"a value is out of range: {error}"), 400)
        except (redis.RedisError, DatabaseError, OSError) as error:
            logger.warning("%s %s: %s", request.method, request.path, error)
            return _answer(NodeError(error="try again later", code="unavailable"), 503)

    return wrapped


def _speaker(request: HttpRequest) -> Incarnation:
    """The living incarnation whose token this is."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    row = incarnation_of_token(token) if scheme.lower() == "bearer" and token else None
    if row is None:
        raise _Refused(401, "unknown node token", "unknown")
    if row.status not in ALIVE:
        raise _Refused(401, "this incarnation is over: end everything and enrol anew", "fenced")
    return row


def _read(request: HttpRequest, kind: type[Message]) -> Message:
    try:
        return msgspec.json.decode(request.body, type=kind)
    except (ValueError, RecursionError, MemoryError) as error:  # msgspec's errors are ValueErrors
        raise _Refused(400, f"unreadable {kind.__name__}: {error}") from error


@_view
@require_http_methods(["POST"])
def enrol_view(request: HttpRequest) -> HttpResponse:
    try:
        return _answer(enrol(_read(request, EnrolRequest)), 201)
    except EnrolmentRefused as refused:
        raise _Refused(403, str(refused), "refused") from refused


@_view
@require_http_methods(["POST"])
def heartbeat_view(request: HttpRequest) -> HttpResponse:
    row = _speaker(request)
    words = ingest.apply({row.pk: ingest.Heard([_read(request, Up)])})
    if row.pk not in words:
        raise _Refused(401, "this incarnation is over: end everything and enrol anew", "fenced")
    return _answer(words[row.pk])


@_view
@require_http_methods(["POST"])
def fetch_view(request: HttpRequest) -> HttpResponse:
    row = _speaker(request)
    wanted = [key for key in _read(request, FetchRequest).keys if is_key(key)]
    placements = {
        AttemptKey(p.attempt.job_id, p.attempt.number, p.rank): p
        for p in Placement.objects.filter(
            incarnation=row.pk, live=True, attempt__job__in={key.job for key in wanted}
        ).select_related("attempt__job__owner")
    }
    now = timezone.now()
    found = [_fetched(key, placements[key], now) for key in wanted if key in placements]
    items = tuple(item for item in found if item is not None)
    given = {item.key for item in items}
    refused = tuple(key for key in wanted if key not in given)
    return _answer(FetchAnswer(items=items, refused=refused))


def _fetched(key: AttemptKey, placement: Placement, now: datetime) -> Fetched | None:
    """None when the job's secrets cannot be opened: an operator took a key away too early."""
    job = placement.attempt.job
    try:
        secrets = task_secrets(job.spec)
    except SealBroken as error:
        logger.error("job %d cannot run: %s", job.pk, error)
        return None
    env = {"PROMINENCE_WORKFLOW_ID": str(job.workflow)} if job.workflow else {}
    # The attempt's own memory: a retry may have more than the document asked for.
    spec = msgspec.structs.replace(run_spec(job.spec, env=env), memory_mb=placement.memory_mb)
    token = issue_job_token(
        job_id=job.pk, username=job.owner.get_username(), walltime_s=spec.walltime_s
    )
    secret_env = {"PROMINENCE_URL": settings.CONFIG.public_url, "PROMINENCE_TOKEN": token}
    age_s = max(0.0, (now - job.created_at).total_seconds())
    return Fetched(key=key, spec=spec, secret_env=secret_env, secrets=secrets, age_s=age_s)


def _placed(row: Incarnation, key_text: str, *, live: bool) -> tuple[AttemptKey, Placement]:
    """The placement of this incarnation that a path names."""
    try:
        key = AttemptKey.parse(key_text)
    except ValueError as error:
        raise _Refused(400, f"{key_text!r} is not job.attempt.rank") from error
    if not is_key(key):
        raise _Refused(400, f"{key_text!r} is out of range")
    placements = Placement.objects.filter(
        incarnation=row.pk, attempt__job=key.job, attempt__number=key.attempt, rank=key.rank
    )
    placement = placements.select_related("attempt__job").first()
    if placement is None or (live and not placement.live):
        raise _Refused(403, f"{key} is not yours")
    return key, placement


@_view
@require_http_methods(["GET"])
def input_view(request: HttpRequest, key: str, sha256: str) -> HttpResponse:
    _, placement = _placed(_speaker(request), key, live=True)
    job = placement.attempt.job
    files = job.spec.get("inputs", [])
    named = any(file.get("sha256") == sha256 for file in files)
    found = InputFile.objects.filter(owner_id=job.owner_id, sha256=sha256).first()
    if not named or found is None:
        raise _Refused(403, "this job has no such input")
    return HttpResponse(bytes(found.content), content_type="application/octet-stream")


@_view
@require_http_methods(["PUT"])
def log_view(request: HttpRequest, key: str, stream: str) -> HttpResponse:
    row = _speaker(request)
    parsed, placement = _placed(row, key, live=True)
    offset = request.GET.get("offset", "")
    if stream not in Stream.values or not (offset.isascii() and offset.isdigit()):
        raise _Refused(400, "PUT …/stdout|stderr?offset=N")
    if len(offset) > 16 or int(offset) + len(request.body) > settings.CONFIG.log_cap_bytes:
        raise _Refused(413, f"a log may have {settings.CONFIG.log_cap_bytes} bytes")
    store_piece(
        job_id=parsed.job,
        attempt=parsed.attempt,
        rank=placement.rank,
        stream=stream,
        start=int(offset),
        data=request.body,
    )
    announce_changes([parsed.job])
    return HttpResponse(status=204)


@_view
@require_http_methods(["PUT"])
def output_view(request: HttpRequest, key: str, number: str) -> HttpResponse:
    row = _speaker(request)
    parsed, placement = _placed(row, key, live=True)
    spec = placement.attempt.job.spec
    if not (spec.get("outputFiles") or spec.get("outputDirs")):
        raise _Refused(403, "this job has no output files")
    piece = OutputPiece(
        job_id=parsed.job,
        attempt=parsed.attempt,
        rank=placement.rank,
        number=_number(number),
        name=request.GET.get("name", ""),
        directory=request.GET.get("directory") == "1",
        size=_number(request.GET.get("size", "")),
        offset=_number(request.GET.get("offset", "")),
        data=request.body,
    )
    try:
        store_output(piece)
    except OutputTooLarge as error:
        raise _Refused(413, str(error)) from error
    except OutputRefused as error:
        raise _Refused(400, str(error)) from error
    except PieceMissing as error:
        raise _Refused(409, str(error), str(error.offset)) from error
    return HttpResponse(status=204)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 16):
        raise _Refused(400, f"{text[:40]!r} is not a number")
    return int(text)


urlpatterns = [
    path("enrol", enrol_view),
    path("heartbeat", heartbeat_view),
    path("attempts/fetch", fetch_view),
    path("attempts/<str:key>/inputs/<str:sha256>", input_view),
    path("attempts/<str:key>/outputs/<str:number>", output_view),
    path("attempts/<str:key>/<str:stream>", log_view),
]
