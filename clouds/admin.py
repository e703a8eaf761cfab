"""Nodes, sites and enrolment tokens for operators: to look at, and to drain or revoke nodes.

Nothing is written here but a site's region: what is done with nodes goes through `clouds.services`.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.safestring import SafeString

from clouds.models import EnrolToken, Incarnation, Node, Site
from clouds.overview import (
    STATUS_COLOURS,
    Usage,
    nodes_with_present,
    sites_with_usage,
    usage_of,
    usage_of_site,
)
from clouds.services import drain_nodes, restore_nodes, resume_nodes, revoke_nodes
from clouds.states import IncarnationStatus
from jobs.models import Placement
from prominence.admin_format import (
    NOTHING,
    Colour,
    ago,
    bar,
    label,
    labels,
    moment,
    shorten,
    two_lines,
    words,
)
from prominence.admin_pages import DropdownFilter, ReadOnlyAdmin, confirm, history_of, record

HISTORY_ROWS = 50
LIVE_ROWS = 200
NEVER = "never enrolled"


class StatusFilter(DropdownFilter):
    """The status of a node's latest incarnation; needs the annotation `status`."""

    title = "status"
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(status.value, status.value) for status in IncarnationStatus]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(status=self.value()) if self.value() else queryset


class SiteFilter(DropdownFilter):
    title = "site"
    parameter_name = "site"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [
            (name, name) for name in Site.objects.order_by("name").values_list("name", flat=True)
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(site__name=self.value()) if self.value() else queryset


class RefusedFilter(DropdownFilter):
    title = "refused uses"
    parameter_name = "refused"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "with refused uses")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(refused_uses__gt=0) if self.value() else queryset


@admin.register(Node)
class NodeAdmin(ReadOnlyAdmin):
    """The list shows each node's present life; its page the earlier ones as well."""

    actions = ("drain", "resume", "revoke", "restore")
    list_display = (
        "node", "state", "cpus", "memory", "disk", "attempts", "heard", "runtimes", "machine",
    )  # fmt: skip
    list_select_related = ("site",)
    list_filter = (StatusFilter, SiteFilter)
    search_fields = ("name", "incarnations__hostname")
    search_help_text = "node or host name"
    sortable_by: ClassVar[tuple[str, ...]] = ("node",)
    ordering = ("name",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Node]:
        nodes: QuerySet[Node] = super().get_queryset(request)
        return nodes_with_present(nodes)

    @admin.display(description="node and site", ordering="name")
    def node(self, node: Any) -> SafeString:
        return two_lines(node.name, node.site)

    @admin.display(description="status")
    def state(self, node: Any) -> SafeString:
        return node_labels(node)

    @admin.display(description="CPUs used")
    def cpus(self, node: Any) -> SafeString | str:
        return bar(usage.cpus) if (usage := _usage(node)) else NOTHING

    @admin.display(description="memory used")
    def memory(self, node: Any) -> SafeString | str:
        return bar(usage.memory) if (usage := _usage(node)) else NOTHING

    @admin.display(description="disk used")
    def disk(self, node: Any) -> SafeString | str:
        return bar(usage.disk) if (usage := _usage(node)) else NOTHING

    @admin.display(description="attempts")
    def attempts(self, node: Any) -> SafeString | str:
        if not node.present:
            return NOTHING
        row = node.present[0]
        return two_lines(f"{row.running} running", f"{row.assigned} assigned")

    @admin.display(description="last heard")
    def heard(self, node: Any) -> SafeString | str:
        return ago(node.present[0].heard_at, timezone.now()) if node.present else NOTHING

    @admin.display(description="runtimes")
    def runtimes(self, node: Any) -> SafeString | str:
        return words(sorted(node.present[0].runtimes)) if node.present else NOTHING

    @admin.display(description="host and boot")
    def machine(self, node: Any) -> SafeString | str:
        if not node.present:
            return NOTHING
        row = node.present[0]
        return two_lines(
            shorten(row.hostname, 18), shorten(row.boot, 14), title=f"{row.hostname}\n{row.boot}"
        )

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Who may use the actions; the rows themselves can't be edited by anybody."""
        return request.user.has_perm("clouds.change_node")

    @admin.action(description="Drain: give no more jobs", permissions=["operate"])
    def drain(self, request: HttpRequest, queryset: QuerySet[Node]) -> None:
        self._do(request, queryset, drain_nodes, "{} nodes drain now.", "drained")

    @admin.action(description="Resume: give jobs again", permissions=["operate"])
    def resume(self, request: HttpRequest, queryset: QuerySet[Node]) -> None:
        self._do(request, queryset, resume_nodes, "{} nodes are ready again.", "resumed")

    @admin.action(description="Revoke: refuse a new enrolment", permissions=["operate"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[Node]) -> HttpResponse | None:
        question = "Refuse a new enrolment of these nodes?"
        if page := confirm(self, request, queryset, question=question, verb="Revoke"):
            return page
        self._do(request, queryset, revoke_nodes, "{} nodes may not enrol again.", "revoked")
        return None

    @admin.action(description="Restore: allow enrolment again", permissions=["operate"])
    def restore(self, request: HttpRequest, queryset: QuerySet[Node]) -> None:
        self._do(request, queryset, restore_nodes, "{} nodes may enrol again.", "restored")

    def _do(
        self,
        request: HttpRequest,
        nodes: QuerySet[Node],
        service: Callable[[Iterable[int]], int],
        *texts: str,
    ) -> None:
        """Call the service, record who did it, and say how many nodes it changed."""
        said, done = texts
        ids = list(nodes.values_list("pk", flat=True))
        changed = service(ids)
        if changed:
            record(request, Node.objects.filter(pk__in=ids), done)
        level = messages.SUCCESS if changed else messages.WARNING
        messages.add_message(request, level, said.format(changed or "No"))

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        node = self.get_object(request, object_id)
        if not self.has_view_permission(request, node):
            raise PermissionDenied
        if node is None:
            return super().change_view(request, object_id, form_url, extra_context)
        context = {
            **self.admin_site.each_context(request),
            **node_page(node, timezone.now()),
            "title": f"Node {node.name}",
            "opts": self.opts,
            "original": node,
            "may_operate": self.has_operate_permission(request),
        }
        return TemplateResponse(request, "admin/clouds/node/change_form.html", context)


def node_labels(node: Any) -> SafeString:
    """The status of a node (annotated), and whether it was revoked."""
    return labels(
        status_label(node.status) if node.status else label(NEVER),
        label("revoked", Colour.RED) if node.revoked_at else "",
    )


def status_label(status: str) -> SafeString:
    return label(status, STATUS_COLOURS[IncarnationStatus(status)])


def node_page(node: Any, now: datetime) -> dict[str, Any]:
    """The template's context for a node that has `present` and `status`."""
    present: Incarnation | None = node.present[0] if node.present else None
    rows = Incarnation.objects.filter(node=node).order_by("-pk")[:HISTORY_ROWS]
    live = Placement.objects.filter(live=True, incarnation=present.pk) if present else None
    return {
        "node": node,
        "present": present,
        "status": node_labels(node),
        "usage": usage_of(present) if present else None,
        "heard": ago(present.heard_at, now) if present else NOTHING,
        "runtimes": sorted(present.runtimes.items()) if present else [],
        "incarnations": [(row, status_label(row.status)) for row in rows],
        "live": live.select_related("attempt__job__owner").order_by("pk")[:LIVE_ROWS]
        if live is not None
        else [],
        "operators": history_of(node),
    }


def _usage(node: Any) -> Usage | None:
    """What is used of a living node; a dead one has nothing to use."""
    if not node.present or node.present[0].status == IncarnationStatus.DEAD:
        return None
    return usage_of(node.present[0])


@admin.register(Site)
class SiteAdmin(ReadOnlyAdmin):
    """Sites come with their first node; only the region is for operators to set."""

    list_display = ("name", "region", "nodes", "cpus", "memory", "disk")
    fields = ("name", "region", "created_at")
    readonly_fields = ("name", "created_at")
    search_fields = ("name", "region")
    sortable_by: ClassVar[tuple[str, ...]] = ("name", "region")
    ordering = ("name",)
    list_filter_submit = False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return request.user.has_perm("clouds.change_site")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Site]:
        sites: QuerySet[Site] = super().get_queryset(request)
        return sites_with_usage(sites)

    @admin.display(description="nodes")
    def nodes(self, site: Any) -> str:
        return str(site.node_count)

    @admin.display(description="CPUs used")
    def cpus(self, site: Site) -> SafeString | str:
        return bar(usage_of_site(site).cpus)

    @admin.display(description="memory used")
    def memory(self, site: Site) -> SafeString | str:
        return bar(usage_of_site(site).memory)

    @admin.display(description="disk used")
    def disk(self, site: Site) -> SafeString | str:
        return bar(usage_of_site(site).disk)


@admin.register(EnrolToken)
class EnrolTokenAdmin(ReadOnlyAdmin):
    """One-time tokens, without their hashes. A refused use is a second machine with the same token, or a thief."""

    list_display = ("id", "node", "state", "refused", "created", "expires", "used", "used_by")
    list_select_related = ("node",)
    list_filter = (RefusedFilter,)
    search_fields = ("node__name",)
    search_help_text = "node name"
    fields = ("node", "state", "refused_uses", "created_at", "expires_at", "used_at", "used_by")
    readonly_fields = ("state",)

    @admin.display(description="state")
    def state(self, token: EnrolToken) -> SafeString:
        if token.used_at is not None:
            return label("used", Colour.GREY)
        if token.expires_at <= timezone.now():
            return label("expired", Colour.GREY)
        return label("open", Colour.GREEN)

    @admin.display(description="refused uses")
    def refused(self, token: EnrolToken) -> SafeString | str:
        return label(token.refused_uses, Colour.RED) if token.refused_uses else "0"

    @admin.display(description="created")
    def created(self, token: EnrolToken) -> str:
        return moment(token.created_at)

    @admin.display(description="expires")
    def expires(self, token: EnrolToken) -> SafeString | str:
        return ago(token.expires_at, timezone.now())

    @admin.display(description="used")
    def used(self, token: EnrolToken) -> SafeString | str:
        return ago(token.used_at, timezone.now())
