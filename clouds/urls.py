"""Routes of questions about placement, below each API root."""

from django.urls import path

from clouds.views import WhyView

urlpatterns = [path("jobs/<str:job_id>/why", WhyView.as_view())]
