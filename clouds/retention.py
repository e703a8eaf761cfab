"""What is removed when it is old enough: lives of nodes that are long over, and tokens that nobody can use any more.

Jobs keep the names of the nodes they ran on: nothing of them refers to these rows.
"""

from datetime import timedelta

from django.conf import settings
from django.db.models.functions import Now

from clouds.models import EnrolToken, Incarnation
from clouds.states import IncarnationStatus

ROWS = 500


def remove_old() -> int:
    """Remove a batch of both; how many. 0: nothing is old enough now."""
    age = timedelta(days=settings.CONFIG.retention_nodes_days)
    return _remove_lives(age) + _remove_tokens(age)


def _remove_lives(age: timedelta) -> int:
    """Only those whose Redis users and key spaces are gone: their numbers are all that leads there."""
    over = Incarnation.objects.filter(
        status=IncarnationStatus.DEAD, cleared_at__isnull=False, dead_at__lt=Now() - age
    )
    some = over.order_by("pk").values_list("pk", flat=True)[:ROWS]
    return Incarnation.objects.filter(pk__in=list(some)).delete()[0]


def _remove_tokens(age: timedelta) -> int:
    """Expired ones, used or not. Refused uses of a token are shown for as long."""
    over = EnrolToken.objects.filter(expires_at__lt=Now() - age)
    some = over.order_by("pk").values_list("pk", flat=True)[:ROWS]
    return EnrolToken.objects.filter(pk__in=list(some)).delete()[0]
