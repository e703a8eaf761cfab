"""States of a node's incarnation."""

from django.db.models import TextChoices


class IncarnationStatus(TextChoices):
    """ready: takes jobs.  draining: finishes what it has.  fenced: silent for a lease; its words no longer count as
    contact.  dead: another lease later, or replaced by a new incarnation; its attempts are over.
    """

    READY = "ready"
    DRAINING = "draining"
    FENCED = "fenced"
    DEAD = "dead"


ALIVE = frozenset({IncarnationStatus.READY, IncarnationStatus.DRAINING})
