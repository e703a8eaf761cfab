"""Matching as a pure function: what holds for any backlog and any nodes."""

import itertools

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from clouds.backlog import HEAD, Backlog
from clouds.capacity import Amount
from clouds.placement import BATCH, LARGEST_BATCH, Batch, FreeNode, Matching, Need, batch_of
from prominence.bus import Queued

SHAPES = {
    "small": Need(amount=Amount(cpus=1, memory_mb=512, disk_mb=1000)),
    "large": Need(amount=Amount(cpus=3, memory_mb=4096, disk_mb=1000)),
    "written": Need(amount=Amount(cpus=1, memory_mb=512, disk_mb=1000), runtime="udocker"),
}


@st.composite
def backlogs(draw: st.DrawFn) -> list[Queued]:
    rows = draw(
        st.lists(
            st.tuples(
                st.integers(1, 3),
                st.sampled_from(sorted(SHAPES)),
                st.integers(0, 2),
                st.sampled_from(["short", "long"]),
            ),
            max_size=60,
        )
    )
    return [
        Queued(owner=owner, shape=shape, priority=priority, job=number, kind=kind)
        for number, (owner, shape, priority, kind) in enumerate(rows, 1)
    ]


@st.composite
def clusters(draw: st.DrawFn) -> list[FreeNode]:
    sizes = draw(st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=4))
    return [node(number, cpus, udocker=udocker) for number, (cpus, udocker) in enumerate(sizes, 1)]


def node(number: int, cpus: int, *, udocker: bool = True) -> FreeNode:
    return FreeNode(
        incarnation=number,
        name=f"node-{number}",
        site="here",
        cpus=cpus,
        free=Amount(cpus=cpus, memory_mb=4096, disk_mb=100_000),
        ahead=0,
        runtimes=frozenset({"singularity", "udocker"} if udocker else {"singularity"}),
    )


def match(jobs: list[Queued], nodes: list[FreeNode]) -> tuple[list[Batch], Backlog]:
    backlog = Backlog()
    backlog.add(jobs)
    batches = Matching(
        backlog=backlog,
        nodes=nodes,
        need_of=SHAPES.__getitem__,
        together=lambda kind: BATCH if kind == "short" else 1,
    ).run()
    return batches, backlog


def placed(batches: list[Batch]) -> list[int]:
    return [job.job for batch in batches for job in batch.jobs]


@given(jobs=backlogs(), nodes=clusters())
def test_every_job_is_placed_once_or_still_waits(jobs: list[Queued], nodes: list[FreeNode]) -> None:
    batches, backlog = match(jobs, nodes)
    done = placed(batches)
    assert len(done) == len(set(done))
    assert len(done) + len(backlog) == len(jobs)


@given(jobs=backlogs(), nodes=clusters())
def test_no_node_gives_more_than_it_has(jobs: list[Queued], nodes: list[FreeNode]) -> None:
    batches, _ = match(jobs, nodes)
    for free in nodes:
        assert min(free.free.cpus, free.free.memory_mb, free.free.disk_mb) >= 0
        charged = sum(b.need.amount.cpus for b in batches if b.node is free and b.charged)
        assert charged + free.free.cpus == free.cpus


@given(jobs=backlogs(), nodes=clusters())
def test_jobs_go_where_their_runtime_is(jobs: list[Queued], nodes: list[FreeNode]) -> None:
    batches, _ = match(jobs, nodes)
    assert all(batch.need.runtime in batch.node.runtimes for batch in batches)


@given(jobs=backlogs(), nodes=clusters())
def test_only_short_jobs_share_a_slot(jobs: list[Queued], nodes: list[FreeNode]) -> None:
    batches, _ = match(jobs, nodes)
    for batch in batches:
        assert len(batch.jobs) <= BATCH
        if len(batch.jobs) > 1 or not batch.charged:
            assert {job.kind for job in batch.jobs} == {"short"}


@given(jobs=backlogs(), nodes=clusters())
def test_nothing_waits_that_would_fit(jobs: list[Queued], nodes: list[FreeNode]) -> None:
    _, backlog = match(jobs, nodes)
    for shape in backlog.shapes():
        assert not any(free.fits(SHAPES[shape]) for free in nodes)


def test_owners_take_turns_and_priority_goes_first_within_one() -> None:
    jobs = [Queued(1, "small", 0, n) for n in range(1, 5)]
    jobs += [Queued(2, "small", 0, 10), Queued(1, "small", 5, 11)]
    batches, _ = match(jobs, [node(1, 3)])
    assert sorted(placed(batches)) == [1, 10, 11]


def test_few_short_jobs_spread_over_free_slots() -> None:
    jobs = [Queued(1, "small", 0, n, "short") for n in range(1, 4)]
    batches, _ = match(jobs, [node(1, 4)])
    assert [len(batch.jobs) for batch in batches] == [1, 1, 1]


def test_the_shorter_jobs_are_the_more_travel_together() -> None:
    assert [batch_of(s) for s in (0.0, 0.035, 0.9)] == [LARGEST_BATCH, 25, BATCH]


def test_memory_of_a_large_backlog_is_bounded_and_keeps_the_best() -> None:
    backlog = Backlog()
    backlog.add(Queued(1, "small", 0, n) for n in range(3 * HEAD, 0, -1))
    assert len(backlog) <= 2 * HEAD
    first = next(backlog.turns({"small"}))
    assert first.job == 1


def test_head_that_ran_low_asks_for_more() -> None:
    backlog = Backlog()
    backlog.add(Queued(1, "small", 0, n) for n in range(1, 3 * HEAD))
    turns = backlog.turns({"small"})
    taken = [next(turns).job for _ in range(HEAD)]
    assert taken == sorted(taken)
    assert backlog.wants_refill() == [(1, "small")]
    rest = [Queued(1, "small", 0, n) for n in range(HEAD + 1, HEAD + 3)]
    backlog.refill((1, "small"), rest, more=False)
    assert [job.job for job in backlog.turns({"small"})] == [HEAD + 1, HEAD + 2]
    assert backlog.wants_refill() == []


class BacklogAccounts(RuleBasedStateMachine):
    """What a backlog keeps up to date equals what counting would give."""

    def __init__(self) -> None:
        super().__init__()
        self.backlog = Backlog()
        self.waiting: dict[tuple[int, str], set[int]] = {}

    @rule(owner=st.integers(1, 4), shape=st.sampled_from(["small", "large"]), job=st.integers(1, 9))
    def add(self, owner: int, shape: str, job: int) -> None:
        self.backlog.add([Queued(owner, shape, 0, job + 10 * owner)])
        self.waiting.setdefault((owner, shape), set()).add(job + 10 * owner)

    @rule(shapes=st.sets(st.sampled_from(["small", "large"])), count=st.integers(1, 5))
    def take(self, shapes: set[str], count: int) -> None:
        for job in itertools.islice(self.backlog.turns(shapes), count):
            assert job.shape in shapes
            self.waiting[job.owner, job.shape].remove(job.job)

    @rule(owner=st.integers(1, 4), shape=st.sampled_from(["small", "large"]), more=st.booleans())
    def refill(self, owner: int, shape: str, more: bool) -> None:
        self.backlog.refill((owner, shape), [Queued(owner, shape, 0, 99)], more=more)
        self.waiting[owner, shape] = {99}

    @invariant()
    def accounts_agree(self) -> None:
        full = {key for key, jobs in self.waiting.items() if jobs}
        assert len(self.backlog) <= sum(map(len, self.waiting.values()))
        assert set(self.backlog.keys()) == full
        assert self.backlog.shapes() == {shape for _, shape in full}
        assert len(self.backlog) == sum(map(self.backlog.waiting, self.waiting))


TestBacklogAccounts = BacklogAccounts.TestCase
