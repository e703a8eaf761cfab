"""`manage.py token USER`: print an access token for a user, and nothing else."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from prominence.auth import USERNAME
from prominence.tokens import USER_TOKEN_DAYS, issue_token

SECONDS_A_DAY = 86_400
MAXIMUM_DAYS = 3650


class Command(BaseCommand):
    """Signs a token; the user's row is made when the token is first used."""

    help = "Print an access token for USER."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("user", help="user name: letters, digits and @ . + - _")
        parser.add_argument(
            "--days", type=float, default=USER_TOKEN_DAYS, help="validity (default: %(default)s)"
        )
        parser.add_argument(
            "--group", nargs="+", action="extend", default=[], help="groups of the user"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        username, days = options["user"], options["days"]
        if not USERNAME.fullmatch(username):
            raise CommandError(
                f"{username!r} is not a user name: up to 150 letters, digits and @ . + - _"
            )
        if not 0 < days <= MAXIMUM_DAYS:
            raise CommandError(f"--days must be above 0 and at most {MAXIMUM_DAYS}")
        groups = tuple(options["group"])
        self.stdout.write(issue_token(username, groups=groups, valid_s=days * SECONDS_A_DAY))
