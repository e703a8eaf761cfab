"""Routes. API paths never end in a slash, and nothing redirects (C4)."""

from django.contrib import admin
from django.urls import path

urlpatterns = [path("admin/", admin.site.urls)]
