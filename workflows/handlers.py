"""What is done about due outbox rows of workflows: outside transactions, in batches, and harmless to do again."""

from collections.abc import Iterable, Sequence

from jobs import outbox
from jobs.models import Chunk, Outbox
from workflows import canvas
from workflows.advance import DELETE_CHUNK, SIGNAL, count_chunks, note_starts
from workflows.canvas import Member
from workflows.expand import expand_workflow
from workflows.models import Join


def register() -> None:
    """Called when the app is ready."""
    outbox.on_topic(outbox.CHUNK_STARTED, handle_started)
    outbox.on_topic(outbox.CHUNK_ENDED, handle_ended)
    outbox.on_topic(SIGNAL, handle_signals)
    outbox.on_topic(DELETE_CHUNK, handle_deletions)


def handle_started(rows: Sequence[Outbox]) -> None:
    note_starts(int(row.key) for row in rows)
    outbox.settle(outbox.CHUNK_STARTED, [row.key for row in rows])


def handle_ended(rows: Sequence[Outbox]) -> None:
    """Count chunks, workflow by workflow; what was released begins at once."""
    ids = [int(row.key) for row in rows]
    by_workflow: dict[int, list[int]] = {}
    for chunk, workflow in Chunk.objects.filter(pk__in=ids).values_list("pk", "workflow"):
        by_workflow.setdefault(workflow, []).append(chunk)
    released = [
        workflow
        for workflow, chunks in sorted(by_workflow.items())
        if count_chunks(workflow, chunks)
    ]
    outbox.settle(outbox.CHUNK_ENDED, [row.key for row in rows])
    for workflow in released:
        expand_workflow(workflow)


def handle_signals(rows: Sequence[Outbox]) -> None:
    """Send signals of open joins in their present generation; others have no effect any more.

    A row goes when its signal was sent: one that is lost on its way is made up for by `workflows.reconcile`, which
    finds every join that is ready. Waiting for the header task would cost a transaction a signal.
    """
    members = {row.key: Member.parse(row.key) for row in rows}
    joins = Join.objects.in_bulk({member.join for member in members.values()})
    current = {
        key: member
        for key, member in members.items()
        if (join := joins.get(member.join)) is not None
        and join.closed_at is None
        and join.generation == member.generation
    }
    outbox.settle(SIGNAL, members.keys() - current.keys())
    fresh = {member.join for member in current.values() if not joins[member.join].armed}
    armed = _arm(joins[pk] for pk in fresh)
    ready = {k: m for k, m in current.items() if joins[m.join].armed or m.join in armed}
    if canvas.signal(list(ready.values())):
        outbox.settle(SIGNAL, ready)


def _arm(joins: Iterable[Join]) -> set[int]:
    """Set the counters of joins that have their first signal; later generations are armed by the reconciler."""
    armed = set()
    for join in joins:
        if join.generation == 1:
            canvas.arm(join.pk, join.generation, range(join.members))
            armed.add(join.pk)
    Join.objects.filter(pk__in=armed, generation=1).update(armed=True)
    return armed


def handle_deletions(rows: Sequence[Outbox]) -> None:
    canvas.request_deletion(int(row.key) for row in rows)
