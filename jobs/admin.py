"""Jobs, attempts, placements and the outbox for operators: to look at, and to delete jobs.

Nothing is written here: deletion goes through `jobs.transition`.
"""

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from jobs.admin_filters import (
    CreatedFilter,
    FaultFilter,
    ImageFilter,
    LabelFilter,
    NodeFilter,
    OutcomeFilter,
    ReasonFilter,
    SiteFilter,
    StageFilter,
    StatusFilter,
    WorkflowFilter,
    search_jobs,
)
from jobs.models import Attempt, Job, Outbox, Placement, Stream
from jobs.page import (
    attempt_label,
    elapsed,
    job_page,
    reason_labels,
    status_labels,
    whole_log,
)
from jobs.transition import delete_jobs
from prominence.admin_format import NOTHING, ago, label, moment, moment_cell, shorten, two_lines
from prominence.admin_format import Colour as C
from prominence.admin_pages import (
    AutocompleteSelectFilter,
    ReadOnlyAdmin,
    confirm,
    history_of,
    record,
)

DELETE_PAGE = 500
STUCK_TRIES = 3


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    """The list shows the current attempt's place; the page of a job tells its whole story."""

    actions = ("delete_selected_jobs",)
    list_display = (
        "id", "job", "state", "program", "place", "tries", "created", "started", "ended", "elapsed",
    )  # fmt: skip
    list_display_links = ("id", "job")
    list_select_related = ("owner",)
    list_filter = (
        StatusFilter,
        OutcomeFilter,
        ReasonFilter,
        FaultFilter,
        SiteFilter,
        NodeFilter,
        ImageFilter,
        LabelFilter,
        WorkflowFilter,
        StageFilter,
        ("owner", AutocompleteSelectFilter),
        ("created_at", CreatedFilter),
    )
    search_fields = ("pk",)
    search_help_text = "id, name, image, owner or label=value"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Job]:
        current = Placement.objects.filter(
            attempt__job=OuterRef("pk"), attempt__number=OuterRef("attempt"), rank=0
        )
        jobs: QuerySet[Job] = super().get_queryset(request)
        return jobs.defer("spec", "labels").annotate(
            node=Subquery(current.values("node_name")[:1]),
            site=Subquery(current.values("site")[:1]),
        )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Job], search_term: str
    ) -> tuple[QuerySet[Job], bool]:
        return search_jobs(queryset, search_term), False

    @admin.display(description="name and owner")
    def job(self, job: Job) -> SafeString:
        return two_lines(shorten(job.name, 24), job.owner, title=job.name)

    @admin.display(description="status")
    def state(self, job: Job) -> SafeString:
        return status_labels(job)

    @admin.display(description="image and command")
    def program(self, job: Job) -> SafeString:
        return two_lines(
            _shorten_image(job.image),
            format_html('<span class="p-mono">{}</span>', shorten(job.command, 30)),
            title=f"{job.image}\n{job.command[:1000]}",
        )

    @admin.display(description="node and site")
    def place(self, job: Any) -> SafeString | str:
        return two_lines(job.node, job.site) if job.node else NOTHING

    @admin.display(description="attempt")
    def tries(self, job: Job) -> SafeString | str:
        if not job.attempt:
            return NOTHING
        return two_lines(job.attempt, f"{job.retries}/{job.maximum_retries} retries")

    @admin.display(description="created")
    def created(self, job: Job) -> SafeString | str:
        return moment_cell(job.created_at, timezone.now())

    @admin.display(description="started")
    def started(self, job: Job) -> SafeString | str:
        return moment_cell(job.started_at, timezone.now())

    @admin.display(description="ended")
    def ended(self, job: Job) -> SafeString | str:
        return moment_cell(job.ended_at, timezone.now())

    @admin.display(description="elapsed")
    def elapsed(self, job: Job) -> str:
        return elapsed(job.started_at, job.ended_at, timezone.now())

    def has_delete_jobs_permission(self, request: HttpRequest) -> bool:
        """Who may use the action: the rows themselves can't be deleted by anybody."""
        return request.user.has_perm("jobs.delete_job")

    @admin.action(description="Delete selected jobs", permissions=["delete_jobs"])
    def delete_selected_jobs(
        self, request: HttpRequest, queryset: QuerySet[Job]
    ) -> HttpResponse | None:
        """End jobs for their users: waiting ones at once, running ones when their node has stopped them."""
        if page := confirm(
            self, request, queryset, question="Delete these jobs?", verb="Delete the jobs"
        ):
            return page
        rows = Job.objects.filter(pk__in=queryset.values("pk")).active()
        ids = list(rows.order_by("pk").values_list("pk", flat=True))
        for start in range(0, len(ids), DELETE_PAGE):
            delete_jobs(ids[start : start + DELETE_PAGE], actor=request.user.get_username())
        record(request, Job.objects.filter(pk__in=ids).only("pk"), "asked for its deletion")
        messages.success(request, f"Jobs deleted, or being stopped by their nodes: {len(ids)}")
        if skipped := queryset.count() - len(ids):
            messages.info(request, f"{skipped} jobs had ended already and stay as they are.")
        return None

    def get_urls(self) -> list[URLPattern]:
        pages = [
            path(
                f"<int:job_id>/{stream}/",
                self.admin_site.admin_view(self.log_view),
                {"stream": stream},
                name=f"jobs_job_{stream}",
            )
            for stream in Stream.values
        ]
        return [*pages, *super().get_urls()]

    def log_view(self, request: HttpRequest, job_id: int, stream: str) -> HttpResponseBase:
        """The whole log as plain text."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        job = Job.objects.filter(pk=job_id).first()
        if job is None:
            raise Http404("no such job")
        return StreamingHttpResponse(
            whole_log(job, stream), content_type="text/plain; charset=utf-8"
        )

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        job = self.get_object(request, object_id)
        if not self.has_view_permission(request, job):
            raise PermissionDenied
        if job is None:
            return super().change_view(request, object_id, form_url, extra_context)
        context = {
            **self.admin_site.each_context(request),
            **job_page(job, now=timezone.now()),
            "title": f"Job {job.pk}",
            "opts": self.opts,
            "original": job,
            "may_delete": self.has_delete_jobs_permission(request) and job.ended_at is None,
            "operators": history_of(job),
        }
        return TemplateResponse(request, "admin/jobs/job/change_form.html", context)


def _shorten_image(image: str) -> str:
    """The end of an image's name tells more than its registry."""
    return image if len(image) <= 30 else "…" + image[-29:]


def _job_link(job_id: int, text: str = "") -> SafeString:
    address = reverse("admin:jobs_job_change", args=[job_id])
    return format_html('<a class="p-link" href="{}">{}</a>', address, text or f"job {job_id}")


@admin.register(Attempt)
class AttemptAdmin(ReadOnlyAdmin):
    list_display = (
        "id", "job_link", "number", "state", "why", "detail_start", "created", "started", "ended",
        "elapsed",
    )  # fmt: skip
    list_filter = ("status", ReasonFilter, FaultFilter)
    search_fields = ("job__pk",)
    search_help_text = "job id"

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Attempt], search_term: str
    ) -> tuple[QuerySet[Attempt], bool]:
        return _of_job(queryset, "job_id", search_term), False

    @admin.display(description="job")
    def job_link(self, attempt: Attempt) -> SafeString:
        return _job_link(attempt.job_id)

    @admin.display(description="status")
    def state(self, attempt: Attempt) -> SafeString:
        return attempt_label(attempt.status)

    @admin.display(description="reason")
    def why(self, attempt: Attempt) -> SafeString | str:
        return reason_labels(attempt.reason) or NOTHING

    @admin.display(description="detail")
    def detail_start(self, attempt: Attempt) -> str:
        return shorten(attempt.detail, 60) or NOTHING

    @admin.display(description="assigned")
    def created(self, attempt: Attempt) -> SafeString | str:
        return moment_cell(attempt.created_at, timezone.now())

    @admin.display(description="started")
    def started(self, attempt: Attempt) -> SafeString | str:
        return moment_cell(attempt.started_at, timezone.now())

    @admin.display(description="ended")
    def ended(self, attempt: Attempt) -> SafeString | str:
        return moment_cell(attempt.ended_at, timezone.now())

    @admin.display(description="elapsed")
    def elapsed(self, attempt: Attempt) -> str:
        return elapsed(attempt.started_at, attempt.ended_at, timezone.now())


@admin.register(Placement)
class PlacementAdmin(ReadOnlyAdmin):
    list_display = (
        "id", "job_link", "rank", "node_name", "site", "incarnation", "needs", "batch", "charged",
        "live",
    )  # fmt: skip
    list_select_related = ("attempt",)
    list_filter = ("live", "charged", SiteFilter)
    search_fields = ("attempt__job__pk",)
    search_help_text = "job id"

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Placement], search_term: str
    ) -> tuple[QuerySet[Placement], bool]:
        return _of_job(queryset, "attempt__job_id", search_term), False

    @admin.display(description="attempt")
    def job_link(self, placement: Placement) -> SafeString:
        attempt = placement.attempt
        return _job_link(attempt.job_id, f"job {attempt.job_id}, attempt {attempt.number}")

    @admin.display(description="holds")
    def needs(self, placement: Placement) -> str:
        return f"{placement.cpus} CPUs, {placement.memory_mb} MB, disk {placement.disk_mb} MB"


@admin.register(Outbox)
class OutboxAdmin(ReadOnlyAdmin):
    """What has not had its effect yet: many tries or a great age say that something is stuck."""

    list_display = ("id", "topic", "about", "tried", "due", "age", "created")
    list_filter = ("topic",)
    search_fields = ("key",)
    ordering = ("pk",)
    search_help_text = "key, such as 123.1.0 (job, attempt, rank)"

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Outbox], search_term: str
    ) -> tuple[QuerySet[Outbox], bool]:
        key = search_term.strip()
        return (queryset.filter(key__startswith=key) if key else queryset), False

    @admin.display(description="key")
    def about(self, row: Outbox) -> SafeString | str:
        job = row.key.partition(".")[0]
        return _job_link(int(job), row.key) if job.isdigit() else row.key

    @admin.display(description="tries")
    def tried(self, row: Outbox) -> SafeString | str:
        return label(row.tries, C.RED) if row.tries > STUCK_TRIES else str(row.tries)

    @admin.display(description="due")
    def due(self, row: Outbox) -> SafeString | str:
        now = timezone.now()
        return label("now", C.ORANGE) if row.due_at <= now else ago(row.due_at, now)

    @admin.display(description="age")
    def age(self, row: Outbox) -> SafeString | str:
        return ago(row.created_at, timezone.now())

    @admin.display(description="created")
    def created(self, row: Outbox) -> str:
        return moment(row.created_at)


def _of_job(rows: QuerySet[Any], column: str, text: str) -> QuerySet[Any]:
    """Rows of one job, by its id."""
    if not text.strip():
        return rows
    number = text.strip()
    known = number.isascii() and number.isdigit() and len(number) < 19
    return rows.filter(**{column: int(number)}) if known else rows.none()
