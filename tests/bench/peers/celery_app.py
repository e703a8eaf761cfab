"""The application of the bare Celery peer: what a team would write in an afternoon. No history, no results."""

import os
import subprocess
import time
from pathlib import Path

from celery import Celery

app = Celery("peer", broker=os.environ["BENCH_BROKER"])
app.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    worker_send_task_events=False,
)


@app.task(name="run")
def run(count: int, ends: str) -> None:
    """Run `count` trivial jobs and mark the end of each with a byte."""
    with Path(ends).open("ab", buffering=0) as file:
        for _ in range(count):
            subprocess.run(["/bin/true"], check=True)
            file.write(b".")


@app.task(name="stamp")
def stamp(argv: list[str]) -> None:
    subprocess.run(argv, check=True)


@app.task(name="ready")
def ready(path: str) -> None:
    Path(path).write_text(str(time.time()))
