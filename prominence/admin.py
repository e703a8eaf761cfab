"""The admin's front page and its users: wires the numbers of all rooms together.

The dashboard answers: does it work, what runs, what waits, what is stuck. Bounded queries only.
"""

from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as BaseGroupAdmin
from django.contrib.auth.admin import UserAdmin as BaseUserAdmin
from django.contrib.auth.models import Group, User
from django.http import HttpRequest
from django.utils import timezone
from unfold.forms import (  # type: ignore[import-untyped]
    AdminPasswordChangeForm,
    UserChangeForm,
    UserCreationForm,
)

from clouds.overview import STATUS_COLOURS, nodes_by_status, usage_of_all
from clouds.states import IncarnationStatus
from jobs.overview import (
    active_jobs,
    ended_lately,
    latest_bad_ends,
    oldest_outbox,
    oldest_queued,
    outbox_overdue,
)
from jobs.page import reason_labels, status_label
from prominence.admin_format import ago, bar, duration, label
from prominence.admin_pages import ModelAdmin
from prominence.health import failing_parts

admin.site.index_title = "Overview"
admin.site.index_template = "prominence/dashboard.html"
admin.site.unregister(User)
admin.site.unregister(Group)


@admin.register(User)
class UserAdmin(BaseUserAdmin, ModelAdmin):  # type: ignore[type-arg]
    """Users are made when their token is first seen; only staff need a password."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "email", "is_active", "is_staff", "last_login", "date_joined")


@admin.register(Group)
class GroupAdmin(BaseGroupAdmin, ModelAdmin):  # type: ignore[type-arg]
    """Sets of permissions for staff."""


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """The front page's context; staff who may not see jobs or nodes get no numbers of them."""
    user = request.user
    if user.has_perm("jobs.view_job"):
        context["jobs"] = _jobs()
    if user.has_perm("clouds.view_node"):
        context["clouds"] = _clouds()
    return {**context, "failing": failing_parts()}


def _jobs() -> dict[str, Any]:
    now = timezone.now()
    waiting, stuck, ended = oldest_queued(), oldest_outbox(), ended_lately(now)
    return {
        **active_jobs(),
        "ended": ended,
        "ended_by_status": [(status_label(status), count) for status, count in ended.by_status],
        "oldest": waiting,
        "oldest_since": duration(now - waiting.queued_at) if waiting else "",
        "outbox": stuck,
        "outbox_since": duration(now - stuck.created_at) if stuck else "",
        "overdue": outbox_overdue(now),
        "bad_ends": [
            (event, status_label(event.after), reason_labels(event.reason), ago(event.at, now))
            for event in latest_bad_ends()
        ],
    }


def _clouds() -> dict[str, Any]:
    usage = usage_of_all()
    return {
        "nodes": [
            (_status(status), status, count)
            for status, count in nodes_by_status().items()
            if count or status == IncarnationStatus.READY
        ],
        "used": [
            ("CPUs", bar(usage.cpus), usage.cpus.percent),
            ("Memory", bar(usage.memory), usage.memory.percent),
            ("Disk", bar(usage.disk), usage.disk.percent),
        ],
    }


def _status(status: str) -> str:
    if not status:
        return label("never enrolled")
    return label(status, STATUS_COLOURS[IncarnationStatus(status)])
