"""Rules of the protocol switched off in the real server, to see that the harness notices.

`python -m tests.chaos --mutant NAME` must end with violations. Nothing of it is in the product: a server process
is started through this module, which replaces a function before `manage.py` runs. The model has a mutant for every
rule (docs/reliability.md); here are those that the server alone keeps, and that a schedule of two minutes can meet.
"""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import django
from django.core.management import execute_from_command_line


def no_fence_wait() -> None:
    """What a fenced node ran is offered anew at once."""
    lifecycle: Any = importlib.import_module("clouds.lifecycle")
    states: Any = importlib.import_module("clouds.states")
    bury = lifecycle.bury_fenced

    def bury_at_once() -> list[int]:
        fenced = lifecycle.Incarnation.objects.filter(status=states.IncarnationStatus.FENCED)
        fenced.update(fenced_at=datetime.fromtimestamp(0, UTC))
        buried: list[int] = bury()
        return buried

    lifecycle.bury_fenced = bury_at_once


def acknowledge_last() -> None:
    """The last number that was heard is acknowledged, with or without those before it."""
    ingest: Any = importlib.import_module("clouds.ingest")

    def after(events: Sequence[Any], acknowledged: int) -> list[Any]:
        return [event for event in events if event.seq > acknowledged]

    ingest._in_sequence = after


def forget_published() -> None:
    """Rows of the outbox go when they are published."""
    outbox: Any = importlib.import_module("jobs.outbox")
    loop: Any = importlib.import_module("clouds.outbox_loop")

    def forget(rows: Sequence[Any], **_: object) -> None:
        outbox.Outbox.objects.filter(pk__in=[row.pk for row in rows]).delete()

    loop.outbox.postpone = forget


MUTANTS: dict[str, tuple[Callable[[], None], frozenset[str]]] = {
    "no-fence-wait": (no_fence_wait, frozenset({"node frozen past its lease"})),
    "acknowledge-last": (acknowledge_last, frozenset({"events lost", "events reordered"})),
    "forget-published": (forget_published, frozenset({"offers lost", "keys dropped", "FLUSHALL"})),
}
"""What is replaced, and the kinds of faults that must then break a rule."""


def main() -> None:
    """NAME, then the words of a `manage.py` command."""
    name, *words = sys.argv[1:]
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "prominence.settings")
    django.setup()
    MUTANTS[name][0]()
    execute_from_command_line(["manage.py", *words])


if __name__ == "__main__":
    main()
