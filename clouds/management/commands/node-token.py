"""`manage.py node-token NAME`: a one-time token with which a machine enrols as a node."""

import argparse
from typing import Any

from django.core.management.base import BaseCommand

from clouds.enrolment import TOKEN_LIFE_S, create_enrol_token


class Command(BaseCommand):
    help = "Print a one-time enrolment token for the node NAME."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("name")
        parser.add_argument("--site", default="local", help="site of a new node (default: local)")
        parser.add_argument(
            "--minutes", type=float, default=TOKEN_LIFE_S / 60, help="how long it can be used"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(
            create_enrol_token(
                name=options["name"], site=options["site"], life_s=options["minutes"] * 60
            )
        )
