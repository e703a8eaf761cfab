"""What users may ask about where their jobs run."""

from django.contrib.auth.models import User
from rest_framework.request import Request
from rest_framework.response import Response

from clouds.explain import explain
from jobs import openapi
from jobs.queries import find_job, parse_id
from prominence.errors import UnknownJob
from prominence.views import ApiView


class WhyView(ApiView):
    """/jobs/{id}/why: why it is not running, per site and node, and what would help."""

    job_token_methods = frozenset({"GET", "HEAD"})

    @openapi.why
    def get(self, request: Request, job_id: str) -> Response:
        assert isinstance(request.user, User)  # noqa: S101 authentication is demanded
        job = find_job(request.user.pk, parse_id(job_id))
        if job is None:
            raise UnknownJob
        return Response(explain(job))
