"""The tables of a job's life, as pure functions."""

from hypothesis import given
from hypothesis import strategies as st

from jobs.states import (
    ACTIVE,
    MAXIMUM_NODE_FAULTS,
    REASONS,
    TERMINAL,
    TRANSITIONS,
    Fault,
    JobStatus,
    Outcome,
    Reason,
    Standing,
    is_legal_path,
    judge,
)

ENDS = sorted(REASONS)


@st.composite
def standings(draw: st.DrawFn) -> Standing:
    return Standing(
        retries=draw(st.integers(0, 5)),
        maximum_retries=draw(st.integers(0, 5)),
        node_faults=draw(st.integers(0, MAXIMUM_NODE_FAULTS + 2)),
        delete_requested=draw(st.booleans()),
    )


@given(reason=st.sampled_from(ENDS), standing=standings())
def test_every_verdict_is_reachable_from_running(reason: Reason, standing: Standing) -> None:
    verdict = judge(reason, standing)
    assert verdict.status in TRANSITIONS[JobStatus.RUNNING]


@given(reason=st.sampled_from(ENDS), standing=standings())
def test_outcome_is_given_exactly_with_an_end(reason: Reason, standing: Standing) -> None:
    verdict = judge(reason, standing)
    assert (verdict.outcome is None) == (verdict.status == JobStatus.PENDING)


@given(reason=st.sampled_from(ENDS), standing=standings())
def test_requested_deletion_wins(reason: Reason, standing: Standing) -> None:
    verdict = judge(reason, standing)
    assert (verdict.status == JobStatus.DELETED) == (
        standing.delete_requested or reason is Reason.DELETED_BY_USER
    )


@given(reason=st.sampled_from(ENDS), standing=standings())
def test_nothing_is_retried_for_ever(reason: Reason, standing: Standing) -> None:
    """Each retry but a give-back uses up a bounded allowance."""
    verdict = judge(reason, standing)
    if verdict.status == JobStatus.PENDING and reason is not Reason.GIVEN_BACK:
        assert verdict.counts_as_retry != verdict.counts_as_node_fault
    if verdict.counts_as_retry:
        assert standing.retries < standing.maximum_retries
    if verdict.counts_as_node_fault:
        assert standing.node_faults < MAXIMUM_NODE_FAULTS


def test_node_faults_never_count_against_the_user() -> None:
    for reason, meaning in REASONS.items():
        if meaning.fault in {Fault.NODE, Fault.SITE, Fault.PLATFORM} and meaning.retry:
            assert not meaning.counted, reason


def test_non_zero_exit_is_completed_and_badly() -> None:
    """D1, S12."""
    fresh = Standing(retries=0, maximum_retries=0, node_faults=0, delete_requested=False)
    verdict = judge(Reason.EXIT_CODE, fresh)
    assert (verdict.status, verdict.outcome) == (JobStatus.COMPLETED, Outcome.BADLY)


def test_non_zero_exit_ends_well_where_that_is_asked_for_u27() -> None:
    lenient = Standing(
        retries=0, maximum_retries=3, node_faults=0, delete_requested=False, exit_code_is_well=True
    )
    verdict = judge(Reason.EXIT_CODE, lenient)
    assert (verdict.status, verdict.outcome) == (JobStatus.COMPLETED, Outcome.WELL)
    assert judge(Reason.IMAGE_PULL, lenient).status == JobStatus.PENDING


def test_terminal_statuses_lead_nowhere() -> None:
    assert frozenset(JobStatus) == TERMINAL | ACTIVE
    assert all(not TRANSITIONS[status] for status in TERMINAL)


def test_pending_to_completed_is_no_legal_path() -> None:
    assert not is_legal_path([JobStatus.PENDING, JobStatus.COMPLETED])
    assert not is_legal_path([JobStatus.RUNNING])
    assert is_legal_path([JobStatus.PENDING, JobStatus.RUNNING, JobStatus.COMPLETED])
