"""What all pages of the admin share: the theme's base class, rows nobody may edit, counting that stays bounded.

The only importer of the theme's classes, which carry no types.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib.admin import ShowFacets
from django.contrib.admin.models import CHANGE, LogEntry
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.utils.functional import cached_property

if TYPE_CHECKING:
    from django.contrib.admin import FieldListFilter, ModelAdmin, SimpleListFilter
    from django.contrib.admin.views.main import ChangeList

    class DropdownFilter(SimpleListFilter): ...

    class TextFilter(SimpleListFilter): ...

    class AutocompleteSelectFilter(FieldListFilter): ...

    class RangeDateTimeFilter(FieldListFilter): ...

else:
    from unfold.admin import ModelAdmin
    from unfold.contrib.filters.admin import (
        AutocompleteSelectFilter,
        DropdownFilter,
        RangeDateTimeFilter,
        TextFilter,
    )
    from unfold.views import ChangeList

__all__ = [
    "AutocompleteSelectFilter",
    "BoundedPaginator",
    "DropdownFilter",
    "ModelAdmin",
    "RangeDateTimeFilter",
    "ReadOnlyAdmin",
    "TextFilter",
    "confirm",
    "history_of",
    "record",
]

# A list is counted and paged up to here; what lies deeper is found by filters and search.
COUNT_LIMIT = 10_000
NAMES_SHOWN = 50
HISTORY_ROWS = 50


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts at most COUNT_LIMIT rows, however many there are."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return int(rows[:COUNT_LIMIT].count())


class BoundedChangeList(ChangeList):
    """Offers "show all" only where a filter or search hides something."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        if not self.query and not self.has_active_filters:
            self.full_result_count = self.result_count


class ReadOnlyAdmin(ModelAdmin):  # type: ignore[type-arg]
    """Rows to look at: no adding, changing or deleting. Large tables stay cheap to list."""

    paginator = BoundedPaginator
    show_full_result_count = False
    show_facets = ShowFacets.NEVER  # they count every choice of every filter
    list_per_page = 50
    list_max_show_all = 0
    list_fullwidth = True
    list_filter_submit = True
    list_disable_select_all = True
    sortable_by: ClassVar[tuple[str, ...]] = ("id",)
    ordering = ("-pk",)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return BoundedChangeList

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


def confirm(
    model_admin: Any, request: HttpRequest, rows: "QuerySet[Any]", *, question: str, verb: str
) -> TemplateResponse | None:
    """A page that asks `question` about the selected rows, or None once it was answered with yes.

    `verb` is the text of the button. Answering sends the same action again.
    """
    if request.POST.get("confirmed") == "yes":
        return None
    ids = list(rows.order_by("pk").values_list("pk", flat=True))
    context = {
        **model_admin.admin_site.each_context(request),
        "title": question,
        "opts": model_admin.model._meta,
        "action": request.POST.get("action", ""),
        "ids": ids,
        "rows": list(rows.order_by("pk")[:NAMES_SHOWN]),
        "more": max(0, len(ids) - NAMES_SHOWN),
        "verb": verb,
    }
    return TemplateResponse(request, "prominence/confirm.html", context)


def record(request: HttpRequest, rows: "QuerySet[Any]", done: str) -> None:
    """Keep who did what to these rows."""
    LogEntry.objects.log_actions(
        user_id=int(request.user.pk or 0), queryset=rows, action_flag=CHANGE, change_message=done
    )


def history_of(row: Model) -> "QuerySet[LogEntry]":
    """What operators did to a row, oldest first."""
    meta = row._meta
    entries = LogEntry.objects.filter(
        content_type__app_label=meta.app_label,
        content_type__model=meta.model_name,
        object_id=str(row.pk),
    )
    return entries.select_related("user").order_by("pk")[:HISTORY_ROWS]
