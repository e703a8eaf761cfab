"""Routes. API paths never end in a slash, and nothing redirects (C4)."""

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path, re_path

from prominence.openapi import SchemaPage, SchemaView
from prominence.views import HealthView, NoSuchPathView, NotAvailableView, metrics_view

api: list[URLPattern | URLResolver] = [
    path("health", HealthView.as_view()),
    path("schema", SchemaView.as_view()),
    path("docs", SchemaPage.as_view()),
    path("", include("jobs.urls")),
    path("", include("clouds.urls")),
    path("", include("workflows.urls")),
    re_path(
        r"^(?P<feature>data|kv|accounting|usage|resources)(?:/.*)?$",
        NotAvailableView.as_view(),
    ),
    re_path(r"^jobs/[^/]+/(?P<feature>exec|snapshot)$", NotAvailableView.as_view()),
]
urlpatterns = [
    path("admin/", admin.site.urls),
    path("metrics", metrics_view),
    path("node/v1/", include("clouds.node_api")),
    path("api/v1/", include(api)),
    path("prominence/v1/", include(api)),  # what PyPI `prominence` 0.21 and the notebooks use
    re_path(r"^(?:api|prominence)(?:/.*)?$", NoSuchPathView.as_view()),
]
handler400 = "prominence.views.bad_request"
handler403 = "prominence.views.permission_denied"
handler404 = "prominence.views.page_not_found"
handler500 = "prominence.views.server_error"
