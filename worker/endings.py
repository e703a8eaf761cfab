"""From a shim's result to the word of an attempt's end: logs covered, journal written, directory gone.

Most jobs are brief and have little to say; their ends are brought together, so that one commit of the journal does
for many and the slot goes on meanwhile. What may have to wait for the server is done by the thread that ran the job.
"""

import logging
import queue
import sqlite3
import time
from collections.abc import Callable, Sequence

from worker.api import NodeApi
from worker.files import boottime, wipe
from worker.handover import Result, RunMark, Status, read_file
from worker.journal import Journal
from worker.loops import Loop
from worker.output import OutputPump, is_brief
from worker.protocol import Ended, EndReason, Event, Started, TaskEnded
from worker.running import Running, exclude, kill_job
from worker.staging.upload import upload_outputs

logger = logging.getLogger(__name__)

RETRY_S = 1.0
GATHER_S = 0.02
"""Pause after each commit, in which the next one gathers. A lone end does not wait."""

WAITING = 200
"""Ends that may wait for the journal, before slots wait too."""


class Endings(Loop):
    """Safe for many threads; one of its own for brief jobs."""

    def __init__(
        self,
        node: str,
        journal: Journal,
        pump: OutputPump,
        *,
        api: NodeApi,
        on_gone: Callable[[Running], None],
    ) -> None:
        super().__init__("endings")
        self._node = node
        self._api = api
        self._journal = journal
        self._pump = pump
        self._on_gone = on_gone
        self._brief: queue.Queue[Running] = queue.Queue(WAITING)

    def finish(self, running: Running) -> None:
        """Its shim is done with it, or gone. Returns soon if the job was brief, else when its end is recorded."""
        result = read_file(running.dir.result, Result)
        if result is None:
            result = self._clear(running)
        elif result.outputs:
            result = upload_outputs(self._api, running, result)
        elif not running.watched and is_brief(running.dir):
            self._brief.put(running)
            return
        self._conclude([(running, result)])

    def end_unstarted(self, running: Running, reason: EndReason, detail: str) -> None:
        """No process of it ever ran."""
        if running.watched:
            self._pump.finish(running.key, running.dir, ())
        self.record([(Ended(seq=0, key=running.key, reason=reason, detail=detail), ())])
        self._clean(running)

    def step(self) -> None:
        """Everything that is waiting now."""
        batch = [self._brief.get()]
        while len(batch) < WAITING and not self._brief.empty():
            batch.append(self._brief.get())
        results = [(running, read_file(running.dir.result, Result)) for running in batch]
        self._conclude([(running, result or self._clear(running)) for running, result in results])
        logger.info("%s ended, brief", ", ".join(str(running.key) for running in batch))
        time.sleep(GATHER_S)

    def record(self, ends: Sequence[tuple[Ended, Sequence[Event]]]) -> None:
        """The last words, however long the disk is full."""
        while True:
            try:
                self._journal.end_all(ends)
            except sqlite3.Error as error:
                logger.error("ends of %d jobs cannot be recorded: %s", len(ends), error)
                time.sleep(RETRY_S)
            else:
                return

    # ---- inside

    def _conclude(self, results: Sequence[tuple[Running, Result]]) -> None:
        self.record([self._words(running, result) for running, result in results])
        for running, result in results:
            if running.watched:
                logger.info("%s ended: %s", running.key, result.reason.value)
            self._clean(running)

    def _words(self, running: Running, result: Result) -> tuple[Ended, list[Event]]:
        logs = self._pump.finish(running.key, running.dir, result.dropped)
        tasks = result.tasks
        status = Status(started_at=result.started_at, tasks=tasks)
        ended = Ended(
            seq=0,
            key=running.key,
            reason=result.reason,
            detail=result.detail,
            tasks=tasks,
            wall_s=result.wall_s,
            max_memory_kb=result.max_memory_kb,
            stage_in_s=result.stage_in_s,
            stage_out_s=result.stage_out_s,
            stdout=logs[0],
            stderr=logs[1],
            ago_s=max(0.0, boottime() - result.ended_at),
        )
        return ended, news(running, status, last=len(tasks) - 1)

    def _clear(self, running: Running) -> Result:
        """The shim is gone without a result: kill what it left."""
        logger.warning("the shim of %s is gone: killing what it left", running.key)
        if read_file(running.dir.run, RunMark) is None:
            self.exclude(running)
        kill_job(self._node, running.key, running.uid)
        status = read_file(running.dir.status, Status) or Status()
        reason = running.stop.reason if running.stop else EndReason.SHIM_LOST
        return Result(
            reason=reason,
            detail="the job's supervisor on the node died" if running.stop is None else "",
            tasks=status.tasks,
            started_at=status.started_at,
            ended_at=boottime(),
        )

    def exclude(self, running: Running) -> RunMark | None:
        """Exclude its shim, however long the disk is full: until then nobody can say that it does not run."""
        while True:
            try:
                return exclude(running.dir)
            except OSError as error:
                logger.error("the shim of %s cannot be excluded: %s", running.key, error)
                time.sleep(RETRY_S)

    def _clean(self, running: Running) -> None:
        """Its logs are covered and its end is recorded: nothing here is needed any more."""
        try:
            wipe(running.dir.path)
        except OSError as error:
            logger.warning("%s not removed: %s", running.dir.path, error)
        self._on_gone(running)


def news(running: Running, status: Status, *, last: int) -> list[Event]:
    """Events for what is in `status`, up to task `last`, and has not been told."""
    events: list[Event] = []
    if status.started_at is not None and not running.started:
        ago_s = max(0.0, boottime() - status.started_at)
        events.append(Started(seq=0, key=running.key, ago_s=ago_s))
    for index in range(running.tasks_told, last):
        event = TaskEnded(seq=0, key=running.key, task=index, result=status.tasks[index])
        events.append(event)
    return events
