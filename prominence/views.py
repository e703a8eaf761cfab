"""What every REST view shares, and the answers that belong to no app: health, unknown paths, Django's own errors."""

from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.utils.crypto import constant_time_compare
from django.views import defaults
from drf_spectacular.utils import extend_schema
from prometheus_client import CONTENT_TYPE_LATEST
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.permissions import IsAuthenticated
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from prominence.auth import JobTokenScope, authenticate_header_value
from prominence.errors import BadRequest, NoSuchPath, NotAuthenticated, NotAvailable, as_api_error
from prominence.health import failing_parts
from prominence.metrics import render

API_ROOTS = ("/api/", "/prominence/", "/node/")


class AnyAccept(BaseContentNegotiation):
    """Answers are JSON (or a job's own text), whatever the client says it accepts."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        return parsers[0]

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        return renderers[0], renderers[0].media_type


class ApiView(APIView):
    """Base of the REST views. A job's token may use `job_token_methods` if the path's `job_id` is its own."""

    content_negotiation_class = AnyAccept
    metadata_class = None
    permission_classes = [IsAuthenticated, JobTokenScope]
    job_token_methods: frozenset[str] = frozenset()


class HealthView(ApiView):
    """GET /health: 204, or 409 with the parts that do not work (C43); needs no token."""

    authentication_classes = []
    permission_classes = []

    @extend_schema(
        operation_id="health",
        summary="204 if everything works",
        responses={204: None, 409: {"type": "object", "required": ["errors"]}},
    )
    def get(self, request: Request) -> Response:
        failing = failing_parts()
        if failing:
            return Response({"errors": "; ".join(map(str, failing))}, status=409)
        return Response(status=204)


def metrics_view(request: HttpRequest) -> HttpResponse:
    """GET /metrics for Prometheus: with the operators' token (PROMINENCE_METRICS_TOKEN), or a staff member's own."""
    if not _is_operator(request.headers.get("Authorization", "")):
        return HttpResponse("operators only\n", status=403, content_type="text/plain")
    return HttpResponse(render(), content_type=CONTENT_TYPE_LATEST)


def _is_operator(header: str) -> bool:
    wanted = settings.CONFIG.metrics_token
    if wanted and constant_time_compare(header, f"Bearer {wanted}"):
        return True
    try:
        user, principal = authenticate_header_value(header)
    except NotAuthenticated:
        return False
    return user.is_staff and principal.job_id is None


@extend_schema(exclude=True)
class NotAvailableView(ApiView):
    """Paths that today's clients know and this server does not serve yet: 400, as a 404 misleads clients (C6)."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        raise NotAvailable(f"{kwargs['feature']} is not available yet")


@extend_schema(exclude=True)
class NoSuchPathView(ApiView):
    """Any other path below an API root: 404 in JSON (C9), also for those without a token."""

    authentication_classes = []
    permission_classes = []

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        hint = ": API paths do not end in a slash" if request.path.endswith("/") else ""
        raise NoSuchPath(f"No such path{hint}")


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """400 outside the REST views: a wrong Host header, or a body too large for the node's API."""
    if _is_api(request):
        error = as_api_error(exception) or BadRequest("Bad request")
        return JsonResponse(error.body(), status=error.http_status)
    return defaults.bad_request(request, exception)


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    if _is_api(request):
        return JsonResponse({"error": "Not authorized"}, status=403)
    return defaults.permission_denied(request, exception)


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    if _is_api(request):
        return JsonResponse({"error": "No such path"}, status=404)
    return defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponse | HttpResponseBase:
    """An error that we did not foresee; Django has logged the traceback."""
    if _is_api(request):
        return JsonResponse({"error": "Internal server error"}, status=500)
    return defaults.server_error(request)


def _is_api(request: HttpRequest) -> bool:
    return request.path.startswith(API_ROOTS)
