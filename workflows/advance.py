"""How a workflow moves on: chunks are counted, joins released, stages released, skipped and ended, the end derived.

Every step is one transaction under the workflow's row lock, and right to do again: what it finds done, it leaves.
Lock order: workflow, then chunks; jobs (`jobs.transition`) are never waited for while holding a workflow.
What these steps cause (signals, expansion) is returned or put into the outbox, never done inside.
"""

import logging
from collections.abc import Iterable, Sequence

from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from jobs import outbox
from jobs.bulk import update_rows
from jobs.models import Chunk
from prominence.bus import announce_due
from workflows import ranges
from workflows.canvas import Member
from workflows.models import Join, JoinParent, Stage, Workflow
from workflows.states import TERMINAL, Facts, StageStatus, WorkflowStatus, derive

logger = logging.getLogger(__name__)

SIGNAL = "signal"  # key: join.generation.member  effect: it was sent (see handlers)
DELETE_CHUNK = "deleteChunk"  # key: chunk        effect: the deletion of its jobs was requested


def note_starts(chunk_ids: Iterable[int]) -> None:
    """A job of these chunks has started: their workflows are running."""
    for chunk in Chunk.objects.filter(pk__in=list(chunk_ids), started_at__isnull=False):
        Workflow.objects.filter(pk=chunk.workflow, status=WorkflowStatus.PENDING).update(
            status=WorkflowStatus.RUNNING, started_at=chunk.started_at
        )


def count_chunks(workflow_id: int, chunk_ids: Iterable[int]) -> bool:
    """Add ended chunks to their stages, and see what follows. True when stages were released.

    For joins of several chunks a signal is due for each; a join of one chunk is released here.
    """
    with transaction.atomic():
        mover = _Mover(workflow_id)
        rows = Chunk.objects.filter(
            pk__in=list(chunk_ids),
            workflow=workflow_id,
            counted=False,
            size__lte=F("well") + F("badly"),
        )
        chunks = list(rows.order_by("pk"))
        stages = mover.stages({chunk.stage for chunk in chunks})
        for chunk in chunks:
            stages[chunk.stage].well += chunk.well
            stages[chunk.stage].badly += chunk.badly
            chunk.counted = True
        update_rows(chunks, ["counted"])
        mover.signal(chunks)
        mover.end([stage for stage in stages.values() if _is_over(stage)])
        mover.save()
        return mover.released


def release_join(join_id: int) -> bool:
    """Release the stages that wait for this join, if all its parents have really ended. True when it did just now."""
    workflow_id = Join.objects.filter(pk=join_id).values_list("workflow_id", flat=True).first()
    if workflow_id is None:
        return False
    with transaction.atomic():
        mover = _Mover(workflow_id)
        mover.look_at([join_id])
        mover.save()
        return mover.released


def begin(workflow_id: int) -> None:
    """Release what waits for nothing: the first step of a new workflow. In the caller's transaction."""
    mover = _Mover(workflow_id)
    mover.release(list(mover.workflow.stages.filter(status=StageStatus.WAITING, waits_for=None)))
    mover.look_at(mover.workflow.joins.values_list("pk", flat=True))
    mover.save()


def stop(workflow_id: int) -> None:
    """Let nothing of the workflow start any more, and have the jobs it has deleted, chunk by chunk."""
    with transaction.atomic():
        workflow = Workflow.objects.select_for_update().get(pk=workflow_id)
        if workflow.status in TERMINAL or workflow.delete_requested_at is not None:
            return
        Workflow.objects.filter(pk=workflow_id).update(delete_requested_at=Now())
        workflow.joins.filter(closed_at__isnull=True).update(closed_at=Now())
        workflow.stages.filter(status=StageStatus.WAITING).update(status=StageStatus.SKIPPED)
        workflow.stages.filter(status=StageStatus.RELEASED).update(chunks=F("expanded"))
        alive = Chunk.objects.filter(workflow=workflow_id, counted=False)
        outbox.put(DELETE_CHUNK, {str(pk): {} for pk in alive.values_list("pk", flat=True)})
        mover = _Mover(workflow_id)
        mover.save()
        transaction.on_commit(announce_due)


def _is_over(stage: Stage) -> bool:
    return (
        stage.status == StageStatus.RELEASED
        and stage.adopted + stage.well + stage.badly >= stage.size
    )


class _Mover:
    """A unit of work on one locked workflow."""

    def __init__(self, workflow_id: int) -> None:
        self.workflow = (
            Workflow.objects.select_for_update(of=("self",))
            .annotate(now=Now())
            .defer("head", "labels")
            .get(pk=workflow_id)
        )
        self.released = False
        self._stages: dict[int, Stage] = {}
        self._changed: set[int] = set()
        self._joins: set[int] = set()

    def look_at(self, joins: Iterable[int]) -> None:
        """These joins are decided, if they can be, before the work is saved."""
        self._joins |= set(joins)

    def stages(self, ids: Iterable[int]) -> dict[int, Stage]:
        """Stages that counts were added to."""
        found = self._load(ids)
        self._changed |= found.keys()
        return found

    def _load(self, ids: Iterable[int]) -> dict[int, Stage]:
        wanted = set(ids)
        missing = wanted - self._stages.keys()
        if missing:
            rows = Stage.objects.filter(pk__in=missing).defer("template", "columns", "factory")
            self._stages |= {stage.pk: stage for stage in rows}
        return {pk: self._stages[pk] for pk in wanted}

    def signal(self, chunks: Sequence[Chunk]) -> None:
        """A signal is due for each of these chunks and each open join of several members that it belongs to."""
        rows = JoinParent.objects.filter(
            stage__in={chunk.stage for chunk in chunks}, join__closed_at__isnull=True
        ).select_related("join")
        parents: dict[int, list[JoinParent]] = {}
        for row in rows:
            if row.join.members > 1:
                parents.setdefault(row.stage_id, []).append(row)
        due: dict[str, dict[str, object]] = {}
        for chunk in chunks:
            for row in parents.get(chunk.stage, ()):
                position = ranges.position(self._stages[chunk.stage].to_run, chunk.number)
                member = Member(
                    join=row.join_id, generation=row.join.generation, index=row.first + position
                )
                due[str(member)] = {}
        if due:
            outbox.put(SIGNAL, due)
            transaction.on_commit(announce_due)

    def end(self, stages: Sequence[Stage]) -> None:
        """These have ended. Joins that cannot or need not wait for more are decided at once."""
        for stage in stages:
            self._set(stage, StageStatus.ENDED)
        broken = [stage.pk for stage in stages if stage.broken]
        parents = JoinParent.objects.filter(stage__in=[stage.pk for stage in stages])
        if stages:
            self.look_at(parents.filter(join__members__lte=1).values_list("join_id", flat=True))
        if broken:
            self.look_at(parents.filter(stage__in=broken).values_list("join_id", flat=True))

    def _decide(self, joins: Sequence[Join]) -> None:
        """Close those whose parents have all ended, or of which one keeps the children from running."""
        parents: dict[int, list[int]] = {}
        rows = JoinParent.objects.filter(join__in=[join.pk for join in joins])
        for join_id, stage_id in rows.values_list("join_id", "stage_id"):
            parents.setdefault(join_id, []).append(stage_id)
        self._load(stage for ids in parents.values() for stage in ids)
        for join in joins:
            mine = [self._stages[pk] for pk in parents[join.pk]]
            if any(_is_closed(stage) and stage.broken for stage in mine):
                self._skip(self._close(join))
            elif all(stage.status == StageStatus.ENDED for stage in mine):
                self.release(self._close(join))

    def _close(self, join: Join) -> list[Stage]:
        """The children, which the join has decided."""
        Join.objects.filter(pk=join.pk).update(closed_at=self.workflow.now)
        return list(join.children.defer("template", "columns", "factory"))

    def release(self, stages: Sequence[Stage]) -> None:
        """Their instances may run; one that has none left to run has ended."""
        for stage in stages:
            self._stages[stage.pk] = stage
            if stage.status == StageStatus.WAITING:
                stage.released_at = self.workflow.now
                self._set(stage, StageStatus.RELEASED)
                self.released = True
        self.end([stage for stage in stages if _is_over(stage)])

    def _skip(self, stages: Sequence[Stage]) -> None:
        """They will never run, nor will what waits for them."""
        fresh = [stage for stage in stages if stage.status == StageStatus.WAITING]
        for stage in fresh:
            self._stages[stage.pk] = stage
            self._set(stage, StageStatus.SKIPPED)
        joins = JoinParent.objects.filter(stage__in=[stage.pk for stage in fresh])
        self.look_at(joins.values_list("join_id", flat=True))

    def _set(self, stage: Stage, status: StageStatus) -> None:
        stage.status = status
        self._changed.add(stage.pk)
        if status in {StageStatus.ENDED, StageStatus.SKIPPED}:
            self.workflow.open_stages -= 1
            self.workflow.broken |= stage.broken

    def save(self) -> None:
        """Decide the joins, write stages and what the workflow's status has become."""
        while self._joins:
            joins = Join.objects.filter(pk__in=self._joins, closed_at__isnull=True)
            self._joins = set()
            self._decide(list(joins))
        changed = [self._stages[pk] for pk in sorted(self._changed)]
        update_rows(changed, ["status", "well", "badly", "released_at"])
        workflow = self.workflow
        status = derive(self._facts())
        if status in TERMINAL and workflow.status not in TERMINAL:
            workflow.ended_at = workflow.now
        workflow.status = status
        workflow.save(update_fields=["status", "open_stages", "broken", "ended_at"])

    def _facts(self) -> Facts:
        workflow = self.workflow
        deleting = workflow.delete_requested_at is not None
        return Facts(
            deleting=deleting,
            started=workflow.started_at is not None,
            alive=deleting and Chunk.objects.filter(workflow=workflow.pk, counted=False).exists(),
            unfinished=workflow.open_stages > 0,
            broken=workflow.broken,
        )


def _is_closed(stage: Stage) -> bool:
    return stage.status in {StageStatus.ENDED, StageStatus.SKIPPED}
