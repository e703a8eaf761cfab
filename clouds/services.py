"""What operators do with nodes: drain, resume, revoke, restore. Each is one guarded update; hints go out after commit.

Owns the changes between ready and draining, and `Node.revoked_at`. Fencing and burial are `clouds.lifecycle`'s.
"""

from collections.abc import Iterable

from django.db import transaction
from django.db.models.functions import Now

from clouds.models import Incarnation, Node
from clouds.states import IncarnationStatus
from prominence.bus import announce_queued


def drain_nodes(node_ids: Iterable[int]) -> int:
    """Give these nodes no more jobs; what they have goes on. Returns how many were ready and drain now."""
    return _move(node_ids, IncarnationStatus.READY, IncarnationStatus.DRAINING)


def resume_nodes(node_ids: Iterable[int]) -> int:
    """Give these nodes jobs again, and wake the scheduler. Returns how many were draining."""
    resumed = _move(node_ids, IncarnationStatus.DRAINING, IncarnationStatus.READY)
    if resumed:
        transaction.on_commit(_wake_scheduler)
    return resumed


def revoke_nodes(node_ids: Iterable[int]) -> int:
    """Let these nodes never enrol again with their own keys; a present incarnation lives on until it ends.

    Returns how many were not revoked before.
    """
    return Node.objects.filter(pk__in=list(node_ids), revoked_at__isnull=True).update(
        revoked_at=Now()
    )


def restore_nodes(node_ids: Iterable[int]) -> int:
    """Take a revocation back. Returns how many were revoked."""
    return Node.objects.filter(pk__in=list(node_ids), revoked_at__isnull=False).update(
        revoked_at=None
    )


def _move(node_ids: Iterable[int], source: IncarnationStatus, target: IncarnationStatus) -> int:
    """Change the living incarnation of each node from `source`; any other status stays, as it may just have changed."""
    rows = Incarnation.objects.filter(node__in=list(node_ids), status=source)
    return rows.update(status=target)


def _wake_scheduler() -> None:
    announce_queued([])
