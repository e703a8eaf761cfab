"""`manage.py admin USER`: make somebody an administrator, and print a new password, and nothing else, to stdout."""

import secrets
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError

from prominence.auth import USERNAME


class Command(BaseCommand):
    """The password is random, shown this once, and replaces any the user had."""

    help = "Make USER an administrator (new or existing) and print a new password."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("user", help="user name: letters, digits and @ . + - _")

    def handle(self, *args: Any, **options: Any) -> None:
        username = options["user"]
        if not USERNAME.fullmatch(username):
            raise CommandError(
                f"{username!r} is not a user name: up to 150 letters, digits and @ . + - _"
            )
        password = secrets.token_urlsafe(12)
        user, _made = User.objects.get_or_create(username=username)
        user.is_active = user.is_staff = user.is_superuser = True
        user.set_password(password)
        user.save()
        base = settings.CONFIG.public_url.partition("/api/")[0]
        self.stderr.write(f"log in as {username} at {base}/admin/ and change this password there:")
        self.stdout.write(password)
