"""Workflows for operators: to look at as a graph, to delete and to run again. Nothing is written here."""

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.safestring import SafeString

from prominence.admin_format import label, moment_cell, shorten, two_lines
from prominence.admin_pages import ReadOnlyAdmin, confirm, history_of, record
from workflows.models import Workflow
from workflows.page import COLOURS, graph_of, shown_jobs
from workflows.serializers import progress_of
from workflows.services import delete_workflows, rerun_workflow
from workflows.states import ACTIVE, TERMINAL, Progress, WorkflowStatus


@admin.register(Workflow)
class WorkflowAdmin(ReadOnlyAdmin):
    """The list shows progress as users see it; the page of a workflow draws its graph."""

    actions = ("delete_selected_workflows", "rerun_selected_workflows")
    list_display = ("id", "workflow", "state", "progress", "created", "started", "ended")
    list_display_links = ("id", "workflow")
    list_select_related = ("owner",)
    list_filter = ("status",)
    search_fields = ("pk",)
    search_help_text = "id or exact name"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Workflow]:
        workflows: QuerySet[Workflow] = super().get_queryset(request)
        return workflows.defer("head")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Workflow], search_term: str
    ) -> tuple[QuerySet[Workflow], bool]:
        text = search_term.strip()
        if not text:
            return queryset, False
        if text.isascii() and text.isdigit() and len(text) < 19:
            return queryset.filter(pk=int(text)), False
        return queryset.filter(name=text), False

    @admin.display(description="name and owner")
    def workflow(self, workflow: Workflow) -> SafeString:
        return two_lines(shorten(workflow.name, 40), workflow.owner, title=workflow.name)

    @admin.display(description="status")
    def state(self, workflow: Workflow) -> SafeString:
        return _status(workflow)

    @admin.display(description="progress")
    def progress(self, workflow: Workflow) -> str:
        found = progress_of([workflow])[workflow.pk]
        failed = f", {found.failed} failed" if found.failed else ""
        return f"{found.done}/{found.total}{failed}"

    @admin.display(description="created")
    def created(self, workflow: Workflow) -> SafeString | str:
        return moment_cell(workflow.created_at, timezone.now())

    @admin.display(description="started")
    def started(self, workflow: Workflow) -> SafeString | str:
        return moment_cell(workflow.started_at, timezone.now())

    @admin.display(description="ended")
    def ended(self, workflow: Workflow) -> SafeString | str:
        return moment_cell(workflow.ended_at, timezone.now())

    def has_delete_workflows_permission(self, request: HttpRequest) -> bool:
        """Who may use the actions: the rows themselves can't be deleted by anybody."""
        return request.user.has_perm("workflows.delete_workflow")

    def has_rerun_workflows_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("workflows.add_workflow")

    @admin.action(description="Delete selected workflows", permissions=["delete_workflows"])
    def delete_selected_workflows(
        self, request: HttpRequest, queryset: QuerySet[Workflow]
    ) -> HttpResponse | None:
        """End workflows for their users, with all their jobs."""
        if page := confirm(
            self, request, queryset, question="Delete these workflows?", verb="Delete the workflows"
        ):
            return page
        rows = list(queryset.filter(status__in=ACTIVE).select_related("owner"))
        for row in rows:
            delete_workflows(owner=row.owner, workflow_ids=[row.pk])
        asked = Workflow.objects.filter(pk__in=[row.pk for row in rows]).only("pk")
        record(request, asked, "asked for its deletion")
        messages.success(request, f"Workflows deleted, or being stopped: {len(rows)}")
        return None

    @admin.action(description="Rerun selected workflows", permissions=["rerun_workflows"])
    def rerun_selected_workflows(
        self, request: HttpRequest, queryset: QuerySet[Workflow]
    ) -> HttpResponse | None:
        """Run what failed or was never attempted, as new workflows of the same owners."""
        if page := confirm(
            self, request, queryset, question="Rerun these workflows?", verb="Rerun the workflows"
        ):
            return page
        rows = list(queryset.filter(status__in=TERMINAL).select_related("owner"))
        made = [rerun_workflow(owner=row.owner, workflow_id=row.pk).pk for row in rows]
        run = Workflow.objects.filter(pk__in=[row.pk for row in rows]).only("pk")
        record(request, run, "ran it again")
        messages.success(request, f"New workflows: {', '.join(map(str, made)) or 'none'}")
        return None

    def get_urls(self) -> list[URLPattern]:
        graph = path(
            "<int:workflow_id>/graph/",
            self.admin_site.admin_view(self.graph_view),
            name="workflows_workflow_graph",
        )
        return [graph, *super().get_urls()]

    def graph_view(self, request: HttpRequest, workflow_id: int) -> HttpResponse:
        """Stages and counts for the drawing."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        workflow = Workflow.objects.filter(pk=workflow_id).first()
        if workflow is None:
            raise Http404("no such workflow")
        return JsonResponse(graph_of(workflow))

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        workflow = self.get_object(request, object_id)
        if not self.has_view_permission(request, workflow):
            raise PermissionDenied
        if workflow is None:
            return super().change_view(request, object_id, form_url, extra_context)
        context = {
            **self.admin_site.each_context(request),
            "workflow": workflow,
            "status": _status(workflow),
            "progress": _sentence(progress_of([workflow])[workflow.pk]),
            "jobs": shown_jobs(workflow),
            "title": f"Workflow {workflow.pk}",
            "opts": self.opts,
            "original": workflow,
            "actions": self._actions_for(request, workflow),
            "operators": history_of(workflow),
        }
        return TemplateResponse(request, "admin/workflows/workflow/change_form.html", context)

    def _actions_for(self, request: HttpRequest, workflow: Workflow) -> list[dict[str, str]]:
        """Buttons for what may be done with it now."""
        active = workflow.status in ACTIVE
        if active and self.has_delete_workflows_permission(request):
            return [{"name": "delete_selected_workflows", "label": "Delete this workflow"}]
        if not active and self.has_rerun_workflows_permission(request):
            return [{"name": "rerun_selected_workflows", "label": "Rerun this workflow"}]
        return []


def _status(workflow: Workflow) -> SafeString:
    deleting = workflow.delete_requested_at is not None and workflow.ended_at is None
    text = f"{workflow.status}, being deleted" if deleting else workflow.status
    return label(text, COLOURS[WorkflowStatus(workflow.status)])


def _sentence(found: Progress) -> str:
    return (
        f"{found.done} done · {found.failed} failed · {found.queued} queued ·"
        f" {found.waiting} waiting · {found.total} in all"
    )
