"""One attempt on this node, from its directory to its Ended event, as the worker sees it.

The shim does the work; here it is started, watched, stopped, and reported. A restarted worker takes
over at any point (`adopt`). Of threads that want different things for one attempt, the journal decides.
"""

import hashlib
import logging
import os
import select
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from worker.api import ApiError, Refused
from worker.files import boottime, wipe, write_atomic
from worker.handover import Maker, Orders, Result, RunMark, Status, Stop, read_file
from worker.layout import LifeDir
from worker.lines import Lines
from worker.output import OutputPump
from worker.protocol import (
    AttemptKey,
    Ended,
    EndReason,
    Enrolment,
    Event,
    Fetched,
    InputSpec,
    Started,
    TaskEnded,
)
from worker.running import Running, exclude, kill_job, open_shim
from worker.slots import Admission, Slot
from worker.spawner import Spawner

logger = logging.getLogger(__name__)

STOP_GRACE_S = 5.0
PATIENCE_S = 10.0
"""Beyond the grace, before a shim that does not end its job is killed with it."""

INPUT_TRIES = 5
RETRY_S = 1.0


class StageInFailed(Exception):
    """An input file cannot be had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What all jobs of a node have in common."""

    life: LifeDir
    images: Path
    node: str  # names control groups and processes
    uids: tuple[int, ...]  # one per slot
    puller: int
    gid: int | None  # None: each uid is its own group
    allow_shared_uid: bool
    enrolment: Enrolment


class Jobs:
    """All attempts of this node. Safe for many threads; each attempt is followed by one of them."""

    def __init__(
        self,
        place: Place,
        lines: Lines,
        *,
        pump: OutputPump,
        spawner: Spawner,
        admission: Admission,
    ) -> None:
        self._place = place
        self._journal = lines.journal
        self._api = lines.api
        self._pump = pump
        self._spawner = spawner
        self._admission = admission
        self._lock = threading.Lock()
        self._running: dict[AttemptKey, Running] = {}

    # ---- a job's life

    def run(self, item: Fetched, slot: Slot, on_long: Callable[[], None], long_s: float) -> None:
        """Start one attempt and follow it to its end; nothing if it ended before it was begun."""
        running = self._add(item.key, self._place.uids[slot.number])
        if not self._journal.begin(item.key):
            self._remove(running)
            return
        try:
            self._set_up(item, running, slot)
            self._pump.watch(item.key, running.dir, running.nudge)
            running.attach(self._spawner.spawn(running.dir.path))
            logger.info("%s started in slot %d", item.key, slot.number)
        except StageInFailed as error:
            self._end_unstarted(running, EndReason.STAGE_IN, str(error))
            return
        except (OSError, msgspec.MsgspecError) as error:
            logger.warning("%s could not be started: %s", item.key, error)
            self._fail_to_start(running, str(error))
            return
        self.follow(running, on_long, long_s)

    def adopt(self, key: AttemptKey, mark: RunMark, pidfd: int) -> Running:
        """Take over an attempt that a shim began; `pidfd` is -1 when the shim is gone."""
        running = self._add(key, mark.uid)
        running.stop = read_file(running.dir.stop, Stop)
        running.stop_at = boottime()
        running.pidfd = pidfd
        told = self._journal.adopt(key)
        running.started, running.tasks_told = told is not None, told or 0
        self._pump.watch(key, running.dir, running.nudge)
        self._pump.resume(key)
        return running

    def follow(
        self, running: Running, on_long: Callable[[], None] = lambda: None, long_s: float = 1e9
    ) -> None:
        """Until the attempt has ended and is reported. `on_long`: it has run for `long_s` seconds."""
        begin = boottime()
        told = False
        while not self._wait(running, 1.0 if told else min(1.0, long_s)):
            if not told and boottime() - begin >= long_s:
                told = True
                on_long()
            self._tell(running)
            self._press(running)
        self._finish(running)

    def stop(self, key: AttemptKey) -> None:
        """The server's word: end it, whatever state it is in. Does not wait."""
        running = self._find(key)
        try:
            self._stop(key, running)
        except sqlite3.Error as error:
            logger.error("that %s is to stop cannot be recorded: %s", key, error)
            if running is not None:
                running.ask_to_end(Stop(reason=EndReason.STOPPED, grace_s=STOP_GRACE_S))

    def _stop(self, key: AttemptKey, running: Running | None) -> None:
        if self._journal.void(key, "voided before it arrived"):
            logger.info("%s voided", key)
        elif self._journal.give_up(key, "stopped before it started"):
            logger.info("%s stopped before it started", key)
            self._admission.look_again()
        elif running is not None:
            logger.info("%s is to stop", key)
            running.ask_to_end(Stop(reason=EndReason.STOPPED, grace_s=STOP_GRACE_S))

    def stop_all(self, reason: EndReason) -> None:
        """Without grace; what did not start will not."""
        with self._lock:
            everything = list(self._running.values())
        for running in everything:
            running.ask_to_end(Stop(reason=reason, grace_s=0.0))

    def forget(self, keys: Iterable[AttemptKey]) -> None:
        """The server knows their ends: their directories, logs included, may go."""
        for key in keys:
            with suppress(OSError):
                wipe(self._place.life.job(key).path)

    # ---- starting

    def _set_up(self, item: Fetched, running: Running, slot: Slot) -> None:
        """The directory with all that the shim needs. Raises OSError and StageInFailed."""
        job_dir, uid = running.dir, running.uid
        gid = uid if self._place.gid is None else self._place.gid
        job_dir.path.mkdir(mode=0o711, exist_ok=True)
        job_dir.path.chmod(0o711)
        for path in job_dir.slot_dirs:
            path.mkdir(mode=0o700)
            os.chown(path, uid, gid)
        if item.spec.inputs:
            job_dir.inputs.mkdir(mode=0o700)
        for number, wanted in enumerate(item.spec.inputs):
            data = self._fetch_input(item.key, wanted)
            write_atomic(job_dir.inputs / str(number), data, durable=False)
        orders = self._orders(item, slot, uid, gid)
        write_atomic(job_dir.orders, msgspec.json.encode(orders), durable=False)

    def _orders(self, item: Fetched, slot: Slot, uid: int, gid: int) -> Orders:
        place = self._place
        return Orders(
            key=item.key,
            spec=item.spec,
            secret_env=item.secret_env,
            secrets=item.secrets,
            uid=uid,
            gid=gid,
            puller=place.puller,
            slot=slot.number,
            lease=str(place.life.lease),
            images=str(place.images),
            cgroup=place.node,
            mirrors=place.enrolment.mirrors,
            allow_process=place.enrolment.allow_process_runtime,
            allow_shared_uid=place.allow_shared_uid,
            log_cap_bytes=place.enrolment.log_cap_bytes,
        )

    def _fetch_input(self, key: AttemptKey, wanted: InputSpec) -> bytes:
        path = Path(wanted.filename)
        if path.is_absolute() or not path.parts or ".." in path.parts:
            raise StageInFailed(f"{wanted.filename!r} is not a name inside the scratch directory")
        for attempt in range(INPUT_TRIES):
            try:
                data = self._api.input_file(key, wanted.sha256)
            except Refused as error:
                raise StageInFailed(f"{wanted.filename}: {error}") from error
            except ApiError as error:
                logger.warning("%s: %s not fetched: %s", key, wanted.filename, error)
                time.sleep(RETRY_S * attempt)
                continue
            if hashlib.sha256(data).hexdigest() != wanted.sha256:
                raise StageInFailed(f"{wanted.filename}: what arrived has another digest")
            return data
        raise StageInFailed(f"{wanted.filename}: the server could not be reached")

    def _fail_to_start(self, running: Running, detail: str) -> None:
        """A shim may or may not exist: exclude it, or wait for it."""
        mark = self._exclude(running)
        if mark is None or mark.maker is Maker.WORKER:
            self._end_unstarted(running, EndReason.NODE_ERROR, detail)
        else:
            running.attach(open_shim(mark))
            self.follow(running)

    def _exclude(self, running: Running) -> RunMark | None:
        """Exclude its shim, however long the disk is full: until then nobody can say that it does not run."""
        while True:
            try:
                return exclude(running.dir)
            except OSError as error:
                logger.error("the shim of %s cannot be excluded: %s", running.key, error)
                time.sleep(RETRY_S)

    def _end_unstarted(self, running: Running, reason: EndReason, detail: str) -> None:
        self._pump.finish(running.key, ())
        self._record(Ended(seq=0, key=running.key, reason=reason, detail=detail))
        self._clean(running)

    # ---- following

    def _wait(self, running: Running, timeout_s: float) -> bool:
        """Until its shim has ended (True), it has news, or some time has passed."""
        if running.pidfd < 0:
            return True
        poll = select.poll()
        poll.register(running.pidfd, select.POLLIN)
        poll.register(running.wake, select.POLLIN)
        ready = dict(poll.poll(int(timeout_s * 1000)))
        if running.wake in ready:
            os.eventfd_read(running.wake)
        return running.pidfd in ready

    def _tell(self, running: Running) -> None:
        """Report what the shim's status says and the server does not know yet."""
        status = read_file(running.dir.status, Status)
        if status is None:
            return
        events = _news(running, status, last=len(status.tasks))
        if events:
            try:
                self._journal.report(running.key, events, told=len(status.tasks))
            except sqlite3.Error as error:
                logger.error("events of %s cannot be recorded: %s", running.key, error)
                return
            running.started = True
            running.tasks_told = len(status.tasks)

    def _press(self, running: Running) -> None:
        """A shim that does not obey is killed; the job with it, in `_finish`."""
        stop = running.stop
        if stop is not None and boottime() > running.stop_at + stop.grace_s + PATIENCE_S:
            logger.warning("the shim of %s does not end its job: killing both", running.key)
            running.kill_shim()

    # ---- ending

    def _finish(self, running: Running) -> None:
        result = read_file(running.dir.result, Result)
        if result is None:
            result = self._clear(running)
        logs = self._pump.finish(running.key, result.dropped)
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
            stdout=logs[0],
            stderr=logs[1],
            ago_s=max(0.0, boottime() - result.ended_at),
        )
        before = _news(running, status, last=len(tasks) - 1)
        self._record(ended, before)
        logger.info("%s ended: %s", running.key, result.reason.value)
        self._clean(running)

    def _clear(self, running: Running) -> Result:
        """The shim is gone without a result: kill what it left."""
        logger.warning("the shim of %s is gone: killing what it left", running.key)
        mark = read_file(running.dir.run, RunMark)
        if mark is None:
            self._exclude(running)
        kill_job(self._place.node, running.key, running.uid)
        status = read_file(running.dir.status, Status) or Status()
        reason = running.stop.reason if running.stop else EndReason.SHIM_LOST
        return Result(
            reason=reason,
            detail="the job's supervisor on the node died" if running.stop is None else "",
            tasks=status.tasks,
            started_at=status.started_at,
            ended_at=boottime(),
        )

    def _record(self, ended: Ended, before: Iterable[Event] = ()) -> None:
        """The last word, however long the disk is full."""
        while True:
            try:
                self._journal.end(ended, before=tuple(before))
            except sqlite3.Error as error:
                logger.error("the end of %s cannot be recorded: %s", ended.key, error)
                time.sleep(RETRY_S)
            else:
                return

    def _clean(self, running: Running) -> None:
        for path in (*running.dir.slot_dirs, running.dir.inputs, running.dir.orders):
            try:
                wipe(path)
            except OSError as error:
                logger.warning("%s not removed: %s", path, error)
        self._remove(running)

    # ---- the register

    def _add(self, key: AttemptKey, uid: int) -> Running:
        running = Running(key=key, dir=self._place.life.job(key), uid=uid)
        with self._lock:
            self._running[key] = running
        return running

    def _find(self, key: AttemptKey) -> Running | None:
        with self._lock:
            return self._running.get(key)

    def _remove(self, running: Running) -> None:
        with self._lock:
            self._running.pop(running.key, None)
        running.close()


def _news(running: Running, status: Status, *, last: int) -> list[Event]:
    """Events for what is in `status`, up to task `last`, and has not been told."""
    events: list[Event] = []
    if status.started_at is not None and not running.started:
        ago_s = max(0.0, boottime() - status.started_at)
        events.append(Started(seq=0, key=running.key, ago_s=ago_s))
    for index in range(running.tasks_told, last):
        event = TaskEnded(seq=0, key=running.key, task=index, result=status.tasks[index])
        events.append(event)
    return events
