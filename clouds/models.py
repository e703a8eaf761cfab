"""Sites, nodes and their incarnations. Owns capacity; must not change a job but through `jobs.services`."""

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from clouds.states import IncarnationStatus


class Site(models.Model):
    """A cloud, as users name it in placement policies; `region` groups sites."""

    name = models.CharField(max_length=128, unique=True)
    region = models.CharField(max_length=128, blank=True)
    created_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return self.name


class Node(models.Model):
    """A machine, over all its reboots. `key_hash` is SHA-256 of its long-lived re-enrolment key."""

    name = models.CharField(max_length=128, unique=True)
    site = models.ForeignKey(Site, on_delete=models.PROTECT, related_name="nodes")
    key_hash = models.CharField(max_length=64, blank=True, db_index=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return self.name


class EnrolToken(models.Model):
    """A one-time permission to enrol one node; a second use is refused and recorded.

    `used_by` is the boot id that used it: the same one may ask again when the answer was lost on the way.
    """

    token_hash = models.CharField(max_length=64, unique=True)
    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="enrol_tokens")
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True, blank=True)
    used_by = models.CharField(max_length=128, blank=True)
    refused_uses = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        verbose_name = "enrolment token"

    def __str__(self) -> str:
        return f"for {self.node_id}"


class Incarnation(models.Model):
    """One life of a node, from an enrolment to the next: own Redis user, key space, numbering and acknowledgement.

    `*_free` are maintained with guarded updates and never go below 0; `ahead` counts uncharged live placements.
    `lease_s` is the lease this life was given. `faults`: node faults in a row, for which it is shunned for a while.
    `cleared_at`: when its Redis user and key space were removed.
    """

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="incarnations")
    status = models.CharField(
        max_length=10, choices=IncarnationStatus.choices, default=IncarnationStatus.READY
    )
    boot = models.CharField(max_length=128)
    hostname = models.CharField(max_length=255, blank=True)
    token_hash = models.CharField(max_length=64, unique=True)
    redis_password_hash = models.CharField(max_length=64)
    cpus = models.PositiveIntegerField()
    memory_mb = models.PositiveIntegerField()
    disk_mb = models.PositiveIntegerField()
    cpus_free = models.IntegerField()
    memory_mb_free = models.IntegerField()
    disk_mb_free = models.IntegerField()
    ahead = models.PositiveIntegerField(default=0)
    runtimes = models.JSONField(default=dict)
    isolated = models.BooleanField(default=False)
    acknowledged = models.BigIntegerField(default=0)
    lease_s = models.FloatField()
    faults = models.PositiveIntegerField(default=0)
    shunned_until = models.DateTimeField(null=True, blank=True)
    heard_at = models.DateTimeField(db_default=Now())
    fenced_at = models.DateTimeField(null=True, blank=True)
    dead_at = models.DateTimeField(null=True, blank=True)
    cleared_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="capacity_not_negative",
                condition=Q(cpus_free__gte=0, memory_mb_free__gte=0, disk_mb_free__gte=0),
            )
        ]
        indexes = [
            models.Index(
                fields=["status"],
                name="incarnation_alive",
                condition=~Q(status=IncarnationStatus.DEAD),
            ),
            models.Index(
                fields=["dead_at"],
                name="incarnation_uncleared",
                condition=Q(status=IncarnationStatus.DEAD, cleared_at__isnull=True),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.node_id}/{self.pk}"
