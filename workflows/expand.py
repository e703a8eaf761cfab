"""Making jobs of stages: chunk by chunk, just ahead of what can run.

A stage's next chunk is expanded while its owner has few jobs of its kind waiting, so that a million instances are a
few thousand rows at any time. One transaction under the workflow's row lock makes up to 1,000 jobs.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from django.db import transaction
from django.db.models import F

from jobs import outbox
from jobs.births import Instance, create_instances
from jobs.models import Chunk, Job
from jobs.states import Outcome
from prominence.bus import announce_due
from workflows import ranges
from workflows.factories import instantiate, read_factory
from workflows.models import Stage, ValuePage, Workflow
from workflows.states import StageStatus

# Waiting jobs of an owner and shape above which no more are made: some seconds of the fastest matching.
LOOK_AHEAD = 1000
BUDGET = 1000  # jobs a transaction


def expanding_workflows() -> list[int]:
    """Workflows with released stages that are not wholly expanded."""
    stages = Stage.objects.filter(status=StageStatus.RELEASED, expanded__lt=F("chunks"))
    return sorted(set(stages.values_list("workflow_id", flat=True)))


def expand_workflow(workflow_id: int) -> bool:
    """Make the next jobs of a workflow, at most BUDGET or one chunk. True when there is room for more at once."""
    with transaction.atomic():
        workflow = Workflow.objects.select_for_update().get(pk=workflow_id)
        if workflow.delete_requested_at is not None:
            return False
        expansion = _Expansion(workflow=workflow)
        return expansion.run()


@dataclass(slots=True)
class _Expansion:
    """One transaction's work."""

    workflow: Workflow
    _room: dict[str, int] = field(default_factory=dict)
    _instances: list[Instance] = field(default_factory=list)

    def run(self) -> bool:
        stages = self.workflow.stages.filter(
            status=StageStatus.RELEASED, expanded__lt=F("chunks")
        ).select_related("workflow")[:BUDGET]
        plan = list(self._plan(stages))
        chunks = Chunk.objects.bulk_create([chunk for _, chunk, _ in plan])
        for (stage, _, numbers), chunk in zip(plan, chunks, strict=True):
            self._instances += _instances(stage, chunk, numbers)
        create_instances(
            owner_id=self.workflow.owner_id,
            instances=self._instances,
            actor=self.workflow.owner.username,
        )
        empty = [chunk for chunk in chunks if not chunk.size]
        if empty:
            outbox.put(outbox.CHUNK_ENDED, {str(chunk.pk): {} for chunk in empty})
            transaction.on_commit(announce_due)
        return bool(plan)

    def _plan(self, stages: Iterable[Stage]) -> Iterator[tuple[Stage, Chunk, Sequence[int]]]:
        """The next chunk of each stage, while there is room and budget."""
        left = BUDGET
        for stage in stages:
            shape = stage.columns["shape"]
            if left <= 0:
                return
            if self._room_for(shape) <= 0:
                continue
            number = ranges.at(stage.to_run, stage.expanded)
            members = unfinished(stage.origin, number, stage.size)
            Stage.objects.filter(pk=stage.pk).update(expanded=F("expanded") + 1)
            self._room[shape] -= len(members)
            left -= len(members)
            chunk = Chunk(
                workflow=self.workflow.pk, stage=stage.pk, number=number, size=len(members)
            )
            yield stage, chunk, members

    def _room_for(self, shape: str) -> int:
        """How many jobs of this shape may be made; counts no further than it matters."""
        if shape not in self._room:
            waiting = Job.objects.filter(queued=True, owner_id=self.workflow.owner_id, shape=shape)
            self._room[shape] = LOOK_AHEAD - len(waiting.values_list("pk")[:LOOK_AHEAD])
        return self._room[shape]


def unfinished(origin: Stage | None, number: int, size: int) -> Sequence[int]:
    """Instances of a chunk that run in a rerun of `origin`: those that ended badly there or never got there.

    All of them without an origin. The origin's workflow has ended, so that the answer stays the same.
    """
    everyone = ranges.instances(number, size)
    if origin is None:
        return everyone
    if not Chunk.objects.filter(stage=origin.pk, number=number).exists():
        return unfinished(origin.origin, number, size)
    badly = Job.objects.filter(
        stage=origin.pk,
        outcome=Outcome.BADLY,
        instance__gte=everyone.start,
        instance__lt=everyone.stop,
    )
    numbers = badly.order_by("instance").values_list("instance", flat=True)
    return [number for number in numbers if number is not None]


def _instances(stage: Stage, chunk: Chunk, numbers: Sequence[int]) -> list[Instance]:
    factory = read_factory(stage.factory) if stage.factory else None
    page = None
    if stage.values_id is not None:
        page = ValuePage.objects.get(values=stage.values_id, number=chunk.number).columns
    first = chunk.number * ranges.CHUNK
    made = []
    for number in numbers:
        if page is not None:
            values = {name: column[number - first] for name, column in page.items()}
        else:
            values = factory.values(number) if factory else {}
        made.append(
            Instance(
                chunk=chunk,
                columns=stage.columns,
                number=number,
                name=stage.instance_name(number),
                spec=instantiate(stage.template, values),
            )
        )
    return made
