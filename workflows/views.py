"""The REST edge of workflows (C36-C38): parse, one call, render. Paths have no trailing slash (C4)."""

from itertools import chain, islice

from django.contrib.auth.models import User
from django.http import HttpResponse, HttpResponseBase, StreamingHttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from jobs.output import NoOutput, read_output
from jobs.queries import integer_of, is_set, parse_id, parse_ids, parse_list_query
from prominence.documents import read_document
from prominence.errors import BadRequest
from prominence.views import ApiView
from workflows import openapi
from workflows.models import Workflow
from workflows.queries import find_instance, parse_place, select_workflows
from workflows.serializers import brief_workflows, full_workflow
from workflows.services import (
    UnknownWorkflow,
    clone_workflow,
    delete_workflows,
    plan_rerun,
    plan_submission,
    remove_workflow,
    rerun_workflow,
    submit_workflow,
)
from workflows.spec import parse_workflow

PLAIN_TEXT = "text/plain; charset=utf-8"


class WorkflowsView(ApiView):
    """/workflows: submit or plan, list, delete several."""

    @openapi.submit
    def post(self, request: Request) -> Response:
        document = parse_workflow(read_document(request))
        if is_set(request.query_params, "plan"):
            return Response({"plan": plan_submission(document)})
        workflow = submit_workflow(owner=_user(request), document=document)
        return Response({"id": workflow.pk}, status=201)

    @openapi.list_workflows
    def get(self, request: Request) -> Response:
        query = parse_list_query(request.query_params)
        workflows = select_workflows(_user(request).pk, query)
        if query.detail:
            return Response([full_workflow(workflow) for workflow in workflows])
        return Response(brief_workflows(workflows))

    @openapi.delete_many
    def delete(self, request: Request) -> Response:
        text = request.query_params.get("id", "")
        if not text:
            raise BadRequest("a workflow id or list of workflow ids must be provided")
        delete_workflows(owner=_user(request), workflow_ids=parse_ids(text))
        return Response({})


class WorkflowView(ApiView):
    """/workflows/{id}: describe, an array of one or none (D2), rerun (200, S141) and delete."""

    @openapi.describe
    def get(self, request: Request, workflow_id: str) -> Response:
        workflow = _find(request, workflow_id)
        return Response([full_workflow(workflow)] if workflow else [])

    @openapi.rerun
    def put(self, request: Request, workflow_id: str) -> Response:
        user, number = _user(request), parse_id(workflow_id)
        if is_set(request.query_params, "plan"):
            return Response({"plan": plan_rerun(owner=user, workflow_id=number)})
        return Response({"id": rerun_workflow(owner=user, workflow_id=number).pk})

    @openapi.delete
    def delete(self, request: Request, workflow_id: str) -> Response:
        delete_workflows(owner=_user(request), workflow_ids=[parse_id(workflow_id)])
        return Response({})


class CloneView(ApiView):
    """PUT /workflows/{id}/clone: 201 and a new id (U38)."""

    @openapi.clone
    def put(self, request: Request, workflow_id: str) -> Response:
        workflow = clone_workflow(owner=_user(request), workflow_id=parse_id(workflow_id))
        return Response({"id": workflow.pk}, status=201)

    @extend_schema(exclude=True)
    def post(self, request: Request, workflow_id: str) -> Response:
        return self.put(request, workflow_id)


class RemoveView(ApiView):
    """PUT /workflows/{id}/remove (U39)."""

    @openapi.remove
    def put(self, request: Request, workflow_id: str) -> Response:
        remove_workflow(owner=_user(request), workflow_id=parse_id(workflow_id))
        return Response({})

    @extend_schema(exclude=True)
    def post(self, request: Request, workflow_id: str) -> Response:
        return self.put(request, workflow_id)


class InstanceOutputView(ApiView):
    """/workflows/{id}/{job}[/{n}]/stdout and /stderr (C37, C38, D11): from byte `offset` of rank `node`."""

    stream = ""

    @openapi.output
    def get(self, request: Request, workflow_id: str, place: str) -> HttpResponseBase:
        offset = integer_of(request.query_params, "offset", default=0, low=0)
        workflow = _find(request, workflow_id)
        if workflow is None:
            raise UnknownWorkflow
        node = request.query_params.get("node", "").strip()
        places = parse_place(place, node=node, workflow_name=workflow.name)
        job, rank = find_instance(workflow, places)
        try:
            chunks = read_output(job=job, stream=self.stream, rank=rank, offset=offset)
            head = list(islice(chunks, 2))
        except NoOutput as error:
            raise BadRequest(f"{self.stream} does not exist") from error
        if len(head) < 2:
            return HttpResponse(b"".join(head), content_type=PLAIN_TEXT)
        return StreamingHttpResponse(chain(head, chunks), content_type=PLAIN_TEXT)


def _find(request: Request, workflow_id: str) -> Workflow | None:
    own = Workflow.objects.filter(owner=_user(request))
    return own.filter(pk=parse_id(workflow_id)).first()


def _user(request: Request) -> User:
    assert isinstance(request.user, User)  # noqa: S101 every view here demands authentication
    return request.user
