"""Routes of jobs, below each API root. `jobs/{id}/events` is served before Django is asked."""

from django.urls import path

from jobs.models import Stream
from jobs.output_views import output_file_view
from jobs.views import CloneView, JobsView, JobView, OutputView, RemoveView

urlpatterns = [
    path("outputs/<str:file_id>/<str:name>", output_file_view),
    path("jobs", JobsView.as_view()),
    path("jobs/<str:job_id>", JobView.as_view()),
    path("jobs/<str:job_id>/clone", CloneView.as_view()),
    path("jobs/<str:job_id>/remove", RemoveView.as_view()),
    path("jobs/<str:job_id>/stdout", OutputView.as_view(stream=Stream.STDOUT)),
    path("jobs/<str:job_id>/stderr", OutputView.as_view(stream=Stream.STDERR)),
]
