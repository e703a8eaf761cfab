"""Django settings, derived from `prominence.config` alone."""

import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from django.templatetags.static import static
from django.urls import reverse_lazy

from prominence.config import Config, load_config

CONFIG = load_config()
BASE_DIR = Path(__file__).resolve().parent.parent


def _database(config: Config) -> dict[str, Any]:
    """SQLite beside the data, or the PostgreSQL named by `postgresql://user:pw@host:port/name?option=value`."""
    if config.embedded_database:
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": config.sqlite_path,
            "CONN_MAX_AGE": None,
            # A deferred transaction that upgrades from read to write fails at once under load instead of waiting.
            "OPTIONS": {
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,
                "init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=NORMAL;",
            },
            "TEST": {"NAME": str(config.data / "test.sqlite3")},
        }
    url = urlsplit(config.database_url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(url.path.lstrip("/")),
        "USER": unquote(url.username or ""),
        "PASSWORD": unquote(url.password or ""),
        "HOST": unquote(url.hostname or ""),
        "PORT": str(url.port or ""),
        "CONN_MAX_AGE": None,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": dict(parse_qsl(url.query)),
    }


def _email(address: str) -> dict[str, Any]:
    """Django's settings for `smtp://user:pw@host:port?tls=1` (or `smtps://`); none: nothing can be sent."""
    url = urlsplit(address)
    options = dict(parse_qsl(url.query))
    return {
        "EMAIL_HOST": url.hostname or "",
        "EMAIL_PORT": url.port or (465 if url.scheme == "smtps" else 25),
        "EMAIL_HOST_USER": unquote(url.username or ""),
        "EMAIL_HOST_PASSWORD": unquote(url.password or ""),
        "EMAIL_USE_SSL": url.scheme == "smtps",
        "EMAIL_USE_TLS": options.get("tls") == "1",
        "EMAIL_TIMEOUT": 10,
        "DEFAULT_FROM_EMAIL": CONFIG.email_from,
    }


def _menu_item(title: str, icon: str, page: str, permission: str) -> dict[str, Any]:
    """An entry of the admin's menu, for those who have `permission`; an empty one is everybody's."""
    return {
        "title": title,
        "icon": icon,
        "link": reverse_lazy(page),
        "permission": lambda request: not permission or request.user.has_perm(permission),
    }


SECRET_KEY = CONFIG.secret_key
DEBUG = CONFIG.debug
ALLOWED_HOSTS = list(CONFIG.allowed_hosts)
ROOT_URLCONF = "prominence.urls"
APPEND_SLASH = False
DATABASES = {"default": _database(CONFIG)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-gb"

INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "jobs",
    "clouds",
    "workflows",
    "prominence",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
globals().update(_email(CONFIG.email_url))
STATIC_URL = "/static/"
STATIC_ROOT = CONFIG.data / "static"
WHITENOISE_USE_FINDERS = True
# Uploads come as JSON: 64 MB a request is the documented limit.
DATA_UPLOAD_MAX_MEMORY_SIZE = 64 << 20

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["prominence.auth.TokenAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "EXCEPTION_HANDLER": "prominence.errors.exception_handler",
    "UNAUTHENTICATED_USER": None,
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "PROMINENCE",
    "DESCRIPTION": "Container batch jobs on idle cloud capacity. Served at /api/v1 and, the same, at /prominence/v1.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX": "/api/v1/",
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SORT_OPERATIONS": False,
    "PREPROCESSING_HOOKS": ["prominence.openapi.only_ours"],
    "POSTPROCESSING_HOOKS": [
        "prominence.openapi.add_schemas",
        "jobs.openapi.add_schemas",
        "workflows.openapi.add_schemas",
    ],
    "APPEND_COMPONENTS": {
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
    },
    "SECURITY": [{"token": []}],
    "AUTHENTICATION_WHITELIST": [],
}

UNFOLD = {
    "SITE_TITLE": "PROMINENCE",
    "SITE_HEADER": "PROMINENCE",
    "SITE_SUBHEADER": "Container batch jobs",
    "SITE_SYMBOL": "rocket_launch",
    "SITE_URL": None,
    "SHOW_HISTORY": False,
    "SHOW_VIEW_ON_SITE": False,
    "SITE_FAVICONS": [
        {
            "rel": "icon",
            "type": "image/svg+xml",
            "href": lambda _request: static("prominence/favicon.svg"),
        }
    ],
    "STYLES": [lambda _request: static("prominence/admin.css")],
    "DASHBOARD_CALLBACK": "prominence.admin.dashboard",
    "COLORS": {
        "primary": {
            "50": "oklch(97% .014 254.604)",
            "100": "oklch(93.2% .032 255.585)",
            "200": "oklch(88.2% .059 254.128)",
            "300": "oklch(80.9% .105 251.813)",
            "400": "oklch(70.7% .165 254.624)",
            "500": "oklch(62.3% .214 259.815)",
            "600": "oklch(54.6% .245 262.881)",
            "700": "oklch(48.8% .243 264.376)",
            "800": "oklch(42.4% .199 265.638)",
            "900": "oklch(37.9% .146 265.522)",
            "950": "oklch(28.2% .091 267.935)",
        }
    },
    "SIDEBAR": {
        "show_search": False,
        "show_all_applications": False,
        "navigation": [
            {
                "items": [
                    _menu_item("Overview", "monitoring", "admin:index", ""),
                    _menu_item(
                        "Jobs", "deployed_code", "admin:jobs_job_changelist", "jobs.view_job"
                    ),
                    _menu_item(
                        "Workflows",
                        "account_tree",
                        "admin:workflows_workflow_changelist",
                        "workflows.view_workflow",
                    ),
                    _menu_item("Nodes", "dns", "admin:clouds_node_changelist", "clouds.view_node"),
                    _menu_item(
                        "Sites", "cloud", "admin:clouds_site_changelist", "clouds.view_site"
                    ),
                ],
            },
            {
                "title": "Inside",
                "separator": True,
                "items": [
                    _menu_item(
                        "Attempts", "replay", "admin:jobs_attempt_changelist", "jobs.view_attempt"
                    ),
                    _menu_item(
                        "Placements",
                        "place",
                        "admin:jobs_placement_changelist",
                        "jobs.view_placement",
                    ),
                    _menu_item(
                        "Outbox", "outbox", "admin:jobs_outbox_changelist", "jobs.view_outbox"
                    ),
                    _menu_item(
                        "Enrolment tokens",
                        "key",
                        "admin:clouds_enroltoken_changelist",
                        "clouds.view_enroltoken",
                    ),
                ],
            },
            {
                "title": "Access",
                "separator": True,
                "items": [
                    _menu_item("Users", "person", "admin:auth_user_changelist", "auth.view_user"),
                    _menu_item("Groups", "group", "admin:auth_group_changelist", "auth.view_group"),
                ],
            },
        ],
    },
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "stream": sys.stderr, "formatter": "line"}
    },
    "root": {"handlers": ["stderr"], "level": "INFO"},
}
