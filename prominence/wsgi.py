"""The WSGI application: REST and admin. Under uvicorn it runs inside `prominence.asgi`."""

import os
from pathlib import Path

from django.conf import settings
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "prominence.settings")
# WhiteNoise warns when it is missing, although static files are found in the packages.
Path(settings.STATIC_ROOT).mkdir(parents=True, exist_ok=True)
application = get_wsgi_application()
