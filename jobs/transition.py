"""The one door for a job's state: every status, attempt and placement column is written here, with its event row.

Owns `apply_reports` (what nodes say), `open_attempts` (what the scheduler decides), `delete_jobs`. Each call is a
batch and one transaction: jobs are locked in id order, judged by the pure tables of `jobs.states`, and written
together with events and outbox rows. What carries a number other than the job's current attempt is stale: logged,
without effect. After commit, followers and the scheduler are told (hints only).

Lock order everywhere: incarnations (by the caller), then jobs by id.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from functools import partial

from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from jobs import chunks, hooks, outbox
from jobs.births import queued_form
from jobs.bulk import ATTEMPT_COLUMNS, JOB_COLUMNS, insert_rows, update_rows
from jobs.models import Attempt, Event, Job, Placement
from jobs.reports import (
    Assignment,
    ClaimReport,
    EndReport,
    Opened,
    PlacementPlan,
    Report,
    StartReport,
    TaskReport,
)
from jobs.shapes import grown_shape
from jobs.states import (
    ACTIVE,
    REASONS,
    TRANSITIONS,
    AttemptStatus,
    JobStatus,
    Outcome,
    Reason,
    Standing,
    judge,
)
from prominence import metrics
from prominence.bus import Queued, announce_changes, announce_due, announce_queued

logger = logging.getLogger(__name__)


def apply_reports(reports: Sequence[Report], *, actor: str) -> None:
    """Apply what one node said, in its order. Idempotent; stale reports change nothing.

    The caller has checked that each (job, attempt) is placed on that node, and holds the node's incarnation row.
    Must run inside the caller's transaction.
    """
    ledger = _Ledger({report.job_id for report in reports}, actor=actor)
    for report in reports:
        job, attempt = ledger.current(report.job_id, report.attempt)
        if job is None or attempt is None:
            logger.info("stale report on %s.%s: no effect", report.job_id, report.attempt)
            continue
        match report:
            case ClaimReport():
                ledger.claim(attempt)
            case StartReport():
                ledger.start(job, attempt, ago_s=report.ago_s)
            case TaskReport():
                ledger.note_task(attempt, report)
            case EndReport():
                ledger.end(job, attempt, report)
    ledger.save()


def open_attempts(assignments: Sequence[Assignment], *, offer_due_in_s: float) -> list[Opened]:
    """Give each job that still waits its next attempt, with placement and offer row; returns what was opened.

    A job that is no longer queued (deleted, taken) is left out. `offer_due_in_s`: when the outbox loop is to publish
    the offers if the caller did not. Must run inside the caller's transaction, which holds the incarnation rows.
    """
    plans = {assignment.job_id: assignment.plan for assignment in assignments}
    numbers = dict(
        Job.objects.select_for_update()
        .filter(
            pk__in=plans, queued=True, status=JobStatus.PENDING, delete_requested_at__isnull=True
        )
        .order_by("pk")
        .values_list("pk", "attempt")
    )
    if not numbers:
        return []
    attempts = insert_rows(
        Attempt,
        ["job", "number"],
        [(job_id, number + 1) for job_id, number in numbers.items()],
        returning=["id", "job"],
    )
    insert_rows(
        Placement,
        ["attempt", *_PLAN_COLUMNS],
        [
            [pk, *(getattr(plans[job_id], name) for name in _PLAN_COLUMNS)]
            for pk, job_id in attempts
        ],
    )
    Job.objects.filter(pk__in=numbers).update(attempt=F("attempt") + 1, queued=False)
    outbox.put(
        outbox.OFFER,
        {f"{job_id}.{number + 1}.0": {} for job_id, number in numbers.items()},
        due_in_s=offer_due_in_s,
    )
    return [_opened(job_id, number + 1, plans[job_id]) for job_id, number in numbers.items()]


def _opened(job: int, number: int, plan: PlacementPlan) -> Opened:
    return Opened(job_id=job, attempt=number, incarnation=plan.incarnation, batch=plan.batch)


def delete_jobs(job_ids: Iterable[int], *, actor: str) -> None:
    """End these jobs for their user. One that waits is deleted at once and never starts; one with a live attempt is
    deleted when its node says that no process of it is left; one that has ended stays as it is.
    """
    with transaction.atomic():
        ledger = _Ledger(set(job_ids), actor=actor)
        stops: dict[str, dict[str, object]] = {}
        for job in ledger.jobs.values():
            if job.queued:
                ledger.finish(
                    job,
                    status=JobStatus.DELETED,
                    reason=Reason.DELETED_BY_USER,
                    outcome=Outcome.BADLY,
                )
            elif job.status in ACTIVE and job.delete_requested_at is None:
                ledger.request_deletion(job)
                stops[f"{job.pk}.{job.attempt}.0"] = {}
        outbox.put(outbox.STOP, stops)
        ledger.save()
        if stops:
            transaction.on_commit(announce_due)


def fail_queued(job_ids: Iterable[int], *, reason: Reason, detail: str = "", actor: str) -> None:
    """Fail those of these jobs that still wait for a match (S99, S101)."""
    with transaction.atomic():
        ledger = _Ledger(set(job_ids), actor=actor)
        for job in ledger.jobs.values():
            if job.queued:
                ledger.finish(
                    job,
                    status=REASONS[reason].status,
                    reason=reason,
                    outcome=Outcome.BADLY,
                    detail=detail,
                )
        ledger.save()


@dataclass(slots=True)
class _Ledger:
    """A unit of work: locked jobs, their current attempts, and everything that will be written for them."""

    job_ids: set[int]
    actor: str
    jobs: dict[int, Job] = field(init=False)
    attempts: dict[int, Attempt] = field(init=False)
    now: datetime | None = field(init=False, default=None)
    _events: list[Event] = field(init=False, default_factory=list)
    _changed_jobs: set[int] = field(init=False, default_factory=set)
    _changed_attempts: set[int] = field(init=False, default_factory=set)
    _ended: dict[int, EndReport] = field(init=False, default_factory=dict)
    _claimed: set[int] = field(init=False, default_factory=set)
    _notices: dict[str, dict[str, object]] = field(init=False, default_factory=dict)
    _requeued: list[Queued] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        rows = list(
            Job.objects.select_for_update(of=("self",))
            .filter(pk__in=self.job_ids)
            .defer("spec", "labels")
            .annotate(now=Now())
            .order_by("pk")
        )
        self.jobs = {job.pk: job for job in rows}
        self.now = rows[0].now if rows else None  # type: ignore[attr-defined]
        current = Attempt.objects.filter(job__in=self.jobs, number=F("job__attempt"))
        self.attempts = {attempt.job_id: attempt for attempt in current}

    def current(self, job_id: int, number: int) -> tuple[Job | None, Attempt | None]:
        """The job and its attempt `number`, if that is the current one and has not ended."""
        job, attempt = self.jobs.get(job_id), self.attempts.get(job_id)
        if job is None or attempt is None or job.attempt != number:
            return None, None
        if attempt.status == AttemptStatus.ENDED:
            return None, None
        return job, attempt

    def claim(self, attempt: Attempt) -> None:
        """The offer had its effect, whichever later word tells so first."""
        if attempt.status == AttemptStatus.ASSIGNED:
            attempt.status = AttemptStatus.CLAIMED
            self._claimed.add(attempt.job_id)
            self._changed_attempts.add(attempt.job_id)

    def start(self, job: Job, attempt: Attempt, *, ago_s: float) -> None:
        self.claim(attempt)
        if attempt.status == AttemptStatus.RUNNING:
            return
        attempt.status = AttemptStatus.RUNNING
        attempt.started_at = self._at(ago_s, no_earlier=attempt.created_at)
        self._changed_attempts.add(job.pk)
        if self._move(job, JobStatus.RUNNING, Reason.STARTED):
            job.started_at = attempt.started_at
            job.queue_deadline = None
            job.ended_at = None

    def note_task(self, attempt: Attempt, report: TaskReport) -> None:
        if len(attempt.tasks) == report.index:
            attempt.tasks = [*attempt.tasks, dict(report.result)]
            self._changed_attempts.add(attempt.job_id)

    def end(self, job: Job, attempt: Attempt, report: EndReport) -> None:
        """Close the attempt and let the verdict say what becomes of the job."""
        self.claim(attempt)
        verdict = judge(report.reason, _standing(job))
        if verdict.status == JobStatus.COMPLETED and job.status == JobStatus.PENDING:
            self.start(job, attempt, ago_s=report.ago_s)  # its start was not heard apart
        attempt.status = AttemptStatus.ENDED
        attempt.reason = report.reason
        attempt.detail = report.detail
        attempt.tasks = [dict(task) for task in report.tasks] or attempt.tasks
        attempt.max_memory_kb = report.max_memory_kb
        attempt.stage_in_s, attempt.stage_out_s = report.stage_in_s, report.stage_out_s
        attempt.ended_at = self._at(
            report.ago_s, no_earlier=attempt.started_at or attempt.created_at
        )
        self._changed_attempts.add(job.pk)
        self._ended[attempt.pk] = report
        job.retries += verdict.counts_as_retry
        job.node_faults += verdict.counts_as_node_fault
        if verdict.with_more_memory:
            job.shape = grown_shape(job.shape, job.retry_memory_factor or 1.0)
        if verdict.status == JobStatus.PENDING:
            self._requeue(job, verdict.reason, report.detail)
        else:
            self.finish(
                job,
                status=verdict.status,
                reason=verdict.reason,
                outcome=verdict.outcome,
                detail=report.detail,
                at=attempt.ended_at,
            )

    def finish(  # noqa: PLR0913 one call names every column of an end
        self,
        job: Job,
        *,
        status: JobStatus,
        reason: Reason,
        outcome: Outcome | None,
        detail: str = "",
        at: datetime | None = None,
    ) -> None:
        """The one terminal change of a job."""
        if not self._move(job, status, reason, detail):
            return
        self._notices |= {f"{job.pk}.{index}": {} for index in range(job.notifications)}
        job.outcome = outcome or ""
        job.queued = False
        job.ended_at = at or self.now

    def request_deletion(self, job: Job) -> None:
        job.delete_requested_at = self.now
        self._changed_jobs.add(job.pk)

    def _requeue(self, job: Job, reason: Reason, detail: str) -> None:
        """Back to the queue: visible as running -> pending if it had started, silent if not."""
        if job.status == JobStatus.RUNNING:
            self._move(job, JobStatus.PENDING, reason, detail)
        job.queued = True
        job.queued_at = self._at(0.0, no_earlier=job.queued_at)
        job.started_at = None
        job.reason, job.detail = reason, detail[:2000]
        self._changed_jobs.add(job.pk)
        self._requeued.append(queued_form(job))

    def _move(self, job: Job, to: JobStatus, reason: Reason, detail: str = "") -> bool:
        """Change the status if that is legal, with its event; False leaves everything as it was."""
        if to not in TRANSITIONS[JobStatus(job.status)]:
            logger.info("job %s: %s -> %s is not legal: no effect", job.pk, job.status, to)
            return False
        self._events.append(
            Event(
                job=job,
                attempt=job.attempt,
                before=job.status,
                after=to,
                reason=reason,
                detail=detail[:2000],
                actor=self.actor,
            )
        )
        job.status = to
        job.reason = "" if to == JobStatus.RUNNING else reason
        job.detail = detail[:2000]
        self._changed_jobs.add(job.pk)
        return True

    def _at(self, ago_s: float, *, no_earlier: datetime) -> datetime:
        """A moment `ago_s` before now, by the database's clock; a node's measure cannot reach before the cause."""
        assert self.now is not None  # noqa: S101 set with the jobs this is called for
        return max(self.now - timedelta(seconds=max(0.0, ago_s)), no_earlier)

    def save(self) -> None:
        """Write everything, and tell followers and the scheduler after commit."""
        self._settle_outbox()
        placements = self._end_placements()
        if self._changed_attempts:
            attempts = [self.attempts[job_id] for job_id in self._changed_attempts]
            update_rows(attempts, ATTEMPT_COLUMNS)
        if self._changed_jobs:
            jobs = [self.jobs[job_id] for job_id in sorted(self._changed_jobs)]
            update_rows(jobs, JOB_COLUMNS)
        insert_rows(
            Event,
            _EVENT_COLUMNS,
            [[getattr(event, name) for name in _EVENT_COLUMNS] for event in self._events],
        )
        chunks.count(self._events)
        if self._notices:
            outbox.put(outbox.NOTIFY, self._notices)
        hooks.placements_ended(placements)
        reasons = [report.reason for report in self._ended.values()]
        transaction.on_commit(partial(metrics.count_each, "attempts_ended", reasons))
        transaction.on_commit(partial(announce_changes, sorted(self._changed_jobs)))
        if self._requeued or placements:
            transaction.on_commit(partial(announce_queued, list(self._requeued)))

    def _settle_outbox(self) -> None:
        if self._claimed:
            outbox.settle(outbox.OFFER, [self._key(job_id) for job_id in self._claimed])
        stopped = [
            attempt.job_id
            for attempt in self.attempts.values()
            if attempt.pk in self._ended and self.jobs[attempt.job_id].delete_requested_at
        ]
        if stopped:
            outbox.settle(outbox.STOP, [self._key(job_id) for job_id in stopped])

    def _key(self, job_id: int) -> str:
        """The outbox key of a job's current attempt."""
        return f"{job_id}.{self.attempts[job_id].number}.0"

    def _end_placements(self) -> list[Placement]:
        """Mark the placements of ended attempts, with what is known of their logs; returns those that were live."""
        if not self._ended:
            return []
        placements = list(Placement.objects.filter(attempt__in=self._ended, live=True))
        for placement in placements:
            report = self._ended[placement.attempt_id]
            placement.live = False
            if report.stdout is not None:
                placement.stdout_size = report.stdout.size
                placement.stdout_complete = report.stdout.complete
            if report.stderr is not None:
                placement.stderr_size = report.stderr.size
                placement.stderr_complete = report.stderr.complete
        update_rows(
            placements,
            ["live", "stdout_size", "stdout_complete", "stderr_size", "stderr_complete"],
        )
        return placements


_PLAN_COLUMNS = [column.name for column in fields(PlacementPlan)]
_EVENT_COLUMNS = ["job_id", "attempt", "before", "after", "reason", "detail", "actor"]


def _standing(job: Job) -> Standing:
    return Standing(
        retries=job.retries,
        maximum_retries=job.maximum_retries,
        node_faults=job.node_faults,
        delete_requested=job.delete_requested_at is not None,
        exit_code_is_well=job.exit_code_is_well,
        may_grow=job.retry_memory_factor is not None,
    )
