"""Writing a workflow's rows: from a document, or from an earlier one (rerun, clone). Callers hold the transaction.

A million values are a thousand pages and no instance: rows at submission grow with stages and pages only.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from jobs.births import columns_of, store_inputs
from jobs.models import Chunk
from jobs.spec import stored_form
from workflows import ranges
from workflows.dag import parent_sets
from workflows.factories import Columns, Factory, stored_factory
from workflows.models import Join, JoinParent, Stage, ValueList, ValuePage, Workflow, WorkflowLabel
from workflows.spec import WorkflowDocument
from workflows.states import OPEN_STAGES, StageStatus

PAGES_A_QUERY = 50
SHOWN_VALUES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinPlan:
    """Positions of stages: `children` wait for exactly `parents`."""

    parents: Sequence[int]
    children: Sequence[int]


def write_document(owner_id: int, document: WorkflowDocument) -> Workflow:
    """All rows of a new workflow, and the contents of its input files."""
    values = [_write_values(factory) for factory in document.factories]
    stages = []
    for position, job in enumerate(document.jobs):
        store_inputs(owner_id, job.document)
        size = document.size_of(job)
        index = job.factory
        stages.append(
            Stage(
                position=position,
                name=job.name,
                template=stored_form(job.document),
                columns=columns_of(owner_id, job.document),
                factory=None if index is None else stored_factory(document.factories[index]),
                values=None if index is None else values[index],
                size=size,
                allowed=job.tolerance.allowed(size),
                to_run=ranges.all_chunks(size),
            )
        )
    workflow = Workflow(
        owner_id=owner_id,
        name=document.name,
        head=shortened(document.head),
        labels=dict(document.labels),
        leave_in_queue=document.leave_in_queue,
    )
    return write(workflow, stages, list(_join_plans(document)))


def _join_plans(document: WorkflowDocument) -> Iterator[JoinPlan]:
    positions = {job.name: position for position, job in enumerate(document.jobs)}
    for parents, children in parent_sets(document.dependencies).items():
        yield JoinPlan(
            parents=sorted(positions[name] for name in parents),
            children=[positions[name] for name in children],
        )


def _write_values(factory: Factory) -> ValueList | None:
    if not isinstance(factory, Columns):
        return None
    values = ValueList.objects.create(names=list(factory.lists), count=factory.count)
    last = (factory.count - 1) // ranges.CHUNK
    pages = (
        ValuePage(values=values, number=number, columns=factory.page(number))
        for number in range(last + 1)
    )
    while some := list(islice(pages, PAGES_A_QUERY)):
        ValuePage.objects.bulk_create(some)
    return values


def write(workflow: Workflow, stages: Sequence[Stage], plans: Sequence[JoinPlan]) -> Workflow:
    """Save an unsaved workflow with its unsaved stages and their joins."""
    workflow.size = sum(stage.size for stage in stages)
    for stage in stages:
        stage.workflow = workflow
        stage.chunks = ranges.count(stage.to_run)
        stage.status = StageStatus.WAITING if stage.chunks else StageStatus.ENDED
    workflow.open_stages = sum(stage.status in OPEN_STAGES for stage in stages)
    workflow.save()
    WorkflowLabel.objects.bulk_create(
        [WorkflowLabel(workflow=workflow, key=k, value=v) for k, v in workflow.labels.items()]
    )
    joins = [
        Join(workflow=workflow, members=sum(stages[p].chunks for p in plan.parents))
        for plan in plans
    ]
    Join.objects.bulk_create(joins)
    for join, plan in zip(joins, plans, strict=True):
        for child in plan.children:
            stages[child].waits_for = join
    Stage.objects.bulk_create(stages, batch_size=500)
    JoinParent.objects.bulk_create(list(_parents(stages, joins, plans)), batch_size=1000)
    return workflow


def _parents(
    stages: Sequence[Stage], joins: Sequence[Join], plans: Sequence[JoinPlan]
) -> Iterator[JoinParent]:
    for join, plan in zip(joins, plans, strict=True):
        first = 0
        for position in plan.parents:
            yield JoinParent(join=join, stage=stages[position], first=first)
            first += stages[position].chunks


def write_again(earlier: Workflow, *, adopt: bool) -> Workflow:
    """The same workflow once more; with `adopt`, what ended well in the earlier one is kept and not run again."""
    workflow = Workflow(
        owner_id=earlier.owner_id,
        name=earlier.name,
        head=earlier.head,
        labels=earlier.labels,
        leave_in_queue=earlier.leave_in_queue,
        origin=earlier if adopt else None,
    )
    olds = list(earlier.stages.order_by("position"))
    remaining = remaining_chunks(olds) if adopt else {}
    stages = [_again(old, remaining.get(old.pk) if adopt else None) for old in olds]
    return write(workflow, stages, list(_plans_of(earlier, olds)))


def _again(old: Stage, to_run: list[list[int]] | None) -> Stage:
    """to_run: None for everything."""
    adopt = to_run is not None
    return Stage(
        position=old.position,
        name=old.name,
        template=old.template,
        columns=old.columns,
        factory=old.factory,
        values_id=old.values_id,
        size=old.size,
        allowed=old.allowed,
        origin=old if adopt else None,
        adopted=old.adopted + old.well if adopt else 0,
        to_run=ranges.all_chunks(old.size) if to_run is None else to_run,
    )


def remaining_chunks(stages: Iterable[Stage]) -> dict[int, list[list[int]]]:
    """By stage of an ended workflow: the chunks that hold anything that did not end well. One query."""
    stages = list(stages)
    good: dict[int, set[int]] = {stage.pk: set() for stage in stages}
    rows = Chunk.objects.filter(stage__in=good, badly=0, counted=True)
    for stage_id, number in rows.values_list("stage", "number"):
        good[stage_id].add(number)
    return {
        stage.pk: ranges.ranges_of(
            number for number in ranges.numbers(stage.to_run) if number not in good[stage.pk]
        )
        for stage in stages
    }


def _plans_of(workflow: Workflow, stages: Sequence[Stage]) -> Iterator[JoinPlan]:
    """The joins of an earlier workflow, in positions."""
    position = {stage.pk: stage.position for stage in stages}
    parents: dict[int, list[int]] = {}
    rows = JoinParent.objects.filter(join__workflow=workflow)
    for join_id, stage_id in rows.values_list("join_id", "stage_id"):
        parents.setdefault(join_id, []).append(position[stage_id])
    children: dict[int, list[int]] = {}
    for stage in stages:
        if stage.waits_for_id is not None:
            children.setdefault(stage.waits_for_id, []).append(stage.position)
    for join_id, mine in parents.items():
        yield JoinPlan(parents=sorted(mine), children=children.get(join_id, []))


def shortened(head: Mapping[str, Any]) -> dict[str, Any]:
    """A document's head with lists of values cut after the first thousand: all values are in their pages."""
    return {key: _shortened(value) for key, value in head.items()}


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        made = {key: _shortened(item) for key, item in value.items()}
        cut = next((v for k, v in value.items() if k in {"values", "rows"} and _is_long(v)), None)
        return made | ({"count": len(cut)} if cut is not None else {})
    if isinstance(value, list):
        return (
            [_shortened(item) for item in value[:SHOWN_VALUES]]
            if _is_long(value)
            else [_shortened(item) for item in value]
        )
    return value


def _is_long(value: Any) -> bool:
    return isinstance(value, list) and len(value) > SHOWN_VALUES
