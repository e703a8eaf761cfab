"""The REST edge of jobs (S143-S153): parse, one call, render. Paths have no trailing slash (C4)."""

from itertools import chain, islice

from django.contrib.auth.models import User
from django.http import HttpResponse, HttpResponseBase, StreamingHttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from jobs import openapi
from jobs.idempotency import HEADER, KeyedRequest, once
from jobs.output import NoOutput, read_output
from jobs.queries import find_job, integer_of, parse_id, parse_ids, parse_list_query, select_jobs
from jobs.serializers import brief_list, full_entries, full_list
from jobs.services import clone_job, delete_job, delete_jobs, remove_job, submit_job
from jobs.spec import parse_job
from prominence.documents import read_document
from prominence.errors import BadRequest, UnknownJob
from prominence.views import ApiView

PLAIN_TEXT = "text/plain; charset=utf-8"
READ_ONLY = frozenset({"GET", "HEAD"})


class JobsView(ApiView):
    """/jobs: submit (S145), list (S149, S150, C27), delete several (C26)."""

    @openapi.submit
    def post(self, request: Request) -> Response:
        user, document = _user(request), read_document(request)
        job = parse_job(document)
        keyed = _keyed(request, "POST /jobs", document)
        made = once(keyed, lambda: submit_job(owner=user, document=job).pk)
        return Response({"id": made}, status=201)

    @openapi.list_jobs
    def get(self, request: Request) -> Response:
        query = parse_list_query(request.query_params)
        jobs = select_jobs(_user(request).pk, query)
        return Response(full_list(jobs) if query.detail else brief_list(jobs))

    @openapi.delete_many
    def delete(self, request: Request) -> Response:
        text = request.query_params.get("id", "")
        if not text:
            raise BadRequest("a job id or list of job ids must be provided")
        user = _user(request)
        delete_jobs(owner=user, job_ids=parse_ids(text), actor=user.username)
        return Response({})


class JobView(ApiView):
    """/jobs/{id}: describe, an array of one or none (S146, D2), and delete (S153)."""

    job_token_methods = READ_ONLY

    @openapi.describe
    def get(self, request: Request, job_id: str) -> Response:
        job = find_job(_user(request).pk, parse_id(job_id))
        return Response(full_entries([job] if job else []))

    @openapi.delete
    def delete(self, request: Request, job_id: str) -> Response:
        user = _user(request)
        delete_job(owner=user, job_id=parse_id(job_id), actor=user.username)
        return Response({})  # 204 would crash a client (C18)


class CloneView(ApiView):
    """/jobs/{id}/clone: the same document once more (C24)."""

    @openapi.clone
    def put(self, request: Request, job_id: str) -> Response:
        user, number = _user(request), parse_id(job_id)
        keyed = _keyed(request, "clone", number)
        made = once(keyed, lambda: clone_job(owner=user, job_id=number).pk)
        return Response({"id": made}, 201)

    @extend_schema(exclude=True)
    def post(self, request: Request, job_id: str) -> Response:
        return self.put(request, job_id)


class RemoveView(ApiView):
    """/jobs/{id}/remove: what `leaveInQueue` kept may go (C25)."""

    @openapi.remove
    def put(self, request: Request, job_id: str) -> Response:
        remove_job(owner=_user(request), job_id=parse_id(job_id))
        return Response({})

    @extend_schema(exclude=True)
    def post(self, request: Request, job_id: str) -> Response:
        return self.put(request, job_id)


class OutputView(ApiView):
    """/jobs/{id}/stdout and /stderr (S152, C19): from byte `offset` of rank `node`, also while it runs."""

    job_token_methods = READ_ONLY
    stream = ""

    @openapi.output
    def get(self, request: Request, job_id: str) -> HttpResponseBase:
        rank = integer_of(request.query_params, "node", default=0, low=0)
        offset = integer_of(request.query_params, "offset", default=0, low=0)
        job = find_job(_user(request).pk, parse_id(job_id))
        if job is None:
            raise UnknownJob
        try:
            chunks = read_output(job=job, stream=self.stream, rank=rank, offset=offset)
            head = list(islice(chunks, 2))
        except NoOutput as error:
            raise BadRequest(f"{self.stream} does not exist") from error
        if len(head) < 2:
            return HttpResponse(b"".join(head), content_type=PLAIN_TEXT)
        return StreamingHttpResponse(chain(head, chunks), content_type=PLAIN_TEXT)


def _keyed(request: Request, action: str, document: object) -> KeyedRequest:
    """The request as one that may come again. Raises BadRequest for a key that cannot be used."""
    key = request.headers.get(HEADER)
    return KeyedRequest.of(_user(request), key=key, action=action, document=document)


def _user(request: Request) -> User:
    """The caller; views without a token check do not call this."""
    assert isinstance(request.user, User)  # noqa: S101 every view here demands authentication
    return request.user
