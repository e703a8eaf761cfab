"""How operators narrow down a list of jobs: by reason, fault, place and owner, and one search box.

Search is kept bounded: numbers and labels have an index; texts are looked for among the newest jobs only.
"""

from datetime import UTC, date, datetime, time
from typing import Any, TypeVar

from django.db.models import Max, Q, QuerySet
from django.http import HttpRequest

from jobs.models import Job, Label
from jobs.queries import MAXIMUM_ID
from jobs.states import REASONS, Fault, JobStatus, Outcome, Reason
from prominence.admin_pages import DropdownFilter, RangeDateTimeFilter, TextFilter

SEARCHED_JOBS = 200_000
T = TypeVar("T", date, time)


class StatusFilter(DropdownFilter):
    title = "status"
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(status.value, status.value) for status in JobStatus]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        return queryset.filter(status=self.value()) if self.value() else queryset


class OutcomeFilter(DropdownFilter):
    title = "outcome"
    parameter_name = "outcome"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(outcome.value, f"ended {outcome.value}") for outcome in Outcome]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        return queryset.filter(outcome=self.value()) if self.value() else queryset


class ReasonFilter(DropdownFilter):
    """Only reasons a job can carry at its end or while it waits again."""

    title = "reason"
    parameter_name = "reason"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(reason.value, str(reason.label) or reason.value) for reason in REASONS]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(reason=self.value()) if self.value() else queryset


class FaultFilter(DropdownFilter):
    """Whose fault an end was, by the table of reasons."""

    title = "fault"
    parameter_name = "fault"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        known = {meaning.fault for meaning in REASONS.values()}
        return [(fault.value, fault.value) for fault in Fault if fault in known]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if not self.value():
            return queryset
        return queryset.filter(reason__in=reasons_of(str(self.value())))


def reasons_of(fault: str) -> list[Reason]:
    """The reasons that are this one's fault."""
    return [reason for reason, meaning in REASONS.items() if meaning.fault == fault]


class SiteFilter(TextFilter):
    """The site of the current attempt, by its exact name; needs the annotation `site`."""

    title = "site"
    parameter_name = "site"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(site=self.value()) if self.value() else queryset


class NodeFilter(TextFilter):
    """The node of the current attempt, by its exact name; needs the annotation `node`."""

    title = "node"
    parameter_name = "node"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(node=self.value()) if self.value() else queryset


class ImageFilter(TextFilter):
    """The image of the first task, by its exact name, among the newest SEARCHED_JOBS."""

    title = "image"
    parameter_name = "image"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        if not self.value():
            return queryset
        return queryset.filter(image=self.value(), pk__gt=_newest() - SEARCHED_JOBS)


class LabelFilter(TextFilter):
    """A label as `key=value`; what is none is carried by no job."""

    title = "label (key=value)"
    parameter_name = "label"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        if not self.value():
            return queryset
        key, _, value = str(self.value()).partition("=")
        return queryset.filter(pk__in=Label.objects.filter(key=key, value=value).values("job_id"))


class WorkflowFilter(TextFilter):
    """Jobs of a workflow, by its number."""

    title = "workflow"
    parameter_name = "workflow"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return _by_number(queryset, "workflow", self.value())


class StageFilter(TextFilter):
    """Jobs of a stage of a workflow, by its number: what a box of the graph leads to."""

    title = "stage"
    parameter_name = "stage"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return _by_number(queryset, "stage", self.value())


def _by_number(rows: QuerySet[Any], column: str, text: str | None) -> QuerySet[Any]:
    if not text:
        return rows
    known = text.isascii() and text.isdigit() and len(text) < 19
    return rows.filter(**{column: int(text)}) if known else rows.none()


class CreatedFilter(RangeDateTimeFilter):
    """Created between two moments, in UTC; a day without a time counts whole. What is no date is left out."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        wanted = {}
        for end, lookup, default in (("from", "gte", time.min), ("to", "lte", time.max)):
            name = f"{self.field_path}_{end}"
            day = _parse(date, self.used_parameters.get(f"{name}_0"))
            hour = _parse(time, self.used_parameters.get(f"{name}_1"))
            if day is not None:
                moment = datetime.combine(day, hour or default, tzinfo=UTC)
                wanted[f"{self.field_path}__{lookup}"] = moment
        return queryset.filter(**wanted)


def _parse(kind: type[T], text: object) -> T | None:
    try:
        return kind.fromisoformat(str(text)) if text else None
    except ValueError:
        return None


def search_jobs(jobs: QuerySet[Job], text: str) -> QuerySet[Job]:
    """Jobs by id, by label as `key=value`, or by a part of name, image or owner among the newest SEARCHED_JOBS."""
    text = text.strip().replace("\0", "")
    if not text:
        return jobs
    key, equals, value = text.partition("=")
    if equals:
        return jobs.filter(pk__in=Label.objects.filter(key=key, value=value).values("job_id"))
    found = Q(name__icontains=text) | Q(image__icontains=text) | Q(owner__username__icontains=text)
    found &= Q(pk__gt=_newest() - SEARCHED_JOBS)
    if text.isascii() and text.isdigit():
        found |= Q(pk=min(int(text[:30]), MAXIMUM_ID))
    return jobs.filter(found)


def _newest() -> int:
    """The highest id there is."""
    return Job.objects.aggregate(newest=Max("pk"))["newest"] or 0
