"""`manage.py reseal`: seal all stored secrets with the first of the present keys, so that older keys may go."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from jobs.models import Job
from jobs.secret_fields import resealed
from prominence.seals import SealBroken

PAGE = 500


class Command(BaseCommand):
    """May be interrupted and repeated; jobs may be submitted and run meanwhile."""

    help = "Seal stored secrets with the first key of PROMINENCE_SECRETS_KEYS."

    def handle(self, *args: Any, **options: Any) -> None:
        changed, broken = 0, []
        for job in Job.objects.order_by("pk").only("spec").iterator(chunk_size=PAGE):
            try:
                spec = resealed(job.spec)
            except SealBroken:
                broken.append(job.pk)
                continue
            if spec is not None:
                changed += Job.objects.filter(pk=job.pk).update(spec=spec)
        self.stdout.write(f"{changed} jobs sealed anew")
        if broken:
            shown = ", ".join(map(str, broken[:10]))
            raise CommandError(f"no present key opens the secrets of {len(broken)} jobs: {shown}")
