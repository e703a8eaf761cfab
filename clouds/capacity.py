"""What nodes have left: taking it for placements and giving it back, in the transaction that places or ends them.

Owns the `*_free` and `ahead` columns of `Incarnation` and `charged` of placements. Never goes below zero: taking is a
guarded update, and the database checks it. Attempts of one batch run one after another in one slot, so one of them is
charged; when it ends the charge passes to the next of the batch, then to a batch waiting ahead with the same shape.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from django.db.models import F

from clouds.models import Incarnation
from clouds.states import IncarnationStatus
from jobs.models import Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """Resources in a node's units: CPUs, MB of memory, MB of disk."""

    cpus: int
    memory_mb: int
    disk_mb: int

    def times(self, count: int) -> "Amount":
        return Amount(
            cpus=self.cpus * count, memory_mb=self.memory_mb * count, disk_mb=self.disk_mb * count
        )

    def plus(self, other: "Amount") -> "Amount":
        return Amount(
            cpus=self.cpus + other.cpus,
            memory_mb=self.memory_mb + other.memory_mb,
            disk_mb=self.disk_mb + other.disk_mb,
        )

    def slots_in(self, free: "Amount") -> int:
        """How often this fits into `free`."""
        return min(
            free.cpus // self.cpus,
            free.memory_mb // max(1, self.memory_mb),
            free.disk_mb // max(1, self.disk_mb),
        )


NOTHING = Amount(cpus=0, memory_mb=0, disk_mb=0)


def take(incarnation_id: int, amount: Amount, *, ahead: int = 0) -> bool:
    """Take `amount` of a ready node if it is still there; locks the incarnation's row. False: nothing was taken."""
    return bool(
        Incarnation.objects.filter(
            pk=incarnation_id,
            status=IncarnationStatus.READY,
            cpus_free__gte=amount.cpus,
            memory_mb_free__gte=amount.memory_mb,
            disk_mb_free__gte=amount.disk_mb,
        ).update(
            cpus_free=F("cpus_free") - amount.cpus,
            memory_mb_free=F("memory_mb_free") - amount.memory_mb,
            disk_mb_free=F("disk_mb_free") - amount.disk_mb,
            ahead=F("ahead") + ahead,
        )
    )


def give_back(incarnation_id: int, amount: Amount, *, ahead: int = 0) -> None:
    """Return `amount`, and `ahead` places in the look-ahead."""
    Incarnation.objects.filter(pk=incarnation_id).update(
        cpus_free=F("cpus_free") + amount.cpus,
        memory_mb_free=F("memory_mb_free") + amount.memory_mb,
        disk_mb_free=F("disk_mb_free") + amount.disk_mb,
        ahead=F("ahead") - ahead,
    )


def release(ended: Sequence[Placement]) -> None:
    """Placements have ended (hook of `jobs`): pass their charges on, or give the resources back."""
    by_incarnation: dict[int, list[Placement]] = {}
    for placement in ended:
        by_incarnation.setdefault(placement.incarnation, []).append(placement)
    for incarnation_id in sorted(by_incarnation):
        _release_on(incarnation_id, by_incarnation[incarnation_id])


def _release_on(incarnation_id: int, ended: Sequence[Placement]) -> None:
    waiting = _uncharged(incarnation_id) if any(p.batch for p in ended) else []
    charged = _charged_batches({p.batch for p in waiting})
    heirs: list[int] = []
    freed = NOTHING
    ahead = sum(not placement.charged for placement in ended)
    for placement in (p for p in ended if p.charged):
        heir = _heir(placement, waiting, charged)
        if heir is None:
            freed = freed.plus(amount_of(placement))
        else:
            waiting.remove(heir)
            charged.add(heir.batch)
            heirs.append(heir.pk)
            ahead += 1
    Placement.objects.filter(pk__in=heirs).update(charged=True)
    give_back(incarnation_id, freed, ahead=ahead)


def _uncharged(incarnation_id: int) -> list[Placement]:
    """Live placements that wait ahead on this node: bounded by the look-ahead limit."""
    waiting = Placement.objects.filter(incarnation=incarnation_id, live=True, charged=False)
    return list(waiting.order_by("pk"))


def _charged_batches(batches: set[str]) -> set[str]:
    """Those of the batches that have a slot."""
    if not batches:
        return set()
    live = Placement.objects.filter(batch__in=batches, live=True, charged=True)
    return set(live.values_list("batch", flat=True))


def _heir(ended: Placement, waiting: Sequence[Placement], charged: set[str]) -> Placement | None:
    """Who gets the charge: the next of its batch, else the first of a batch with the same needs and no slot."""
    for candidate in waiting:
        if candidate.batch and candidate.batch == ended.batch:
            return candidate
    for candidate in waiting:
        if candidate.batch not in charged and amount_of(candidate) == amount_of(ended):
            return candidate
    return None


def amount_of(placement: Placement) -> Amount:
    return Amount(cpus=placement.cpus, memory_mb=placement.memory_mb, disk_mb=placement.disk_mb)


def recount(incarnation_ids: Iterable[int]) -> dict[int, Amount]:
    """What live placements are charged with on each incarnation: must equal capacity minus `*_free` (tests check)."""
    totals = dict.fromkeys(incarnation_ids, NOTHING)
    for placement in Placement.objects.filter(incarnation__in=totals, live=True, charged=True):
        totals[placement.incarnation] = totals[placement.incarnation].plus(amount_of(placement))
    return totals
