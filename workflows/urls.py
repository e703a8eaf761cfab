"""Routes of workflows, below each API root."""

from django.urls import path

from jobs.models import Stream
from workflows.views import (
    CloneView,
    InstanceOutputView,
    RemoveView,
    WorkflowsView,
    WorkflowView,
)

urlpatterns = [
    path("workflows", WorkflowsView.as_view()),
    path("workflows/<str:workflow_id>", WorkflowView.as_view()),
    path("workflows/<str:workflow_id>/clone", CloneView.as_view()),
    path("workflows/<str:workflow_id>/remove", RemoveView.as_view()),
    path(
        "workflows/<str:workflow_id>/<path:place>/stdout",
        InstanceOutputView.as_view(stream=Stream.STDOUT),
    ),
    path(
        "workflows/<str:workflow_id>/<path:place>/stderr",
        InstanceOutputView.as_view(stream=Stream.STDERR),
    ),
]
