"""Which job goes to which node: a pure function over a backlog and free capacity.

Cost: O(shapes x nodes) to see what fits, then O(log) per matched job. No ORM, no clock, no Redis.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from clouds.backlog import Backlog
from clouds.capacity import Amount
from prominence.bus import Queued

# Jobs of one batch share a slot, one after another; more would make a late one wait too long behind its elders.
BATCH = 10
# Of jobs that end at once. Together they take a second at most, by what is known of their kind.
LARGEST_BATCH = 50
BATCH_S = 1.0
JOB_S = 0.005  # what a job costs a slot beyond its own time
# Uncharged jobs a node may hold per CPU, in batches: two beyond the one that runs.
BATCHES_AHEAD = 2
AHEAD_MAXIMUM = 2000
ROUND = 500  # jobs placed in one pass, and so in one transaction


def batch_of(typical_s: float) -> int:
    """How many short jobs that take `typical_s` seconds each may travel together."""
    return max(BATCH, min(LARGEST_BATCH, int(BATCH_S / (typical_s + JOB_S))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Sites and regions by name, in order of preference; an empty tuple says nothing."""

    sites: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()

    def admit(self, site: str, region: str) -> bool:
        """As requirements: both must hold (S105)."""
        return (not self.sites or site in self.sites) and (
            not self.regions or region in self.regions
        )

    def rank(self, site: str, region: str) -> int:
        """As preferences: 0 is the best; sites in their order, then regions in theirs, then all others (S106)."""
        if site in self.sites:
            return self.sites.index(site)
        if region in self.regions:
            return len(self.sites) + self.regions.index(region)
        return len(self.sites) + len(self.regions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a shape asks of a node."""

    amount: Amount
    runtime: str = "singularity"
    required: Places = Places()
    preferred: Places = Places()


@dataclass(slots=True, kw_only=True)
class FreeNode:
    """A node as matching sees it; `free` and `ahead` change as jobs are placed."""

    incarnation: int
    name: str
    site: str
    cpus: int
    free: Amount
    ahead: int
    runtimes: frozenset[str]
    region: str = ""

    def fits(self, need: Need) -> bool:
        return self.has(need) and need.amount.slots_in(self.free) > 0

    def has(self, need: Need) -> bool:
        return need.runtime in self.runtimes and need.required.admit(self.site, self.region)

    def rank(self, need: Need) -> int:
        return need.preferred.rank(self.site, self.region)

    def ahead_left(self, batch: int) -> int:
        """How many more may wait here, when up to `batch` of them travel together."""
        return max(0, min(self.cpus * BATCHES_AHEAD * batch, AHEAD_MAXIMUM) - self.ahead)


@dataclass(slots=True, kw_only=True)
class Batch:
    """Jobs that travel together and share one slot. Not charged: they wait ahead of a slot."""

    node: FreeNode
    need: Need
    charged: bool
    jobs: list[Queued] = field(default_factory=list)

    @property
    def uncharged(self) -> int:
        return len(self.jobs) - self.charged


@dataclass(slots=True, kw_only=True)
class Matching:
    """One pass over the backlog. `together(kind)`: how many such jobs may share a slot; 1 unless they are short."""

    backlog: Backlog
    nodes: Sequence[FreeNode]
    need_of: Callable[[str], Need]
    together: Callable[[str], int]
    limit: int = ROUND
    _batches: list[Batch] = field(default_factory=list)
    _placed: int = 0
    _fitting: dict[str, list[FreeNode]] = field(default_factory=dict)
    _slots: dict[str, int] = field(default_factory=dict)

    def run(self) -> list[Batch]:
        """Place what fits, then let short jobs wait ahead on nodes that are full."""
        fits = self.fitting()
        for job in self.backlog.turns(fits):
            self._place(job, fits)
            if self._placed >= self.limit:
                return self._batches
        self._look_ahead()
        return self._batches

    def fitting(self) -> set[str]:
        """Shapes that something waits with and some node has room for."""
        return {
            shape
            for shape in self.backlog.shapes()
            if any(node.fits(self.need_of(shape)) for node in self.nodes)
        }

    def _place(self, job: Queued, fits: set[str]) -> None:
        need = self.need_of(job.shape)
        node = self._choose(job, need)
        if node is None:
            fits.discard(job.shape)
            self.backlog.add([job])
            return
        batch = Batch(node=node, need=need, charged=True, jobs=[job])
        node.free = node.free.plus(need.amount.times(-1))
        self._extend(batch, job, self._share(job, need))
        self._book(batch)

    def _choose(self, job: Queued, need: Need) -> FreeNode | None:
        """The fullest of the preferred nodes that fit, so that large jobs find room elsewhere; sorted once a shape."""
        if job.shape not in self._fitting:
            fitting = [node for node in self.nodes if node.fits(need)]
            fitting.sort(
                key=lambda n: (-n.rank(need), -n.free.cpus, -n.free.memory_mb, -n.incarnation)
            )
            self._fitting[job.shape] = fitting
        candidates = self._fitting[job.shape]
        while candidates and not candidates[-1].fits(need):
            candidates.pop()
        return candidates[-1] if candidates else None

    def _share(self, job: Queued, need: Need) -> int:
        """How many jobs a slot gets now: the queue spread over the slots that were free at the start."""
        if job.shape not in self._slots:
            self._slots[job.shape] = 1 + sum(
                need.amount.slots_in(n.free) for n in self.nodes if n.has(need)
            )
        waiting = 1 + self.backlog.waiting((job.owner, job.shape))
        return min(self.together(job.kind), -(-waiting // self._slots[job.shape]))

    def _extend(self, batch: Batch, first: Queued, size: int) -> None:
        """Add the next short jobs of the same queue."""
        key = (first.owner, first.shape)
        room = min(size - len(batch.jobs), batch.node.ahead_left(self.together(first.kind)))
        while (
            room > 0 and self.backlog.waiting(key) and self._is_short(self.backlog.peek_kind(key))
        ):
            batch.jobs.append(self.backlog.pop(key))
            room -= 1

    def _look_ahead(self) -> None:
        """Short jobs that found no free slot: whole batches to the nodes with the least waiting ahead.

        Slots pass on within the look-ahead, so a node gets none while anything else waits that it could run.
        """
        shapes = self.backlog.shapes()
        if len(shapes) != 1 or not all(map(self._is_short, self.backlog.kinds_ahead(shapes))):
            return
        for job in self.backlog.turns(shapes):
            need = self.need_of(job.shape)
            size = self.together(job.kind)
            node = self._ahead_node(need, size) if size > 1 else None
            if node is None or self._placed >= self.limit:
                self.backlog.add([job])
                return
            batch = Batch(node=node, need=need, charged=False, jobs=[job])
            self._extend(batch, job, size)
            self._book(batch)

    def _ahead_node(self, need: Need, size: int) -> FreeNode | None:
        roomy = [
            n
            for n in self.nodes
            if n.ahead_left(size) >= size and n.has(need) and n.cpus >= need.amount.cpus
        ]
        return max(
            roomy, key=lambda n: (-n.rank(need), n.ahead_left(size), -n.incarnation), default=None
        )

    def _is_short(self, kind: str) -> bool:
        return self.together(kind) > 1

    def _book(self, batch: Batch) -> None:
        batch.node.ahead += batch.uncharged
        self._placed += len(batch.jobs)
        self._batches.append(batch)
