"""A job as the control plane and a node would drive it, step by step: real services, real Redis."""

import itertools
from dataclasses import dataclass, field

from django.contrib.auth.models import User
from django.db import transaction

from jobs.models import Event, Job, Placement
from jobs.output import log_of, store_piece
from jobs.reports import Assignment, EndReport, LogFacts, PlacementPlan, StartReport
from jobs.states import JobStatus, Reason
from jobs.transition import apply_reports, open_attempts
from prominence.bus import announce_changes, server_redis

ACTOR = "test"
_incarnations = itertools.count(1)


@dataclass
class Writer:
    """One output stream, as its node sees it: everything written, and how much of that is stored."""

    key: str
    address: dict[str, object]
    written: bytearray = field(default_factory=bytearray)
    stored: int = 0

    def write(self, data: bytes) -> None:
        if data:
            self.written += data
            server_redis().xadd(self.key, {"d": data}, id=f"{len(self.written)}-0")

    def store(self, upto: int | None = None, *, start: int | None = None) -> None:
        """PUT a segment, from an earlier `start` than needed at will; then trim it away in Redis."""
        end = len(self.written) if upto is None else upto
        begin = self.stored if start is None else start
        store_piece(start=begin, data=bytes(self.written[begin:end]), **self.address)
        self.stored = max(self.stored, end)
        server_redis().xtrim(self.key, minid=f"{self.stored + 1}-0", approximate=False)

    def republish(self) -> None:
        """After a loss of Redis: what is not stored, once more."""
        if self.written[self.stored :]:
            data = bytes(self.written[self.stored :])
            server_redis().xadd(self.key, {"d": data}, id=f"{len(self.written)}-0")


class Scene:
    """One job of `owner`, waiting."""

    def __init__(self, owner: User) -> None:
        self.job = Job.objects.create(owner=owner, spec={}, shape="s", kind="k", image="i")
        Event.objects.create(
            job=self.job, after=JobStatus.PENDING, reason=Reason.SUBMITTED, actor=ACTOR
        )
        self.stdout: Writer
        self.stderr: Writer

    def open(self) -> "Scene":
        """The next attempt, placed on a node."""
        plan = PlacementPlan(
            incarnation=next(_incarnations), node_name="node-1", site="here",
            cpus=1, memory_mb=1, disk_mb=1,
        )  # fmt: skip
        with transaction.atomic():
            open_attempts([Assignment(job_id=self.job.pk, plan=plan)], offer_due_in_s=60)
        self.job.refresh_from_db()
        self.stdout, self.stderr = self._writer("stdout"), self._writer("stderr")
        return self

    def start(self) -> "Scene":
        self._report(StartReport(job_id=self.job.pk, attempt=self.job.attempt))
        return self

    def run(self) -> "Scene":
        return self.open().start()

    def end(
        self, reason: Reason = Reason.FINISHED, *, complete: bool = True, tails: bool = True
    ) -> None:
        """The attempt's last word, with the tails of its logs; then its streams are deleted."""
        with transaction.atomic():
            for writer in (self.stdout, self.stderr) if tails else ():
                tail = bytes(writer.written[writer.stored :])
                store_piece(start=writer.stored, data=tail, **writer.address)
            apply_reports(
                [
                    EndReport(
                        job_id=self.job.pk,
                        attempt=self.job.attempt,
                        reason=reason,
                        stdout=LogFacts(size=len(self.stdout.written), complete=complete),
                        stderr=LogFacts(size=len(self.stderr.written), complete=complete),
                    )
                ],
                actor=ACTOR,
            )
        server_redis().delete(self.stdout.key, self.stderr.key)
        self.job.refresh_from_db()

    def announce(self) -> None:
        announce_changes([self.job.pk])

    def _report(self, report: StartReport) -> None:
        with transaction.atomic():
            apply_reports([report], actor=ACTOR)
        self.job.refresh_from_db()

    def _writer(self, stream: str) -> Writer:
        number = self.job.attempt
        placement = Placement.objects.get(attempt__job=self.job, attempt__number=number)
        log = log_of(placement, job_id=self.job.pk, attempt=number, stream=stream)
        address = {"job_id": self.job.pk, "attempt": number, "rank": 0, "stream": stream}
        return Writer(key=log.redis_key, address=address)
