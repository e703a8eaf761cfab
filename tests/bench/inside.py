"""Measures from inside a server process of the system under test, with its settings; answers in JSON.

wake PORT TOKEN COUNT CPUS   seconds of wall and CPU time that a scheduler's step takes after one new job
tokens USER…                 an API token of each user
"""

import importlib
import json
import sys
import threading
import time

import django

from tests.bench.calls import Caller
from tests.bench.rig import job_document

PAUSE_S = 0.15
"""Between two jobs: the one before has ended, and the node is idle."""


def wake(port: str, token: str, count: str, cpus: str) -> dict[str, list[float]]:
    scheduler = importlib.import_module("clouds.scheduler").Scheduler()
    caller = Caller(int(port), token)
    began = time.perf_counter()
    scheduler.start()
    start_s = time.perf_counter() - began
    scheduler.step()
    resources = {"cpus": int(cpus), "memory": 1, "disk": 1, "nodes": 1}
    document = job_document("/bin/true", resources=resources)
    wall, cpu = [], []
    for _ in range(int(count)):
        threading.Event().wait(PAUSE_S)
        scheduler.wait(0.0)
        scheduler.step()  # whatever else there was
        caller.submit(document)
        scheduler.wait(5.0)
        clock, processor = time.perf_counter(), time.thread_time()
        scheduler.step()
        cpu.append(time.thread_time() - processor)
        wall.append(time.perf_counter() - clock)
    return {"wall": wall, "cpu": cpu, "start": [start_s]}


def tokens(*users: str) -> list[str]:
    issue = importlib.import_module("prominence.tokens").issue_token
    return [issue(user, valid_s=3600.0) for user in users]


if __name__ == "__main__":
    django.setup()
    words = {"wake": wake, "tokens": tokens}
    sys.stdout.write(json.dumps(words[sys.argv[1]](*sys.argv[2:])))
