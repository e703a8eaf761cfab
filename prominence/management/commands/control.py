"""`manage.py control`: the control plane's loops as threads of one process."""

import argparse
import gc
import os
import signal
import threading
import traceback
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from clouds.ingest_loop import Ingest
from clouds.loops import Loop, Step
from clouds.outbox_loop import OutboxLoop
from clouds.reconciler import Reconciler
from clouds.scheduler import Scheduler
from jobs.notifier import Notifier
from workflows.loop import Workflows

PARTS: dict[str, type[Step]] = {
    part.name: part for part in (Scheduler, Ingest, OutboxLoop, Reconciler, Workflows, Notifier)
}


class Command(BaseCommand):
    help = "Run the control plane: scheduler, ingest, outbox, reconciler, workflows, notifier."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--only", help=f"run some parts only, separated by commas: {','.join(PARTS)}"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        names = options["only"].split(",") if options["only"] else list(PARTS)
        unknown = sorted(set(names) - set(PARTS))
        if unknown:
            raise CommandError(f"unknown parts {', '.join(unknown)}; known: {', '.join(PARTS)}")
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        threads = [
            threading.Thread(target=_run, args=(Loop(PARTS[name](), stop),), name=name)
            for name in names
        ]
        gc.collect()
        gc.freeze()  # what is loaded by now stays; looking through it again and again took a tenth of the time
        for thread in threads:
            thread.start()
        self.stdout.write(f"control plane: {', '.join(names)}")
        for thread in threads:
            thread.join()


def _run(loop: Loop) -> None:
    """A part that fails takes the process with it: the supervisor starts all of them afresh."""
    try:
        loop.run()
    except BaseException:  # noqa: BLE001 the edge of the process
        traceback.print_exc()
        os._exit(1)
