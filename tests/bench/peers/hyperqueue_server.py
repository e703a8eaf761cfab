"""Run by the interpreter of HyperQueue's own environment: a server, a worker with two CPUs, and a client.

Reads commands from stdin as JSON lists and answers each with one JSON line. Imports nothing of the project.
"""

import contextlib
import io
import json
import os
import sys
import time
from pathlib import Path
from typing import TextIO

from hyperqueue import Client, Job, LocalCluster
from hyperqueue.cluster import WorkerConfig


def run(client: Client, count: int, stamp: list[str], mark: str) -> dict[str, float]:
    """One job of `count` tasks; the last one leaves a mark, as the client looks only once a second."""
    begun = time.time()
    job = Job()
    for _ in range(count - 1):
        job.program(["/bin/true"], stdout=None, stderr=None)
    job.program(stamp, stdout=None, stderr=None)
    submitted = client.submit(job)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        client.wait_for_jobs([submitted])
    start, end = (int(word) / 1e9 for word in Path(mark).read_text().split())
    return {"seconds": end - begun, "start": start - begun}


def main() -> None:
    room = sys.argv[1]
    answers = os.fdopen(os.dup(1), "w")  # the cluster prints what it likes
    os.dup2(2, 1)
    cluster = LocalCluster(room)
    cluster.start_worker(WorkerConfig(cores=2))
    client = Client(room)
    _answer(answers, "up")
    for line in sys.stdin:
        _answer(answers, run(client, *json.loads(line)))
    cluster.stop()


def _answer(answers: TextIO, answer: object) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
