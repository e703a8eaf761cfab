"""The WSGI application: REST and admin. Under uvicorn it runs inside `prominence.asgi`."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "prominence.settings")
application = get_wsgi_application()
